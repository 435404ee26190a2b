"""Sets of sequences as ranges: `Ranges` in memory, `pack` and `unpack` for records.

Sequences of one stream come in long runs, so that a range is worth thousands of single numbers.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from tieline.records.reading import LARGEST_INTEGER, read_integer

__all__ = ["Ranges", "pack", "pack_ranges", "unpack", "unpack_ranges"]

_MOST_RANGES = 4_000_000  # in one packed list
_MOST_SEQUENCES = 20_000_000  # that `unpack` writes out one by one


class Ranges:
    """A set of sequences, kept as inclusive ranges that neither overlap nor touch."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._count = 0
        for first, last in ranges:
            self.add(first, last)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, seq: int) -> bool:
        at = bisect_right(self._firsts, seq) - 1
        return at >= 0 and seq <= self._lasts[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def add(self, first: int, last: int | None = None) -> None:
        """Add every sequence from ``first`` to ``last``; one sequence where ``last`` is left out."""
        last = first if last is None else last
        start = bisect_left(self._lasts, first - 1)
        end = bisect_right(self._firsts, last + 1)
        if start < end:
            first, last = min(first, self._firsts[start]), max(last, self._lasts[end - 1])
            self._count -= sum(self._lasts[at] - self._firsts[at] + 1 for at in range(start, end))
        self._firsts[start:end] = [first]
        self._lasts[start:end] = [last]
        self._count += last - first + 1

    def discard(self, first: int, last: int | None = None) -> int:
        """Remove the sequences from ``first`` to ``last``; returns how many of them were in the set."""
        last = first if last is None else last
        start, end = bisect_left(self._lasts, first), bisect_right(self._firsts, last)
        if start >= end:
            return 0
        kept = [(self._firsts[start], first - 1), (last + 1, self._lasts[end - 1])]
        kept = [(low, high) for low, high in kept if low <= high]
        before = sum(self._lasts[at] - self._firsts[at] + 1 for at in range(start, end))
        self._firsts[start:end] = [low for low, _ in kept]
        self._lasts[start:end] = [high for _, high in kept]
        removed = before - sum(high - low + 1 for low, high in kept)
        self._count -= removed
        return removed


def pack_ranges(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Sorted, inclusive ranges as ``[gap, length, gap, length, …]``: small numbers that compress well."""
    packed: list[int] = []
    end = 0
    for first, last in ranges:
        packed += (first - end, last - first)
        end = last
    return packed


def pack(sequences: Iterable[int]) -> list[int]:
    """A set of sequences, packed like `pack_ranges`."""
    packed: list[int] = []
    end = first = last = 0
    for seq in sorted(sequences):
        if last and seq <= last + 1:
            last = seq
            continue
        if last:
            packed += (first - end, last - first)
            end = last
        first = last = seq
    return [*packed, first - end, last - first] if last else packed


def unpack_ranges(packed: object) -> list[tuple[int, int]] | None:
    """The ranges that `pack_ranges` packed; None for anything else."""
    if not isinstance(packed, list) or len(packed) % 2 or len(packed) > 2 * _MOST_RANGES:
        return None
    found: list[tuple[int, int]] = []
    end = 0
    for at in range(0, len(packed), 2):
        gap, length = read_integer(packed[at], least=1), read_integer(packed[at + 1])
        if gap is None or length is None or end + gap + length > LARGEST_INTEGER:
            return None
        found.append((end + gap, end + gap + length))
        end += gap + length
    return found


def unpack(packed: object) -> list[int] | None:
    """The sequences that `pack` packed, in order; None for anything else, and for too many."""
    ranges = unpack_ranges(packed)
    if ranges is None or sum(last - first + 1 for first, last in ranges) > _MOST_SEQUENCES:
        return None
    return [seq for first, last in ranges for seq in range(first, last + 1)]
