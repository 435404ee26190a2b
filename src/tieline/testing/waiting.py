"""Wait for a fact instead of sleeping."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import overload

from tieline.testing.watchdog import Watchdog

__all__ = ["eventually"]


@overload
async def eventually[T](
    check: Callable[[], Awaitable[T | None]], *, what: str, within: float = 30.0, every: float = 0.02
) -> T: ...
@overload
async def eventually[T](
    check: Callable[[], T | None], *, what: str, within: float = 30.0, every: float = 0.02
) -> T: ...
async def eventually(check: Callable[[], object], *, what: str, within: float = 30.0, every: float = 0.02) -> object:
    """The first truthy value of ``check()``, which may be async and is called at once and then ``every`` so often.

    After ``within`` seconds, also in the middle of a check: `AssertionError` with ``what`` was awaited and the last
    value seen. What ``check`` raises passes through. If the loop itself is stuck, a thread ends the *process* after
    half as long again and a second, with all stacks on stderr and exit code 70.
    """
    last: object = "nothing: the first check did not end"
    looks = 0
    limit = asyncio.timeout(within)
    with Watchdog(f"waiting for {what}", within * 1.5 + 1):
        try:
            async with limit:
                while True:
                    value = check()
                    last = await value if inspect.isawaitable(value) else value
                    looks += 1
                    if last:
                        return last
                    await asyncio.sleep(every)
        except TimeoutError:
            if not limit.expired():
                raise
    raise AssertionError(f"{what}: not within {within:g} s; the last of {looks} looks gave {last!r}")
