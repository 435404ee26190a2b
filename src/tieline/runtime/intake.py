"""`Intake`: what a worker takes next. Messages that are brought back come before new ones: work in progress first.

A parked message that was answered, a retry that waited for long and a redrive each come through a consumer of their
own, over the same slots. A delivery says how many more wait behind it, and so many of the free slots are kept for them.
While none is known to wait, new messages may have every slot; a single delivery is asked for beyond them, so that one
that is brought back is noticed. If it finds no slot it is handed back within 100 ms, and the next free slot is kept.
"""

import asyncio

from tieline.runtime.slots import Slots
from tieline.wire.connection import Connection
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery
from tieline.wire.topology import Consumer

__all__ = ["Intake"]

_IDLE = 0.08  # seconds that a delivery may wait for a slot before it is handed back
_ELSEWHERE = 0.1  # seconds after which messages that were said to wait must have gone to another process


class Intake:
    """The two consumers of one duty, over the same slots. For two tasks: one calls `new`, the other `resumed`."""

    def __init__(self, connection: Connection, consumer: Consumer, resume: str | None, slots: Slots) -> None:
        """``resume`` is the durable name of the consumer of what is brought back; None where nothing can be."""
        stream = consumer.stream
        self.main = PullConsumer(connection, stream, consumer.durable, on_arrival=self._arrived)
        self.resume = None if resume is None else PullConsumer(connection, stream, resume, on_arrival=self._arrived)
        self._slots = slots
        self._waiting = 0  # messages to be resumed that need a slot, as far as we know; written by `resumed`
        self._fewer = asyncio.Event()  # set when _waiting has fallen

    @property
    def consumers(self) -> list[PullConsumer]:
        """Those that are pulled from."""
        return [self.main] if self.resume is None else [self.main, self.resume]

    async def new(self) -> list[Delivery]:
        """New messages, as soon as a slot is free that no message to be resumed needs."""
        while (free := await self._slots.available() - self._waiting) <= 0:
            self._fewer.clear()
            await self._fewer.wait()  # soon: a slot is taken, or nothing comes for `_ELSEWHERE`
        return await self.main.fetch(free)

    async def resumed(self, consumer: PullConsumer) -> list[Delivery]:
        """Messages that were brought back, as soon as there is one; with a slot for at least one, if possible."""
        while True:
            free = await self._slots.available()
            try:
                async with asyncio.timeout(_ELSEWHERE if self._waiting else None):
                    found = await consumer.fetch(min(free, max(1, self._waiting)))
            except TimeoutError:
                self._keep_slots(0)
                continue
            if not self._slots.free:
                self._keep_slots(max(len(found), self._waiting))
                try:
                    async with asyncio.timeout(_IDLE):
                        await self._slots.available()
                except TimeoutError:
                    return found
                except asyncio.CancelledError:
                    consumer.hand_back(found)
                    raise
            return found

    def take(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Take slots for ``deliveries``: those that have one. The rest is handed back."""
        taken = deliveries[: self._slots.free]
        for _ in taken:
            self._slots.take()
        rest = deliveries[len(taken) :]
        if deliveries and deliveries[0].redriven:
            self._keep_slots(deliveries[-1].left + len(rest))
            self._arrived()  # a new message that has arrived may have lost its slot
        self.main.hand_back(rest)
        return taken

    def _keep_slots(self, messages: int) -> None:
        fewer, self._waiting = messages < self._waiting, messages
        if fewer:
            self._fewer.set()

    def _arrived(self) -> None:
        if sum(consumer.arrived for consumer in self.consumers) > self._slots.free:
            asyncio.get_running_loop().call_later(_IDLE, self._trim)

    def _trim(self) -> None:
        """Hand back what still has no slot; what is brought back keeps its place first."""
        free = self._slots.free
        if self.resume is not None and self.resume.arrived:
            if self.resume.keep(free):
                self._keep_slots(max(1, self._waiting))
            free -= self.resume.arrived
        self.main.keep(max(0, free))
