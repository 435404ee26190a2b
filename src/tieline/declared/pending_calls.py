"""Calls of a conversation's async methods: each is noted until somebody awaits it, so that a forgotten ``await`` is
found when the handler has returned.

Type checkers see plain async methods. At run time they return a `PendingCall`, which is a coroutine like any: it can be
awaited, and given to `asyncio.create_task`, `asyncio.gather`, `asyncio.wait_for` or a task group.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator
from types import FunctionType, MethodType
from typing import Any, Protocol

__all__ = ["PendingCall", "PendingCalls", "notes_calls"]


class PendingCall(Coroutine[Any, Any, Any]):
    """One call that nobody has awaited yet."""

    __slots__ = ("_coroutine", "_first", "_method", "_pending")

    def __init__(
        self, pending: "PendingCalls", coroutine: Coroutine[Any, Any, Any], method: str, first: object
    ) -> None:
        self._pending = pending
        self._coroutine = coroutine
        self._method = method
        self._first = first
        pending.add(self)

    def __str__(self) -> str:
        """As it stands in the code, without any value that may be somebody's secret."""
        first = self._first
        match first:
            case None | str() | bytes() | int() | float() | dict() | list():
                shown = ""
            case type() | FunctionType() | MethodType():
                shown = first.__name__
            case _:
                shown = getattr(first, "name", type(first).__name__)  # a tool's name, a message's class
        return f"{self._method}({shown})"

    def __await__(self) -> Generator[Any, Any, Any]:
        self._pending.discard(self)
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        self._pending.discard(self)
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._pending.discard(self)
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._pending.discard(self)
        self._coroutine.close()


type PendingCalls = set[PendingCall]


class _Notes(Protocol):
    pending_calls: PendingCalls


def notes_calls[C: type](prefix: str, *methods: str) -> Callable[[C], C]:
    """A class decorator: calls of these async ``methods`` are noted in ``pending_calls`` of the instance."""

    def decorate(kind: C) -> C:
        for name in methods:
            setattr(kind, name, _noted(getattr(kind, name), f"{prefix}.{name}"))
        return kind

    return decorate


def _noted(method: Callable[..., Coroutine[Any, Any, Any]], shown: str) -> Callable[..., PendingCall]:
    @functools.wraps(method)
    def call(self: _Notes, *args: Any, **kwargs: Any) -> PendingCall:
        first = args[0] if args else next(iter(kwargs.values()), None)
        return PendingCall(self.pending_calls, method(self, *args, **kwargs), shown, first)

    return inspect.markcoroutinefunction(call)
