"""Losses that the sum shows: which messages they are, and how an operator accepts them after having looked."""

import os
import time
from dataclasses import dataclass
from itertools import batched

from tieline import headers as names
from tieline import subjects
from tieline.records.losses import MOST_RANGES, AcceptedLoss
from tieline.records.settlements import ranges_of
from tieline.runtime.bus import Bus
from tieline.services.accounting.keeper import count_now
from tieline.services.accounting.unseen import UNSEEN

__all__ = ["Loss", "accept", "losses"]


@dataclass(frozen=True, slots=True)
class Loss:
    """Messages of ``stream`` that are unaccounted for ``agent``, as ranges of sequences.

    ``earlier``: how many more the stream had before it was deleted and created again; their sequences mean others now.
    """

    stream: str
    agent: str
    ranges: tuple[tuple[int, int], ...]
    earlier: int = 0

    @property
    def count(self) -> int:
        """How many messages."""
        return self.earlier + sum(last - first + 1 for first, last in self.ranges)


async def losses(bus: Bus) -> list[Loss]:
    """What is unaccounted now, from the newest checkpoint and what came since. Changes nothing."""
    keeper = await count_now(bus.connection, bus.pod)
    found = [
        Loss(account.stream, account.agent, ranges_of(account.unaccounted()), account.earlier)
        for stream in keeper.books.streams
        for account in keeper.books.of_stream(stream)
    ]
    found += [Loss(stream, UNSEEN, tuple(gaps.open()), gaps.earlier) for stream, gaps in keeper.books.unseen.items()]
    return [loss for loss in found if loss.count]


async def accept(bus: Bus, found: list[Loss], by: str, reason: str) -> None:
    """Record that ``by`` has looked at these losses and accepts them: they no longer break the sum. Raises like a
    publish."""
    for loss in found:
        for number, some in enumerate(list(batched(loss.ranges, MOST_RANGES, strict=False)) or [()]):
            record = AcceptedLoss(
                stream=loss.stream,
                agent=loss.agent,
                ranges=tuple(some),
                earlier=0 if number else loss.earlier,
                accepted_by=by,
                reason=reason,
                at=time.time(),
            )
            headers = {names.MSG_ID: os.urandom(16).hex()}
            await bus.publisher.publish(subjects.AUDIT, record.encode(), headers)
