"""What a dead letter says of its message's death: the header ``Tieline-Dead``, read within bounds."""

from typing import Any

from tieline.records.reading import MOST_ATTEMPTS, read_integer, read_name, read_object, read_text, read_time, read_ttl

__all__ = ["read_dead_letter"]

_MOST_TRIES = 1_000  # attempts, and edits, that are read of one letter: the newest
_LONGEST = 64 * 1024  # characters; a stream takes no more in all headers together

_TEXTS = ("cause", "reason", "error", "traceback", "agent", "version", "subject", "origin", "by", "payload", "end")


def read_dead_letter(header: str | None) -> dict[str, Any] | None:
    """What ``header`` tells, each known field of its type and within bounds; None where it is not a JSON object.

    A field that cannot be read is left out, so a reader finds it missing. Fields of other writers stay as they are.
    """
    letter = None if header is None else read_object(header)
    if letter is None:
        return None
    told = _entry(letter)
    for name in ("attempts", "edits"):
        if name in letter:
            entries = letter[name] if isinstance(letter[name], list) else []
            told[name] = [_entry(entry) for entry in entries[-_MOST_TRIES:] if isinstance(entry, dict)]
    return told


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """A letter, or one of its attempts or edits: they share the names and types of their fields."""
    told = dict(entry)
    checked = {
        "at": read_time(entry.get("at")),
        "attempt": read_integer(entry.get("attempt"), most=MOST_ATTEMPTS),
        "n": read_integer(entry.get("n"), most=MOST_ATTEMPTS),
        "seq": read_integer(entry.get("seq"), least=1),
        "stream": read_name(entry.get("stream")),
        "ttl": entry.get("ttl") if read_ttl(entry.get("ttl")) is not None else None,
        "changed": [read_text(name) for name in changed] if isinstance(changed := entry.get("changed"), list) else None,
    }
    checked |= {name: _text(entry.get(name)) for name in _TEXTS}
    for name, value in checked.items():
        if name in told and value is None:
            del told[name]
        elif name in told:
            told[name] = value
    return told


def _text(value: object) -> str | None:
    return read_text(value, _LONGEST) if isinstance(value, str) else None
