"""How the pod reads the fields of its messages: any client may leave out a field or send a wrong type.

A field annotated with a `Reads` is optional. A value that cannot be read becomes None, and the name of its field is
listed in ``unread``, so that the agent can ask for it again instead of refusing the message.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from oneroof.office.hours import LOCAL
from oneroof.understanding import Line
from tieline import Message

__all__ = [
    "READ_CALL_ID",
    "READ_COUNT",
    "READ_MOMENT",
    "READ_TEXT",
    "Amount",
    "CallId",
    "Count",
    "Flag",
    "Lines",
    "Mapped",
    "Moment",
    "Reads",
    "Text",
    "Texts",
    "Tolerant",
    "Words",
]

_LONGEST_TEXT: Final = 200  # characters of a home, a place, a name, a number
_LONGEST_CALL_ID: Final = 1024  # characters of a conversation that travel in a header
_LONGEST_WORDS: Final = 4_000  # characters of a note or of something spoken
_MOST_LINES: Final = 500
_LONGEST_TRANSCRIPT: Final = 60_000  # characters; of a longer one the end counts
_MOST_TEXTS: Final = 50
_LARGEST: Final = 1_000_000_000
_YES: Final = frozenset({"true", "yes", "y", "1"})
_NO: Final = frozenset({"false", "no", "n", "0"})


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads the value of a field from what a client sent; None where it cannot be read."""

    read: Callable[[Any], Any]


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, int) and abs(value) >= 10**_LONGEST_TEXT:
        return None
    words = " ".join(str(value).split())
    return words if 0 < len(words) <= _LONGEST_TEXT else None


def _call_id(value: object) -> str | None:
    """A call's id as it is: nothing in it is changed, or the answer would go to another call."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    if isinstance(value, int) and abs(value) >= 10**_LONGEST_TEXT:
        return None
    return str(value) if 0 < len(str(value)) <= _LONGEST_CALL_ID else None


def _words(value: object) -> str | None:
    return value.strip()[:_LONGEST_WORDS] or None if isinstance(value, str) else None


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value[:_LONGEST_TEXT].replace(",", "").strip("$ ") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and 0 <= number <= _LARGEST else None


def _count(value: object) -> int | None:
    number = _amount(value)
    return int(number) if number is not None and number == int(number) else None


def _flag(value: object) -> bool | None:
    word = str(value).lower() if isinstance(value, bool | str) or value in (0, 1) else ""
    return True if word in _YES else False if word in _NO else None


def _moment(value: object) -> datetime | None:
    """A date with a time of day, in the office's zone; one without an offset is already in it."""
    moment = value
    if isinstance(value, str) and ":" in value:
        try:
            moment = datetime.fromisoformat(value.strip()[:_LONGEST_TEXT])
        except ValueError:
            return None
    if not isinstance(moment, datetime):
        return None
    try:
        return moment.replace(tzinfo=LOCAL) if moment.tzinfo is None else moment.astimezone(LOCAL)
    except OverflowError:
        return None


def _mapped(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    return tuple(text for one in value[:_MOST_TEXTS] if (text := _text(one)) is not None)


def _lines(value: object) -> list[Line] | None:
    if not isinstance(value, list | tuple):
        return None
    lines = [line for one in value[-_MOST_LINES:] if (line := _line(one)) is not None]
    while sum(len(line.text) for line in lines) > _LONGEST_TRANSCRIPT:
        lines.pop(0)
    return lines


def _line(value: object) -> Line | None:
    if isinstance(value, Line):
        return value
    if isinstance(value, str):
        return Line(who="caller", text=value[:_LONGEST_WORDS])
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return None
    offers = list(_texts(value.get("offers")) or ())
    return Line(
        who="office" if value.get("who") == "office" else "caller", text=value["text"][:_LONGEST_WORDS], offers=offers
    )


READ_CALL_ID: Final = Reads(_call_id)
READ_TEXT: Final = Reads(_text)
READ_COUNT: Final = Reads(_count)
READ_MOMENT: Final = Reads(_moment)

CallId = Annotated[str | None, READ_CALL_ID]
Text = Annotated[str | None, READ_TEXT]
Texts = Annotated[tuple[str, ...], Reads(_texts)]
Words = Annotated[str | None, Reads(_words)]
Count = Annotated[int | None, READ_COUNT]
Amount = Annotated[float | None, Reads(_amount)]
Flag = Annotated[bool | None, Reads(_flag)]
Moment = Annotated[datetime | None, READ_MOMENT]
Lines = Annotated[list[Line], Reads(_lines)]
Mapped = Annotated[dict[str, Any], Reads(_mapped)]


class Tolerant(Message):
    """A message whose fields may be missing or of a wrong type. ``unread`` names those that could not be read.

    Only a payload that is not a JSON object does not fit.
    """

    unread: tuple[str, ...] = Field(default=(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        fields: dict[str, Any] = {}
        unread: list[str] = []
        for name, field in cls.model_fields.items():
            key = field.alias if field.alias in data else name
            if name == "unread" or data.get(key) is None:
                continue
            reader = next((one for one in field.metadata if isinstance(one, Reads)), None)
            value = data[key] if reader is None else reader.read(data[key])
            if value is None:
                unread.append(name)
            else:
                fields[name] = value
        return {**fields, "unread": tuple(unread)}
