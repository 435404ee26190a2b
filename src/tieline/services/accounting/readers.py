"""`Readers`: a task for each stream that a pod's books are kept from. Each message is one call of `Books`."""

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

from tieline import headers as names
from tieline import subjects
from tieline.errors import BadPayload
from tieline.records.checkpoint import Due, Position
from tieline.records.dead_letters import read_dead_letter
from tieline.records.facts import is_fact
from tieline.records.losses import ACCEPTED, AcceptedLoss
from tieline.records.reading import read_object, read_ttl
from tieline.records.settlements import Settlements
from tieline.services.accounting.books import Books, Hold
from tieline.services.accounting.survey import StreamView
from tieline.wire.connection import Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed
from tieline.wire.unreadable import Kind

__all__ = ["Observer", "Readers"]

log = logging.getLogger("tieline.accountant")

_POLL = 0.01  # seconds between two questions whether a reader is there
_SLOWEST = 0.2
_RECORDS = (subjects.step_filter("*", "park"), subjects.step_filter("*", "over"))


class Observer(Protocol):
    """Somebody who wants to know of messages and facts that are read, after the books do."""

    async def stored(self, delivery: Delivery) -> None:
        """A message of a stream that is consumed, without its payload."""

    def told(self, fact: Mapping[str, Any]) -> None:
        """A fact."""


class Readers:
    """The readers of one set of books, as tasks of ``group``; one that cannot read ends the group."""

    def __init__(self, connection: Connection, group: asyncio.TaskGroup, observer: Observer | None = None) -> None:
        self.books = Books([], 0.0)  # set before the first `start`
        self._connection = connection
        self._group = group
        self._observer = observer
        self._feeds: dict[str, Feed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._backfills: set[asyncio.Task[None]] = set()
        self.behind: dict[str, int] = {}  # messages of a stream that wait to be read

    def start(self, stream: str) -> None:
        """Read a stream from the position that the books have; a reader that reads it already is replaced."""
        if stream in self._tasks:
            self._tasks[stream].cancel()
        filters = _RECORDS if stream == "STEP" else [">"]
        facts = stream == "CALL_AUDIT"
        start = self.books.positions[stream].seq + 1
        feed = Feed(self._connection, stream, filters, start=start, headers_only=not facts)
        self._feeds[stream] = feed
        self._tasks[stream] = self._group.create_task(self._read(stream, feed), name=f"tieline-accountant-{stream}")

    def backfill(self, hold: Hold, upto: int) -> None:
        """Read for an agent that has a new account what its stream still holds, up to a sequence."""
        if upto:
            task = self._group.create_task(self._backfill(hold, upto), name="tieline-accountant-backfill")
            self._backfills.add(task)
            task.add_done_callback(self._backfills.discard)

    def stop(self) -> None:
        """Read no further."""
        for task in (*self._tasks.values(), *self._backfills):
            task.cancel()

    async def have_passed(self, streams: Mapping[str, StreamView]) -> None:
        """Return when everything was read that these streams held."""
        if self._backfills:
            await asyncio.wait(self._backfills)
        await asyncio.gather(*(self._has_passed(view) for view in streams.values()))

    async def _has_passed(self, view: StreamView) -> None:
        wait = _POLL
        while self.books.positions[view.name].seq < view.last_seq:
            if await self._feeds[view.name].has_caught_up(view.leader):
                if self.books.positions[view.name].seq < view.last_seq:
                    # What it does not read, or what is gone: it does not have to be looked at again.
                    self.books.positions[view.name] = Position(
                        view.last_seq, view.created, self.books.positions[view.name].life
                    )
                return
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _SLOWEST)

    async def _read(self, stream: str, feed: Feed) -> None:
        take = {"CALL_AUDIT": self._fact, "STEP": self._record, "SCHEDULE": self._waiting, "DLQ": self._letter}
        if stream in take:
            async for delivery in feed:
                self.behind[stream] = delivery.left
                take[stream](delivery)
                self.books.read(stream, delivery.seq)
            return
        async for delivery in feed:
            self.behind[stream] = delivery.left
            origin = delivery.origin if delivery.redriven else None
            self.books.message(stream, delivery.seq, delivery.stored_as, _due(delivery), origin)
            if self._observer is not None:
                await self._observer.stored(delivery)

    async def _backfill(self, hold: Hold, upto: int) -> None:
        feed = Feed(self._connection, hold.stream, hold.filters, start=1, to_end=True, headers_only=True)
        async for delivery in feed:
            if delivery.seq > upto:
                return
            self.books.backfill(hold, delivery.seq, _due(delivery), delivery.origin if delivery.redriven else None)

    def _fact(self, delivery: Delivery) -> None:
        fact = read_object(delivery.payload)
        kind = None if fact is None else fact.get("fact")
        try:
            if fact is None or not is_fact(fact):
                raise BadPayload("not a fact, or a field of it is out of bounds")
            if kind == "settlements":
                self.books.settlements(Settlements.decode(delivery.payload))
            elif kind == ACCEPTED:
                self.books.accepted(AcceptedLoss.decode(delivery.payload))
            else:
                self.books.fact(fact)
                if self._observer is not None:
                    self._observer.told(fact)
        except BadPayload as error:
            log.info("message %d of %s: %s", delivery.seq, delivery.stream, error)
            self._skip(delivery, "settlement" if kind == "settlements" else "fact")

    def _record(self, delivery: Delivery) -> None:
        """What the journal has of messages that were put aside, or are over."""
        _, agent, _, kind, *_ = [*delivery.subject.split("."), "", "", "", ""]
        self.books.put_aside(agent, delivery.headers.get(names.ORIGIN, ""), over=kind == "over")

    def _waiting(self, delivery: Delivery) -> None:
        """A message that the server brings back at its time, or has brought back just now."""
        target = delivery.headers.get("Nats-Schedule-Target", delivery.stored_as)
        self.books.put_aside(target.rpartition(".")[2], delivery.headers.get(names.ORIGIN, ""))

    def _letter(self, delivery: Delivery) -> None:
        told = read_dead_letter(delivery.headers.get(names.DEAD, ""))
        if told is None:
            self._skip(delivery, "dead letter")
        else:
            self.books.dead_letter(told)

    def _skip(self, delivery: Delivery, kind: Kind) -> None:
        self._connection.unreadable.skip(kind, delivery.stored_as, delivery.stream, delivery.seq)


def _due(delivery: Delivery) -> Due:
    ttl = delivery.headers.get(names.TTL)
    if ttl is None:
        return delivery.stored, None, delivery.stored_as
    if ttl.lower() == "never":
        return delivery.stored, math.inf, delivery.stored_as
    seconds = read_ttl(ttl)
    return delivery.stored, None if seconds is None else delivery.stored + seconds, delivery.stored_as
