"""The accountant: published = done + dead + expired + pending, for each stream and agent, from the bus alone.

It reads what the streams stored (all of it, also from foreign clients), what facts, dead letters and the journal say
became of it, and what the server says its consumers still owe, and lays them side by side.
"""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict, replace
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.errors import NotAccepted, Unsettled
from tieline.runtime.bus import Bus
from tieline.services.expiries import Expiries
from tieline.services.ledger import Account, Holes, Row
from tieline.services.stopping import until_stopped
from tieline.wire.connection import NoAnswer, Received
from tieline.wire.feed import Feed
from tieline.wire.topology import consumer_infos, consumers_of, is_waker

__all__ = ["NOBODY", "Accountant", "run", "sum_subject", "take", "take_settled"]

log = logging.getLogger("tieline.accountant")

_EVERY = 2.0  # seconds between looks at the consumers; facts are told within a fraction of it
_COUNTED = 10.0  # seconds that a sum which does not hold is counted again
_BETWEEN = 0.5
_LAGS = 40_000  # messages that wait to be counted: two seconds of work
NOBODY = "(nobody)"
_UNSEEN = "(unseen)"


def sum_subject(pod: str) -> str:
    """Where the accountant of a pod answers with its rows, as JSON."""
    return f"tieline.sum.{pod}"


