"""Bounded reading of values that come from the wire. Anybody who may publish can have written them.

No function here raises: it returns None for a value that is missing, of the wrong type, or out of bounds, and the
caller skips the record or uses its default. After `read_object`, every text in an object can be encoded, and no nesting
is deeper than ``MOST_NESTED``. Numbers are as Python reads them, NaN and large integers included, because a handler's
own values may be such: read the ones that Tieline goes by with `read_integer`, `read_number` and `read_time`.

Not: ``isdigit`` or ``isdecimal`` before ``int``. They accept characters that ``int`` refuses, and any length.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "LARGEST_INTEGER",
    "LATEST",
    "MOST_ATTEMPTS",
    "MOST_NESTED",
    "Origin",
    "read_digits",
    "read_header",
    "read_integer",
    "read_json",
    "read_name",
    "read_number",
    "read_object",
    "read_origin",
    "read_short",
    "read_text",
    "read_time",
    "read_timestamp",
    "read_ttl",
]

LARGEST_INTEGER = 2**63 - 1
LATEST = 4_102_444_800.0  # seconds since 1970: the year 2100. A TTL until then still fits the server's nanoseconds
MOST_NESTED = 300  # objects and lists inside one another; pydantic, which writes our records, refuses more than 255
MOST_ATTEMPTS = 1_000_000  # at one message, redrives included

_DIGITS = re.compile(r"[0-9]{1,19}\Z")
_HEX = re.compile(r"[0-9a-f]{1,16}\Z")
_NAME = re.compile(r"[!-)+,\-0-=?-\[\]-~]{1,255}\Z")  # printable ASCII without '*', '.', '/', '>' and '\'
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|s|m|h)){1,8}\Z")
_PART = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_TIMESTAMP = 64  # characters


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when a message was first stored: what identifies it. ``at`` is in seconds since 1970."""

    stream: str
    seq: int
    at: float


def read_integer(value: object, *, least: int = 0, most: int = LARGEST_INTEGER) -> int | None:
    """``value`` if it is an integer of JSON between ``least`` and ``most``. ``true`` is not one."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    return None


def read_digits(text: object, *, least: int = 0, most: int = LARGEST_INTEGER) -> int | None:
    """The integer that ``text`` spells in ASCII digits, between ``least`` and ``most``."""
    return read_integer(int(text), least=least, most=most) if isinstance(text, str) and _DIGITS.match(text) else None


def read_number(value: object, *, least: float = -1e18, most: float = 1e18) -> float | None:
    """``value`` as a float if it is a number between ``least`` and ``most``: never NaN, infinity or ``true``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= most else None  # compared first: a large int does not fit a float


def read_time(value: object) -> float | None:
    """A time in seconds since 1970, until the year 2100, which is safe to convert, add and print."""
    return read_number(value, least=0.0, most=LATEST)


def read_timestamp(text: object) -> float | None:
    """The time of an ISO 8601 text in seconds since 1970. Without an offset it is UTC."""
    if not isinstance(text, str) or len(text) > _LONGEST_TIMESTAMP:
        return None
    try:
        at = datetime.fromisoformat(text)
        return read_time((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def read_ttl(text: object) -> int | None:
    """How many seconds the server keeps a message with this ``Nats-TTL``. None for ``never`` and for what it refuses.

    As the server reads it: whole seconds, or a duration such as ``1h30m`` or ``1500ms``, cut to whole seconds.
    """
    if not isinstance(text, str):
        return None
    seconds = read_digits(text)
    if seconds is None and len(text) <= _LONGEST_TIMESTAMP and _DURATION.match(text):
        seconds = int(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))
    return read_integer(seconds, least=1, most=int(LATEST))


def read_text(value: object, most: int = 4_096) -> str:
    """``value`` if it is a text, cut to ``most`` characters and fit to be encoded; else an empty text."""
    if not isinstance(value, str):
        return ""
    return value[:most].encode("utf-8", "replace").decode()


def read_short(value: object, most: int = 3_900) -> str | None:
    """``value`` if it is a text of at most ``most`` characters, and not empty. Nothing is cut: it identifies something.

    By default as long as a subject may be that is published to, which every origin is far below.
    """
    return read_text(value) if isinstance(value, str) and 0 < len(value) <= most else None


def read_name(value: object) -> str | None:
    """``value`` if it can be the name of a stream, a consumer or an agent: one token that can stand in a subject."""
    return value if isinstance(value, str) and _NAME.match(value) else None


def read_header(value: str) -> str:
    """A header's value as it can be sent again: other clients do send line breaks, and bytes that are no text."""
    if value.isascii() and value.isprintable():
        return value
    return " ".join(value.encode("utf-8", "replace").decode().splitlines())


def read_origin(text: object, stream: str | None = None) -> Origin | None:
    """The parts of ``<stream>-<sequence>-<milliseconds in hex>``; None where it is not one, or not of ``stream``."""
    if not isinstance(text, str):
        return None
    rest, _, milliseconds = text.rpartition("-")
    name, _, digits = rest.rpartition("-")
    seq = read_digits(digits, least=1)
    if seq is None or not _HEX.match(milliseconds) or not name or stream not in (None, name):
        return None
    at = read_time(int(milliseconds, 16) / 1000)
    return None if at is None else Origin(name, seq, at)


def read_object(payload: bytes | str) -> dict[str, Any] | None:
    """The JSON object in ``payload``; None for anything else, and for one with a value out of bounds."""
    value = read_json(payload)
    return value if isinstance(value, dict) else None


def read_json(payload: bytes | str) -> Any:
    """The JSON value in ``payload``; None for what is not JSON or out of bounds. See the module for the bounds."""
    data = payload.encode("utf-8", "replace") if isinstance(payload, str) else bytes(payload)
    try:
        value = json.loads(data.decode("utf-8"))
        if data.count(b"[") + data.count(b"{") > MOST_NESTED and _is_nested_deeper(value):
            return None
        return _encodable(value) if _SURROGATE.search(data) else value
    except (ValueError, RecursionError):
        return None


def _is_nested_deeper(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_NESTED):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(one, dict | list) for one in level)


def _encodable(value: Any) -> Any:
    """``value`` with a question mark for each lone surrogate: no encoding can write those."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(inner) for name, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list) else value
