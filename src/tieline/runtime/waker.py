"""`Waker`: brings an agent's parked messages back when what they wait for is recorded, by whoever wrote it.

It hears of every answer and every tool result, and of most of them nobody has parked for. So it takes them in batches
without their payloads, and looks with one read which of a batch have a park record beside them.
"""

import asyncio
import logging

from tieline import headers as names
from tieline import subjects
from tieline.errors import BadPayload, ObjectGone, TielineError, Unreachable
from tieline.runtime.aside import woken_why
from tieline.runtime.bus import Bus
from tieline.runtime.park import bring_back
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery

__all__ = ["Waker"]

log = logging.getLogger("tieline.waker")

_HELD = 512  # records on their way or at work; half of them make a batch
_LINGER = 0.05  # seconds between batches: while tools answer one after the other, a batch has all of that time
_AGAIN = 2.0  # seconds until an answer that failed to wake comes again, longer each time
_LONGEST_WAIT = 60.0
_DEAF = 15.0  # seconds without a heartbeat on a pull, after which something is wrong


class Waker:
    """One process's part in waking one agent's messages. Several may wake the same: it comes back once."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._consumer = PullConsumer(bus.connection, stream, durable)
        self._pump: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Of its consumer, with its stream."""
        return f"{self._consumer.stream}/{self._consumer.durable}"

    @property
    def pulling(self) -> bool:
        """Whether it hears of answers; as far as the server lets us know."""
        return self._pump is not None and not self._pump.done() and self._consumer.silence < _DEAF

    async def pump(self) -> None:
        """Wake until cancelled. What it held then is handed back."""
        self._pump = asyncio.current_task()
        try:
            while True:
                await self._take(await self._consumer.fetch(_HELD))
                await asyncio.sleep(_LINGER)
        finally:
            await self._consumer.close()

    async def _take(self, batch: list[Delivery]) -> None:
        """In this order: the messages, then the acknowledgements. A crash in between wakes again, under the same id."""
        try:
            failed = await self._wake(batch)
        except Unreachable:
            raise
        except TielineError as error:
            log.warning("%d answers are looked at again: %s", len(batch), error)
            failed = {delivery.subject for delivery in batch}
        except asyncio.CancelledError:
            for delivery in batch:
                await delivery.nak()
            raise
        for delivery in batch:
            if delivery.subject in failed:
                await delivery.nak(min(_AGAIN * delivery.count, _LONGEST_WAIT))
            else:
                await delivery.ack()

    async def _wake(self, batch: list[Delivery]) -> set[str]:
        """Bring back what waits for these answers; the answers where that failed, and may succeed later."""
        answers = {d.subject for d in batch if subjects.is_step(d.subject) and names.AWAKE not in d.headers}
        parks = {subjects.step_sibling(answer, "park"): answer for answer in answers}
        found = await self._bus.journal.glance(parks) if parks else {}
        woken = [(parks[park], self._bring_back(parks[park], park)) for park in found if park in parks]
        results = await asyncio.gather(*(waking for _, waking in woken))
        return {answer for (answer, _), done in zip(woken, results, strict=True) if not done}

    async def _bring_back(self, answer: str, park: str) -> bool:
        """False where it failed, and may succeed later. A record that nobody can use is left alone."""
        try:
            aside = (await self._bus.journal.read([park]))[park]
            headers = aside.get("headers")
            woken = headers | {names.WOKEN: answer} if isinstance(headers, dict) else headers
            await bring_back(self._bus, {**aside, "headers": woken}, woken_why(answer))
        except Unreachable:
            raise
        except (ObjectGone, BadPayload) as error:
            log.error("%s: the message that waits for it cannot be brought back: %s", answer, error)
        except (TielineError, KeyError) as error:
            log.warning("%s: the message that waits for it is brought back later: %s", answer, error)
            return False
        return True
