"""`Lease`: slow is not dead. While a delivery is held, its ack wait is started again."""

import asyncio

from tieline.wire.delivery import Delivery

__all__ = ["Lease"]

_RENEW = 1 / 3  # of the ack wait: survives two lost renewals in a row


class Lease:
    """The deliveries one worker holds. Written by the worker's tasks, read by `keep`; one loop."""

    def __init__(self, ack_wait: float) -> None:
        self._every = ack_wait * _RENEW
        self._held: set[Delivery] = set()

    def hold(self, delivery: Delivery) -> None:
        """From now on, do not let the server think we died with it."""
        self._held.add(delivery)

    def release(self, delivery: Delivery) -> None:
        """It is settled."""
        self._held.discard(delivery)

    async def keep(self) -> None:
        """Renew for ever. A handler that blocks the event loop for a whole ack wait loses its leases: use threads."""
        while True:
            await asyncio.sleep(self._every)
            for delivery in list(self._held):
                if delivery in self._held:
                    await delivery.extend()
