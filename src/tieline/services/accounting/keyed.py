"""Sequences by what is known of them, as memory and as records have them."""

from collections.abc import Iterator, Mapping

__all__ = ["by_sequence", "by_value"]


def by_value[V: str](values: Mapping[int, V]) -> dict[str, list[int]]:
    """The sequences of each value."""
    found: dict[str, list[int]] = {}
    for seq, value in values.items():
        found.setdefault(value, []).append(seq)
    return {value: sorted(seqs) for value, seqs in sorted(found.items())}


def by_sequence(values: Mapping[str, list[int]]) -> Iterator[tuple[int, str]]:
    """Each sequence with its value: the reverse of `by_value`."""
    return ((seq, value) for value, seqs in values.items() for seq in seqs)
