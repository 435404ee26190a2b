"""A thread that notices when a handler blocks the event loop, and says which one, where, and what to use instead.

While the loop is blocked nothing else of the process runs: no other handler, no retry, and no renewal of leases. If it
lasts longer than the ack wait, the server delivers everything that the process holds to another one.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

from tieline.runtime.attempt import Attempt

__all__ = ["LoopWatch"]

log = logging.getLogger("tieline.worker")

_PART = 0.5  # of the ack wait: time to say so before leases are lost
_LOOKS = 4  # in that time
_LATE = 3  # times as long as it meant to wait: the whole process stood still
_SHOWN = 6  # innermost frames
_OWN = str(Path(__file__).parents[1])


class LoopWatch:
    """Watches the event loop of the thread that makes it. ``ack_wait`` is the shortest of its consumers."""

    def __init__(self, ack_wait: float) -> None:
        self._ack_wait = ack_wait
        self._every = ack_wait * _PART / _LOOKS
        self._beat = time.monotonic()  # written by the loop, read by the thread
        self._watched = threading.get_ident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tieline-loop-watch", daemon=True)

    async def keep(self) -> None:
        """Beat for ever, and watch that meanwhile."""
        self._beat = time.monotonic()
        self._thread.start()
        try:
            while True:
                await asyncio.sleep(self._every)
                self._beat = time.monotonic()
        finally:
            self._over.set()

    def _watch(self) -> None:
        blocked_since = 0.0
        who = ""
        woke = time.monotonic()
        while not self._over.wait(self._every):
            slept, woke = time.monotonic() - woke, time.monotonic()
            if slept > _LATE * self._every:
                continue  # this thread was held up too (a frozen process): let the loop beat first
            beat = self._beat
            if blocked_since and beat != blocked_since:
                log.error("%s blocked the event loop for %.0f s", who, beat - blocked_since)
                blocked_since = 0.0
            if not blocked_since and time.monotonic() - beat >= self._ack_wait * _PART:
                frame = sys._current_frames().get(self._watched)  # noqa: SLF001 - the documented way to a thread's stack
                if frame is not None:
                    blocked_since = beat
                    who = self._say(frame, time.monotonic() - beat)

    def _say(self, frame: FrameType, seconds: float) -> str:
        """Log what blocks, and return its name."""
        stack = [one for one, _ in traceback.walk_stack(frame)]
        stack.reverse()  # the innermost last
        at, attempt = next(
            ((at, found) for at, one in enumerate(stack) if isinstance(found := one.f_locals.get("attempt"), Attempt)),
            (0, None),
        )
        who = "something" if attempt is None else f"{attempt.duty.name} [{attempt.call.id}]"
        theirs = [one for one in stack[at:] if not one.f_code.co_filename.startswith((_OWN, "<"))]
        handler = next(iter(theirs), frame)
        where = f"{handler.f_code.co_filename}:{handler.f_lineno} in {handler.f_code.co_qualname}"
        log.error(
            "%s blocks the event loop for %.0f s so far, at %s. Nothing else of this process runs meanwhile, and after "
            "the ack wait of %g s its messages are delivered to another process. Use `await asyncio.sleep(…)` instead "
            "of time.sleep, and `await asyncio.to_thread(function, …)` for what blocks or computes for long:\n%s",
            who,
            seconds,
            where,
            self._ack_wait,
            "".join(traceback.format_list(traceback.extract_stack(frame)[-_SHOWN:])).rstrip(),
        )
        return f"{who} (at {where})"
