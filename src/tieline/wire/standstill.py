"""Waiting for room in a stream that is full, and saying so.

What must be recorded (a step's result, an attempt, a dead letter) is not given up when its stream is full: the handler
has run, and running it again would repeat its effect. So the record waits, the delivery is kept, and the process takes
no more work until there is room.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from tieline.errors import NotAccepted
from tieline.wire.publisher import PubAck, Publisher

__all__ = ["Standstill"]

log = logging.getLogger("tieline.standstill")

_PER_SUBJECT = "per subject"  # the server's words for another reason with the same code
_FULL = frozenset({10077, 10002, 10023, 10047})  # no room in the stream, the account, the server, on the disk
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 3.0  # seconds before it is tried again
_SAY_AGAIN = 60.0
_REMEDY = (
    "Give it room: Pod(expects=Expected(conversations_per_day=…)) or Stream(max_bytes=…), then `tieline apply POD`; "
    "`tieline report` shows what is full"
)


async def _never() -> bool:
    return False


class Standstill:
    """Why this process takes no work now. One for each process; any number of tasks wait in it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: Counter[str] = Counter()  # tasks that wait, by stream
        self._ended = asyncio.Event()
        self._said: dict[str, float] = {}
        self._since = 0.0  # when it began to wait; 0 where it does not
        self._total = 0.0  # seconds of earlier waits

    @property
    def reason(self) -> str:
        """What this process waits for, and what to do; empty where it does not wait."""
        streams = sorted(stream for stream, count in self._waiting.items() if count)
        return f"{', '.join(streams)} has no room. {_REMEDY}" if streams else ""

    def seconds(self) -> float:
        """For how long it has waited since the process started."""
        return self._total + (time.monotonic() - self._since if self._since else 0.0)

    async def over(self) -> None:
        """Return when nobody waits for room."""
        while self.reason:
            self._ended.clear()
            await self._ended.wait()

    async def store(
        self,
        stream: str,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        is_taken: Callable[[], Awaitable[bool]] = _never,
    ) -> PubAck:
        """Like `Publisher.publish`, but waits for as long as ``stream`` is full. Cancellation ends the wait.

        ``is_taken`` says whether somebody else's message is what the server refuses this one for.
        """
        try:
            return await self._publisher.publish(subject, payload, headers)
        except NotAccepted as error:
            if not _is_full(error) or await is_taken():
                raise
            why = str(error)
        pause = _FIRST_PAUSE
        with self._waits(stream):
            while True:
                self._say(stream, why)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
                try:
                    return await self._publisher.publish(subject, payload, headers)
                except NotAccepted as error:
                    if not _is_full(error) or await is_taken():
                        raise
                    why = str(error)

    @contextmanager
    def _waits(self, stream: str) -> Iterator[None]:
        self._waiting[stream] += 1
        self._since = self._since or time.monotonic()
        try:
            yield
        finally:
            self._waiting[stream] -= 1
            if not self.reason:
                self._total, self._since = self.seconds(), 0.0
                self._ended.set()
            if not self._waiting[stream] and self._said.pop(stream, None) is not None:
                log.warning("nothing waits for room in stream %s any more: this process goes on", stream)

    def _say(self, stream: str, why: str) -> None:
        now = time.monotonic()
        if now - self._said.get(stream, now - _SAY_AGAIN) >= _SAY_AGAIN:
            self._said[stream] = now
            log.error("stream %s is full (%s): this process waits, and nothing is lost. %s", stream, why, _REMEDY)


def _is_full(error: NotAccepted) -> bool:
    """Whether a stream refused a message because nothing more fits in."""
    return error.err_code in _FULL and _PER_SUBJECT not in str(error)
