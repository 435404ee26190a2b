"""The gateway: takes what guests send, and publishes what of it is in order as its own.

A guest is a program with an account of its own, which has nothing but the subjects it may send to. The server brings
what it sends to ``ingress.<guest>.<subject>`` of our account. No header of it gets further: an id is the guest's own,
so that it takes nobody else's. The guest gets the answer that a stream would have given, once the message is stored.
"""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import defaultdict

from tieline import codec, subjects
from tieline import headers as names
from tieline.errors import BadPayload, NotAccepted, TielineError
from tieline.messages import Message
from tieline.runtime.bus import Bus
from tieline.services.stopping import until_stopped
from tieline.settings import Rate
from tieline.wire.connection import Received

__all__ = ["run"]

log = logging.getLogger("tieline.gateway")

_WITHIN = 4.0  # seconds for a message to be stored; the server lets us answer for five
_AT_ONCE = 256  # messages on their way to their streams; one more is refused
_LONGEST_ID = 1024
_FORGET = 3600.0  # seconds


class _Refused(Exception):
    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Take what guests send until ``stop``; what was taken is finished. Several share the work."""
    gateway = _Gateway(bus)
    listening = bus.connection.listen(subjects.ingress("*", ">"), gateway.heard, queue="gateway")
    try:
        await until_stopped(gateway.work(), bus.connection, stop)
    finally:
        await listening.stop()
        await gateway.finished()


class _Gateway:
    """What is under way, and how much of each guest. One event loop's own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._taking: set[asyncio.Task[None]] = set()
        self._pace: defaultdict[str, _Pace] = defaultdict(lambda: _Pace(bus.pod.ingress_rate))

    def heard(self, received: Received) -> None:
        """Take one message, unless there is no room."""
        taking = asyncio.ensure_future(self._take(received, full=len(self._taking) >= _AT_ONCE))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)

    async def work(self) -> None:
        """Nothing, but to forget now and then how fast guests were: their names are whatever stands in a subject."""
        while True:
            await asyncio.sleep(_FORGET)
            self._pace.clear()

    async def finished(self) -> None:
        """Return when everything that was taken is answered."""
        while self._taking:
            await asyncio.wait(self._taking)

    async def _take(self, received: Received, *, full: bool) -> None:
        guest, subject = subjects.ingress_parts(received.subject)
        try:
            if full or not self._pace[guest].allows():
                raise _Refused(429, f"more than the {self._bus.pod.ingress_rate.calls:g} that are allowed; wait")
            answer = await self._stored(guest, subject, received)
        except _Refused as refused:
            log.info("guest %s: %s refused: %s", guest, subject, refused)
            answer = {
                "error": {"code": refused.code, "err_code": 0, "description": str(refused)},
                "stream": "",
                "seq": 0,
            }
        if received.reply:
            await self._bus.connection.send(received.reply, json.dumps(answer).encode())

    async def _stored(self, guest: str, subject: str, received: Received) -> dict[str, object]:
        """What a stream would have answered. `_Refused` where it is not stored, or not known to be."""
        message = self._checked(subject, received.payload)
        given = (received.headers and received.headers.get(names.MSG_ID)) or os.urandom(16).hex()
        if len(given) > _LONGEST_ID:
            raise _Refused(400, f"a {names.MSG_ID} of {len(given):,} characters")
        unique = f"guest-{guest}-{hashlib.sha256(given.encode(errors='surrogatepass')).hexdigest()[:32]}"
        try:
            outgoing = self._bus.outgoing(message, codec.conversation_of(message) or unique)
            outgoing.headers[names.GUEST] = guest
            async with asyncio.timeout(_WITHIN):
                ack = await self._bus.store(outgoing, unique, "", "gateway")
        except BadPayload as error:
            raise _Refused(400, str(error)) from error
        except (TimeoutError, NotAccepted) as error:
            reason = str(error) or "not stored in time; send it again with the same id"
            raise _Refused(503, reason) from error
        return {"stream": ack.stream, "seq": ack.seq, **({"duplicate": True} if ack.duplicate else {})}

    def _checked(self, subject: str, payload: bytes) -> Message:
        pod = self._bus.pod
        model = next((model for own, model in pod.ingress.items() if subjects.covers(own, subject)), None)
        if model is None:
            raise _Refused(403, f"{subject} is not open to guests")
        try:
            message = codec.decode(model, payload)
            told = codec.subject_of(message)
        except (TielineError, ValueError, RecursionError) as error:
            raise _Refused(400, str(error)) from error
        if told != subject:
            raise _Refused(400, f"{subject} is not where this {model.__name__} belongs; that is {told}")
        return message


class _Pace:
    """How fast one guest may send: `Rate` evenly, and a burst after a pause."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._due = 0.0

    def allows(self) -> bool:
        """Whether one more may come now; it counts if so."""
        now, interval = time.monotonic(), self._rate.interval
        if self._due - now > interval * (self._rate.burst - 1):
            return False
        self._due = max(self._due, now) + interval
        return True
