"""Reports cancellations that have aged out: the server leaves a mark where the last record of a conversation was."""

import asyncio
import logging

from tieline import headers as names
from tieline import subjects
from tieline.errors import NotApplied
from tieline.runtime.bus import Bus
from tieline.services.stopping import until_stopped
from tieline.wire.feed import Feed

__all__ = ["run"]

log = logging.getLogger("tieline.cancelling")

_STREAM = "CANCELLED"
_AGAIN = 60.0


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Read marks until ``stop``. Those of the last day are reported again after a restart."""
    await until_stopped(_follow(bus), bus.connection, stop)


async def _follow(bus: Bus) -> None:
    while True:
        try:
            feed = Feed(bus.connection, _STREAM, [subjects.cancelled_copy("*")], start=1, headers_only=True)
            async for delivery in feed:
                if names.MARKER in delivery.headers:
                    log.warning(
                        "the cancellation of conversation %s has aged out: messages of it that come from now on are "
                        "handled; `tieline calls cancel` cancels it again",
                        subjects.named_by(delivery.subject.rpartition(".")[2]) or delivery.subject,
                    )
        except NotApplied as error:
            log.info("no cancellations can be read: %s", error)
            await asyncio.sleep(_AGAIN)
