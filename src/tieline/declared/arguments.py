"""Checks for the arguments of declarations: each raises an error that names the argument, its value and the remedy."""

import difflib
import re
from collections.abc import Iterable
from typing import Any, overload

from tieline.errors import BadDeclaration

__all__ = ["Seconds", "flag", "instance", "instances", "nearest", "one_of", "positive", "seconds", "texts", "whole"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 9.2e9  # seconds: the server holds durations in 63 bits of nanoseconds, which are 292 years


def seconds(duration: str | float) -> float:
    """A duration in seconds: a number as it is, or text such as ``"5m"``, ``"90s"``, ``"1.5h"``, ``"250ms"``."""
    if isinstance(duration, str):
        match = _DURATION.match(duration)
        if match is None:
            raise BadDeclaration(f"duration {duration!r} is not understood; write it like '5m', '90s', '1h', '250ms'")
        return float(match[1]) * _UNIT[match[2]]
    return float(duration)


def positive(what: str, value: object, error: type[ValueError] = BadDeclaration) -> float:
    """``value`` in seconds: a number, or text that `seconds` understands. Neither negative nor infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise error(f"{what} must be seconds or text such as '90s', '5m', '2h', not {value!r}")
    try:
        found = seconds(value)
    except BadDeclaration as unclear:
        raise error(f"{what}: {unclear}") from None
    if not 0 <= found <= _LONGEST:
        raise error(f"{what} must be at least 0 and at most 292 years, not {value!r}")
    return found


def whole(what: str, value: object, least: int = 0, error: type[ValueError] = BadDeclaration) -> int:
    """``value``, a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(f"{what} must be a whole number, not {value!r}")
    if value < least:
        raise error(f"{what} must be at least {least}, not {value!r}")
    return value


def flag(what: str, value: object) -> bool:
    """``value``, which must be True or False."""
    if not isinstance(value, bool):
        raise BadDeclaration(f"{what} must be True or False, not {value!r}")
    return value


def texts(what: str, value: object) -> tuple[str, ...]:
    """``value`` as a tuple of texts. One text alone counts as a tuple of one, never as its letters."""
    return instances(what, value, str, "a text")


def instances[T](what: str, value: object, kind: type[T], called: str) -> tuple[T, ...]:
    """``value`` as a tuple of ``kind``. One of them alone counts as a tuple of one."""
    if isinstance(value, kind):
        return (value,)
    if not isinstance(value, tuple | list | set | frozenset):
        raise BadDeclaration(f"{what} must be {called} or a tuple of them, not {value!r}")
    return tuple(instance(what, each, kind, called) for each in value)


def instance[T](what: str, value: object, kind: type[T], called: str) -> T:
    """``value``, which must be a ``kind``."""
    if not isinstance(value, kind):
        raise BadDeclaration(f"{what} must be {called}, not {value!r}")
    return value


def one_of(what: str, value: object, allowed: Iterable[str]) -> str:
    """``value``, which must be one of the ``allowed`` texts."""
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        raise BadDeclaration(
            f"{what} must be one of {', '.join(map(repr, names))}, not {value!r}{nearest(value, names)}"
        )
    return value


def nearest(value: object, allowed: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'once'?`` for a value that resembles an allowed one, else nothing."""
    found = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


class Seconds[T: (float, float | None)]:
    """A field of a frozen dataclass (without slots) that takes seconds or text such as ``"2h"`` and reads as seconds.

    Making the dataclass raises ``error`` for a value that is neither. ``optional`` fields may also be None.
    """

    def __init__(self, default: T, error: type[ValueError] = BadDeclaration, *, optional: bool = False) -> None:
        self._default: T = default
        self._error = error
        self._optional = optional
        self._owner = self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner.__name__.lower(), name

    @overload
    def __get__(self, instance: None, owner: type) -> T: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self._default if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: T | str) -> None:
        if value is None and self._optional:
            instance.__dict__[self._name] = None
            return
        declared = instance.__dict__.get("name")
        what = f"{self._owner}.{self._name}" if declared is None else f"{self._owner} {declared}: {self._name}"
        instance.__dict__[self._name] = positive(what, value, self._error)
