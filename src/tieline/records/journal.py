"""Records of the journal (stream STEP), whatever their kind, read within bounds."""

from typing import Any

from tieline.records.reading import MOST_ATTEMPTS, read_integer, read_object, read_text, read_time

__all__ = ["UNREADABLE", "read_record"]

UNREADABLE = {"ok": False, "cause": "invalid", "reason": "not a JSON object that can be read"}
"""How a record that cannot be read counts: as a step that failed, so that nobody waits for it."""

_MOST_IDS = 100_000  # ids that one run published
_LONGEST = 1024 * 1024  # characters
_TEXTS = ("cause", "reason", "error", "by", "version", "asked", "tool", "end", "question", "callId")


def read_record(payload: bytes) -> dict[str, Any] | None:
    """The record in ``payload``, each known field of its type and within bounds; None where it is not a JSON object.

    A field that cannot be read is left out, so a reader finds it missing. The ``value`` is the writer's own.
    """
    record = read_object(payload)
    if record is None:
        return None
    checked: dict[str, Any] = {
        "at": read_time(record.get("at")),
        "until": read_time(record.get("until")),
        "n": read_integer(record.get("n"), most=MOST_ATTEMPTS),
        "ids": _ids(record.get("ids")),
    }
    checked |= {name: _text(record.get(name)) for name in _TEXTS}
    return {name: checked.get(name, value) for name, value in record.items() if checked.get(name, True) is not None}


def _ids(value: object) -> list[str] | None:
    return [one for one in value[:_MOST_IDS] if isinstance(one, str)] if isinstance(value, list) else None


def _text(value: object) -> str | None:
    return read_text(value, _LONGEST) if isinstance(value, str) else None
