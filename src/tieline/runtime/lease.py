"""`Lease`: slow is not dead. While a delivery is held, its ack wait is started again."""

import asyncio

from tieline.runtime.attempt import Attempt, now
from tieline.wire.connection import Connection, NoAnswer

__all__ = ["Lease"]

_RENEW = 1 / 3  # of the ack wait: survives two lost renewals in a row
_SURE = 3 / 4  # of the ack wait after a renewal: for so long nobody else gets the delivery, whatever the clocks do


class Lease:
    """The attempts whose deliveries one worker holds. Written by the worker's tasks, read by `keep`; one loop."""

    def __init__(self, connection: Connection, ack_wait: float) -> None:
        self._connection = connection
        self._every = ack_wait * _RENEW
        self._sure = ack_wait * _SURE
        self.held: set[Attempt] = set()

    def hold(self, attempt: Attempt) -> None:
        """Start extending its ack deadline."""
        attempt.leased = now() + self._sure
        self.held.add(attempt)

    def release(self, attempt: Attempt) -> None:
        """It is settled."""
        self.held.discard(attempt)

    async def keep(self) -> None:
        """Renew for ever. A handler that blocks the event loop for a whole ack wait loses its leases: use threads."""
        while True:
            await asyncio.sleep(self._every)
            began, held = now(), list(self.held)
            for attempt in held:
                if attempt in self.held:
                    await attempt.delivery.extend()
            if held and await self._arrived():
                for attempt in held:
                    if began < attempt.leased:  # once in doubt, always: another process may have it since
                        attempt.leased = began + self._sure

    async def _arrived(self) -> bool:
        """Whether the server has read the renewals."""
        try:
            async with asyncio.timeout(self._every):
                await self._connection.flush()
        except (TimeoutError, NoAnswer):
            return False
        return True
