"""Whether somebody limits a wait with `asyncio.timeout` or `asyncio.wait_for`. Such a wait must not park.

A run that parks ends here and begins again elsewhere, so a timeout around it would never be over. `asyncio` keeps no
list of its timeouts. An entered one is held by the coroutine that entered it, as the method that will leave it, and the
garbage collector knows what a suspended coroutine holds. This looks once, when a wait is about to park.
"""

import asyncio
import gc
from collections.abc import Iterable
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MethodType
from typing import Any

from tieline.declared.pending_calls import PendingCall

__all__ = ["limited_by_a_timeout"]

_DEEPEST = 1_000  # coroutines that wait for one another
_WRAPPERS = frozenset({"coroutine_wrapper", "async_generator_asend", "async_generator_athrow"})


async def limited_by_a_timeout(tasks: Iterable["asyncio.Task[Any] | None"]) -> bool:
    """Whether one of ``tasks`` waits inside a timeout that is not over."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()
    waiting = [task for task in tasks if task is not None]

    def look() -> None:  # from the loop: only a suspended coroutine shows what it holds
        if not answer.done():
            answer.set_result(any(_has_timeout(task.get_coro()) for task in waiting))

    loop.call_soon(look)
    return await answer


def _has_timeout(coroutine: object) -> bool:
    found = [coroutine]
    for at in found:
        for held in gc.get_referents(at):
            if isinstance(held, MethodType) and isinstance(held.__self__, asyncio.Timeout):
                return True
            if len(found) < _DEEPEST and _is_coroutine(held):
                found.append(held)
    return False


def _is_coroutine(held: object) -> bool:
    kinds = (CoroutineType, GeneratorType, AsyncGeneratorType, PendingCall)
    return isinstance(held, kinds) or type(held).__name__ in _WRAPPERS
