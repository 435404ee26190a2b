"""`Ration`: a tool's calls spaced over all processes that run it.

The time of the next free call is one record on the server, written by compare-and-set: whoever wants to call takes the
next places and waits for them.
"""

import asyncio
import time
from collections import deque

from tieline import headers as names
from tieline import subjects
from tieline.codec import to_json
from tieline.errors import NotAccepted, Unsettled
from tieline.records.reading import read_digits, read_number, read_object
from tieline.runtime.bus import Bus
from tieline.settings import Rate
from tieline.wire.connection import NoAnswer, headers_of

__all__ = ["Ration"]

_STREAM = "RATE"
_OVERTAKEN = 10071  # wrong last sequence
_AHEAD = 0.1  # seconds of places taken at once: more would wait here while another process has calls
_PAUSE = 0.001
_FURTHEST = 86_400.0  # seconds from now; a free place beyond it is not one that a process of a pod took


class Ration:
    """One tool's share in one process. `turn` is for any number of tasks; they go in the order they came."""

    def __init__(self, bus: Bus, tool: str, rate: Rate) -> None:
        self._bus = bus
        self._subject = subjects.rate(tool)
        self._rate = rate
        self._one = asyncio.Lock()
        self._waiting = 0
        self._places: deque[float] = deque()  # seconds since 1970; taken from the server, not yet used
        self._revision = 0
        self._next = 0.0  # the next free place as of _revision

    async def turn(self) -> None:
        """Return when one call may begin. Cancelled, it may leave its place unused.

        Raises `Unsettled` where the server does not answer.
        """
        self._waiting += 1
        try:
            async with self._one:
                # A place that was missed by long is not made up for: it would come on top of a later one.
                while self._places and self._places[0] < time.time() - _AHEAD:
                    self._places.popleft()
                if not self._places:
                    most = max(1, int(_AHEAD / self._rate.interval))
                    self._places += await self.reserve(min(self._waiting, most))
                await asyncio.sleep(max(0.0, self._places[0] - time.time()))
                self._places.popleft()
        finally:
            self._waiting -= 1

    async def reserve(self, calls: int) -> list[float]:
        """The next ``calls`` places, in seconds since 1970. Nobody else gets them."""
        interval = self._rate.interval
        slack = (self._rate.burst - 1) * interval
        pause = _PAUSE
        while True:
            now = time.time()
            first = max(self._next, now - slack)
            if await self._wrote(first + calls * interval):
                return [max(now, first + number * interval) for number in range(calls)]
            await asyncio.sleep(pause)
            pause = min(2 * pause, _AHEAD)
            await self._read()

    async def _wrote(self, free: float) -> bool:
        headers = {names.EXPECTED_REVISION: str(self._revision)}
        try:
            ack = await self._bus.publisher.publish(self._subject, to_json({"next": free}), headers)
        except NotAccepted as error:
            if error.err_code == _OVERTAKEN:
                return False
            raise Unsettled(f"no place could be taken on {self._subject}: {error}") from error
        self._revision, self._next = ack.seq, free
        return True

    async def _read(self) -> None:
        try:
            reply = await self._bus.connection.request(f"$JS.API.DIRECT.GET.{_STREAM}.{self._subject}")
        except NoAnswer as silence:
            raise Unsettled(f"the stream {_STREAM} does not answer: {silence}") from silence
        if reply.status is not None:
            self._revision, self._next = 0, 0.0  # too old, or a new server
            return
        self._revision = read_digits(headers_of(reply).get("Nats-Sequence")) or 0
        record = read_object(reply.payload) or {}
        free = read_number(record.get("next"), least=0.0, most=time.time() + _FURTHEST)
        if free is None:
            self._bus.connection.unreadable.skip("record", self._subject, _STREAM, self._revision)
        self._next = free or 0.0