class Accountant:
    """Follows a pod's streams. A task each for the streams, the facts, the records and the dead letters; one loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        consumers = [c for c in consumers_of(bus.pod) if not is_waker(c.durable)]  # records are no messages
        self._streams = [name for name in bus.pod.streams if any(c.stream == name for c in consumers)]
        self._consumers = {(c.stream, c.durable): c for c in consumers}
        self._accounts = {key: Account(*key) for key in self._consumers}
        self._nobody = {stream: Account(stream, NOBODY) for stream in self._streams}
        self._holes = {stream: Holes() for stream in self._streams}
        self._late: set[str] = set()
        self._behind: dict[str, int] = {}  # messages of a stream that wait to be read
        self._expiries: Expiries | None = None  # made by who follows: who only counts tells nobody
        self._delivered: dict[tuple[str, str], int] = {}  # the last sequence that each consumer delivered
        self._floors: dict[tuple[str, str], int] = {}  # as they were at the last look: facts have had time since

    async def follow(self) -> None:
        """Read for ever, from the oldest message still stored, and tell of what expires."""
        self._expiries = Expiries(self._bus)
        async with asyncio.TaskGroup() as group:
            for reading in self._readings(to_end=False):
                group.create_task(reading)
            while True:
                await asyncio.sleep(_EVERY)
                try:
                    await self._look()
                    await self._tell()
                except NoAnswer as silence:
                    log.warning("the accountant cannot look now: %s", silence)
                self._say_whether_it_lags()

    async def catch_up(self) -> None:
        """Read everything that is there now, then return."""
        await self._look()  # first: what is acknowledged now has its facts and records on the bus before we read them
        readings = self._readings(to_end=True)
        try:
            for reading in readings:
                await reading
        finally:
            for reading in readings:
                reading.close()
        await self._look()

    async def rows(self) -> list[Row]:
        """The sum as it stands: a row for each agent and stream, one for messages that nobody consumes, and one for
        those that were gone before anybody saw them."""
        owed = await self._owed()
        found = [account.row(owed.get(key, (0, 0, 0))[1]) for key, account in self._accounts.items()]
        found += [account.row(None) for account in self._nobody.values()]
        found += [_unseen(stream, holes) for stream, holes in self._holes.items()]
        return [
            replace(row, upto=self._holes[row.stream].upto, behind=self._behind.get(row.stream, 0))
            for row in found
            if row.published or row.agent not in (NOBODY, _UNSEEN)
        ]

    def _readings(self, *, to_end: bool) -> list[Coroutine[Any, Any, None]]:
        connection, pod = self._bus.connection, self._bus.pod
        readings = []
        for stream in self._streams:
            filters = pod.streams[stream].subjects
            feed = Feed(connection, stream, filters, start=1, to_end=to_end, headers_only=True)
            readings.append(self._read_stream(feed))
        kinds = [subjects.step_filter("*", "park"), subjects.step_filter("*", "over")]
        steps = Feed(connection, "STEP", kinds, start=1, to_end=to_end, headers_only=True)
        waiting = Feed(connection, "SCHEDULE", [subjects.schedules()], start=1, to_end=to_end, headers_only=True)
        readings += [self._read_steps(steps), self._read_waiting(waiting)]
        readings.append(self._read_facts(self._bus.feed("call.audit.*", start=1, to_end=to_end)))
        dead = Feed(connection, "DLQ", ("DLQ.>",), start=1, to_end=to_end, headers_only=True)
        readings.append(self._read_dead(dead))
        return readings

    async def _read_stream(self, feed: Feed) -> None:
        async for delivery in feed:
            stream, seq, subject = delivery.stream, delivery.seq, delivery.stored_as
            self._behind[stream] = delivery.left
            for skipped in self._holes[stream].read(seq):
                self._skipped(stream, skipped)
            of = _seq_in(delivery.origin, stream) if delivery.redriven else None
            if self._expiries is not None:
                await self._expiries.stored(delivery, seq if of is None else of)
            if of is None:
                self._stored(stream, seq, subject, delivery.expires)
                continue
            for account in self._takers(stream, subject):
                account.copied(seq, of, delivery.expires)

    async def _read_steps(self, feed: Feed) -> None:
        """What the journal has of messages that were put aside: facts may be lost with a process, records are not."""
        async for delivery in feed:
            _, agent, _, kind, _ = delivery.subject.split(".")
            account, seq = self._account_of(delivery.headers.get(names.ORIGIN, ""), agent)
            if account is not None and kind == "over":
                account.over(seq)
            elif account is not None:
                account.put_aside(seq)

    async def _read_waiting(self, feed: Feed) -> None:
        """Messages that the server will bring back at their time."""
        async for delivery in feed:
            agent = delivery.headers.get("Nats-Schedule-Target", "").rpartition(".")[2]
            account, seq = self._account_of(delivery.headers.get(names.ORIGIN, ""), agent)
            if account is not None:
                account.put_aside(seq)

    async def _read_facts(self, feed: Feed) -> None:
        async for delivery in feed:
            fact = _object(delivery.payload)
            self._behind[delivery.stream] = delivery.left
            stream, seq = fact.get("stream"), fact.get("seq")
            if not isinstance(stream, str) or not isinstance(seq, int):
                continue
            if fact.get("fact") == "published":
                # A TTL may have removed the message before we read its stream; who published it still says so.
                expires = fact.get("expires")
                if self._expiries is not None:
                    self._expiries.published(fact)
                self._stored(stream, seq, str(fact.get("subject")), expires if isinstance(expires, float) else None)
            elif fact.get("fact") == "settled":
                self._hear_of(stream, seq, str(fact.get("subject")), str(fact.get("origin")))
                self._settled(stream, str(fact.get("by")), seq, str(fact.get("outcome")), str(fact.get("origin")))

    async def _read_dead(self, feed: Feed) -> None:
        async for delivery in feed:
            told = _object(delivery.headers.get(names.DEAD, "").encode())
            stream, seq = told.get("stream"), told.get("seq")
            if not isinstance(stream, str) or not isinstance(seq, int):
                continue
            if told.get("cause") == "unknown" and stream in self._nobody:
                self._nobody[stream].stored(seq)  # it was removed from its stream, maybe before we read that
                self._nobody[stream].settled(seq, "dead")
            self._hear_of(stream, seq, str(told.get("subject")), str(told.get("origin")))
            self._settled(stream, str(told.get("agent")), seq, "dead", str(told.get("origin")))

    def _skipped(self, stream: str, seq: int) -> None:
        """A message was gone before we read it. Facts may know it, now or later; else nobody saw it."""
        accounts = [account for account in (*self._accounts.values(), self._nobody[stream]) if account.stream == stream]
        for account in accounts:
            if account.heard(seq):
                account.stored(seq)
        if not any(account.knows(seq) for account in accounts):
            self._holes[stream].add(seq)

    def _hear_of(self, stream: str, seq: int, subject: str, origin: str) -> None:
        """Somebody tells how a message ended, or a copy of one, that we did not see."""
        if stream in self._holes and seq in self._holes[stream]:
            self._holes[stream].told(seq)
            if _seq_in(origin, stream) in (None, seq):
                self._stored(stream, seq, subject, None)

    def _stored(self, stream: str, seq: int, subject: str, expires: float | None) -> None:
        if stream not in self._nobody:
            return
        self._holes[stream].told(seq)
        for account in self._takers(stream, subject) or [self._nobody[stream]]:
            account.stored(seq, expires)

    def _settled(self, stream: str, agent: str, seq: int, outcome: str, origin: str) -> None:
        account = self._accounts.get((stream, agent))
        if account is None:
            return
        match outcome:
            case "done" | "dead" | "parked":
                account.settled(seq, outcome, _seq_in(origin, stream))

    def _takers(self, stream: str, subject: str) -> list[Account]:
        return [
            self._accounts[key]
            for key, consumer in self._consumers.items()
            if key[0] == stream and any(subjects.covers(wanted, subject) for wanted in consumer.filters)
        ]

    def _account_of(self, origin: str, agent: str) -> tuple[Account | None, int]:
        """The account of the message that a record is about, and its sequence."""
        stream = origin.rsplit("-", 2)[0]
        seq = _seq_in(origin, stream)
        return (None, 0) if seq is None else (self._accounts.get((stream, agent)), seq)

    async def _look(self) -> None:
        """Close what nobody told us of, by what consumers owed at the last look: what is told of it was read since."""
        owed = await self._owed()
        now = time.time()
        for key, account in self._accounts.items():
            floor = owed.get(key, (0, 0, 0))[0]
            account.look(now, self._floors.get(key, 0))
            account.forget(self._floors.get(key, 0))
            self._floors[key] = floor
            self._delivered[key] = owed.get(key, (0, 0, 0))[2]
        for account in self._nobody.values():
            account.look(now, 0)

    def _say_whether_it_lags(self) -> None:
        late = {stream: left for stream, left in self._behind.items() if left > _LAGS}
        for stream in late.keys() - self._late:
            log.warning("the accountant lags: %s messages of %s wait to be counted", f"{late[stream]:,}", stream)
        for stream in self._late - late.keys():
            log.warning("the accountant has caught up with %s", stream)
        self._late = set(late)

    async def _tell(self) -> None:
        """Tell of what expired, and of what could not be told before."""
        if self._expiries is None:
            return
        try:
            for key, account in self._accounts.items():
                await self._expiries.tell(account, self._delivered.get(key, 0), time.time())
            for account in self._nobody.values():
                await self._expiries.tell(account, 0, time.time())
        except (NotAccepted, Unsettled) as error:
            log.warning("what expired cannot be told of now: %s", error)
            return
        for stream in self._streams:
            held = [account for account in self._accounts.values() if account.stream == stream]
            upto = min(self._floors.get((stream, account.agent), 0) for account in held)
            self._expiries.forget(stream, upto, [*held, self._nobody[stream]])

    async def _owed(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """For each consumer: the sequence up to which it owes nothing, how many it owes, and the last it delivered."""
        owed = {}
        for stream in self._streams:
            for info in await consumer_infos(self._bus.connection, stream):
                pending = int(info["num_pending"]) + int(info["num_ack_pending"])
                delivered, floor = int(info["delivered"]["stream_seq"]), int(info["ack_floor"]["stream_seq"])
                owed[stream, info["name"]] = (floor if info["num_ack_pending"] else delivered, pending, delivered)
        return owed


async def take(bus: Bus) -> list[Row]:
    """The sum of a pod right now, read from the beginning. Exact when the pod is quiet."""
    accountant = Accountant(bus)
    await accountant.catch_up()
    return await accountant.rows()


async def take_settled(bus: Bus) -> list[Row]:
    """Like `take`, again for ten seconds while it does not hold: messages may have moved under the count."""
    until = time.monotonic() + _COUNTED
    rows = await take(bus)
    while not all(row.holds for row in rows) and time.monotonic() < until:
        await asyncio.sleep(_BETWEEN)
        rows = await take(bus)
    return rows


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Follow the pod until ``stop`` is set, and answer requests on `sum_subject` with the rows as JSON."""
    accountant = Accountant(bus)
    answering: set[asyncio.Task[None]] = set()

    def asked(request: Received) -> None:
        task = asyncio.ensure_future(_answer(bus, accountant, request.reply))
        answering.add(task)
        task.add_done_callback(answering.discard)

    listening = bus.connection.listen(sum_subject(bus.pod.name), asked)
    try:
        await until_stopped(accountant.follow(), bus.connection, stop)
    finally:
        await listening.stop()


async def _answer(bus: Bus, accountant: Accountant, reply: str | None) -> None:
    if reply:
        rows = [asdict(row) | {"holds": row.holds} for row in await accountant.rows()]
        await bus.connection.send(reply, json.dumps(rows).encode())


def _seq_in(origin: str, stream: str) -> int | None:
    """The sequence in ``stream`` of the message with this origin; None where it came from elsewhere."""
    name, _, rest = origin.rpartition("-")
    name, _, seq = name.rpartition("-")
    return int(seq) if rest and name == stream and seq.isdecimal() else None


def _unseen(stream: str, holes: Holes) -> Row:
    gone = len(holes)
    return Row(
        stream=stream,
        agent=_UNSEEN,
        published=gone,
        done=0,
        dead=0,
        expired=gone,
        pending=0,
        parked=0,
        inferred=0,
        owed=0,
        at_server=None,
    )


def _object(payload: bytes) -> dict[str, object]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
