"""Facts as they are stored in CALL_AUDIT, read within bounds. `tieline.facts` has what each of them means."""

from collections.abc import Callable
from typing import Any

from tieline.records.reading import LARGEST_INTEGER, MOST_ATTEMPTS, read_integer, read_number, read_object, read_time

__all__ = ["is_fact", "read_fact"]

_LONGEST_NAME = 64 * 1024  # characters of a text that is not shown to people


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _LONGEST_NAME else None


def _count(value: object) -> int | None:
    return read_integer(value, most=LARGEST_INTEGER)


def _amount(value: object) -> float | None:
    return read_number(value, least=0.0)


def _attempt(value: object) -> int | None:
    return read_integer(value, most=MOST_ATTEMPTS)


# Fields that any fact may have. `None` is allowed where a fact says that there is none: expires, cost.
_READERS: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(("fact", "by", "subject", "stream", "origin", "outcome", "reason", "callId", "msgId"), _text),
    **dict.fromkeys(("cause", "step", "kind", "name", "model", "provider", "state", "tool", "agent"), _text),
    **dict.fromkeys(("seq", "letter", "replacedBy", "deaths", "failures", "tries", "count", "total"), _count),
    **dict.fromkeys(("inputTokens", "outputTokens", "cachedTokens"), _count),
    **dict.fromkeys(("took", "cost"), _amount),
    **dict.fromkeys(("at", "expires"), read_time),
    "attempt": _attempt,
}


def read_fact(payload: bytes) -> dict[str, Any] | None:
    """The fact in ``payload``; None for what is not one, and for one with a field of the wrong type or out of bounds.

    A fact is read as a whole or not at all: half of one would be counted as something that did not happen.
    """
    fact = read_object(payload)
    return fact if fact is not None and is_fact(fact) else None


def is_fact(value: dict[str, Any]) -> bool:
    """Whether each known field of ``value`` is of its type and within bounds, and it says which fact it is."""
    for name, inner in value.items():
        read = _READERS.get(name)
        if read is not None and inner is not None and read(inner) is None:
            return False
    return value.get("fact") is not None
