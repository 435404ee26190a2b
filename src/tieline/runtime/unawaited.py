"""Coroutines that a handler made and nobody awaited: found by Python's own warning, while the handler runs.

Python calls ``warnings._warn_unawaited_coroutine`` when a coroutine is freed that was never awaited. A context variable
says for which run that happens: a run's tasks inherit it. What is freed after the run (kept in a variable that lives
on, or in a reference cycle) escapes, and so does what a thread makes.
"""

import warnings
from contextvars import ContextVar
from typing import Any

from tieline.errors import NotAwaited

__all__ = ["note_coroutines", "refuse_forgotten"]

_forgotten: ContextVar[list[str] | None] = ContextVar("tieline-forgotten", default=None)


def note_coroutines() -> list[str]:
    """The names of coroutines that this task, and tasks it makes, let go without having awaited them, as they are
    found. For one run: a task that handles several messages has a new list for each."""
    found: list[str] = []
    _forgotten.set(found)
    return found


def refuse_forgotten(found: list[str]) -> None:
    """Raise `NotAwaited` for what was found."""
    names = ", ".join(dict.fromkeys(f"{name}()" for name in found))
    raise NotAwaited(f"{names} was not awaited, so it did nothing: write await before it")


def _install() -> None:
    """Note each warning of the interpreter, which is still shown. Without this hook of CPython, nothing is found."""
    shown = getattr(warnings, "_warn_unawaited_coroutine", None)
    if shown is None:
        return

    def note(coroutine: Any) -> None:
        if (found := _forgotten.get()) is not None:
            found.append(coroutine.__qualname__)
        shown(coroutine)

    setattr(warnings, "_warn_unawaited_coroutine", note)  # noqa: B010 - no name of the module's typed interface


_install()
