"""`Lease`: slow is not dead. While a delivery is held, its ack wait is started again."""

import asyncio

from tieline.runtime.attempt import Attempt

__all__ = ["Lease"]

_RENEW = 1 / 3  # of the ack wait: survives two lost renewals in a row


class Lease:
    """The attempts whose deliveries one worker holds. Written by the worker's tasks, read by `keep`; one loop."""

    def __init__(self, ack_wait: float) -> None:
        self._every = ack_wait * _RENEW
        self.held: set[Attempt] = set()

    def hold(self, attempt: Attempt) -> None:
        """From now on, do not let the server think we died with it."""
        self.held.add(attempt)

    def release(self, attempt: Attempt) -> None:
        """It is settled."""
        self.held.discard(attempt)

    async def keep(self) -> None:
        """Renew for ever. A handler that blocks the event loop for a whole ack wait loses its leases: use threads."""
        while True:
            await asyncio.sleep(self._every)
            for attempt in list(self.held):
                if attempt in self.held:
                    await attempt.delivery.extend()
