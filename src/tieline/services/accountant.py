"""The accountant: published = done + dead + expired + pending, for each stream and agent, from the bus alone.

It reads what the streams stored (all of it, also from foreign clients), what facts and dead letters say became of it,
and what the server says its consumers still owe, and lays the three side by side.
"""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.runtime.bus import Bus
from tieline.services.ledger import Account, Row
from tieline.wire.connection import Received
from tieline.wire.feed import Feed
from tieline.wire.topology import Consumer, consumer_infos, consumers_of

__all__ = ["Accountant", "run", "sum_subject", "take"]

log = logging.getLogger("tieline.accountant")

_EVERY = 2.0  # seconds between looks at the consumers; facts are told within a fraction of it
_NOBODY = "(nobody)"


def sum_subject(pod: str) -> str:
    """Where the accountant of a pod answers with its rows, as JSON."""
    return f"tieline.sum.{pod}"


class Accountant:
    """Follows a pod's streams. One task each for the streams, the facts and the dead letters; one event loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        consumers = consumers_of(bus.pod)
        self._streams = [name for name in bus.pod.streams if any(c.stream == name for c in consumers)]
        self._consumers = {(c.stream, c.durable): c for c in consumers}
        self._accounts = {key: Account(*key) for key in self._consumers}
        self._nobody = {stream: Account(stream, _NOBODY) for stream in self._streams}
        self._floors: dict[tuple[str, str], int] = {}  # as they were at the last look: facts have had time since

    async def follow(self) -> None:
        """Read for ever, from the oldest message still stored."""
        async with asyncio.TaskGroup() as group:
            for reading in self._readings(to_end=False):
                group.create_task(reading)
            while True:
                await asyncio.sleep(_EVERY)
                await self._look(settled=False)

    async def catch_up(self) -> None:
        """Read everything that is there now, then return."""
        for reading in self._readings(to_end=True):
            await reading
        await self._look(settled=True)

    async def rows(self) -> list[Row]:
        """The sum as it stands: a row for each agent and stream, and one for messages that nobody consumes."""
        owed = await self._owed()
        found = [account.row(owed.get(key, (0, 0))[1]) for key, account in self._accounts.items()]
        found += [account.row(None) for account in self._nobody.values()]
        return [row for row in found if row.published or row.agent != _NOBODY]

    def _readings(self, *, to_end: bool) -> list[Coroutine[Any, Any, None]]:
        connection, pod = self._bus.connection, self._bus.pod
        readings = []
        for stream in self._streams:
            filters = pod.streams[stream].subjects
            feed = Feed(connection, stream, filters, start=1, to_end=to_end, headers_only=True)
            readings.append(self._read_stream(feed))
        readings.append(self._read_facts(self._bus.feed("call.audit.*", start=1, to_end=to_end)))
        dead = Feed(connection, "DLQ", ("DLQ.>",), start=1, to_end=to_end, headers_only=True)
        readings.append(self._read_dead(dead))
        return readings

    async def _read_stream(self, feed: Feed) -> None:
        async for delivery in feed:
            self._stored(delivery.stream, delivery.seq, delivery.subject, delivery.expires)

    async def _read_facts(self, feed: Feed) -> None:
        async for delivery in feed:
            fact = _object(delivery.payload)
            stream, seq = fact.get("stream"), fact.get("seq")
            if not isinstance(stream, str) or not isinstance(seq, int):
                continue
            if fact.get("fact") == "published":
                # A TTL may have removed the message before we read its stream; who published it still says so.
                expires = fact.get("expires")
                self._stored(stream, seq, str(fact.get("subject")), expires if isinstance(expires, float) else None)
            elif fact.get("fact") == "settled" and fact.get("outcome") in ("done", "dead"):
                self._ended(stream, str(fact.get("by")), seq, dead=fact.get("outcome") == "dead")

    async def _read_dead(self, feed: Feed) -> None:
        async for delivery in feed:
            told = _object(delivery.headers.get(names.DEAD, "").encode())
            stream, seq = told.get("stream"), told.get("seq")
            if isinstance(stream, str) and isinstance(seq, int):
                self._ended(stream, str(told.get("agent")), seq, dead=True)

    def _stored(self, stream: str, seq: int, subject: str, expires: float | None) -> None:
        if stream not in self._nobody:
            return
        wanted_by = [key for key, consumer in self._consumers.items() if key[0] == stream and _takes(consumer, subject)]
        for account in [self._accounts[key] for key in wanted_by] or [self._nobody[stream]]:
            account.stored(seq, expires)

    def _ended(self, stream: str, agent: str, seq: int, *, dead: bool) -> None:
        account = self._accounts.get((stream, agent))
        if account is not None:
            account.ended(seq, "dead" if dead else "done")

    async def _look(self, *, settled: bool) -> None:
        """``settled``: everything told has been read, so that the newest floor may be believed at once."""
        owed = await self._owed()
        now = time.time()
        for key, account in self._accounts.items():
            floor = owed.get(key, (0, 0))[0]
            account.look(now, floor if settled else self._floors.get(key, 0))
            account.forget(self._floors.get(key, 0))
            self._floors[key] = floor
        for account in self._nobody.values():
            account.look(now, 0)

    async def _owed(self) -> dict[tuple[str, str], tuple[int, int]]:
        """For each consumer: the sequence up to which it owes nothing, and how many messages it still owes."""
        owed = {}
        for stream in self._streams:
            for info in await consumer_infos(self._bus.connection, stream):
                pending = int(info["num_pending"]) + int(info["num_ack_pending"])
                delivered, floor = int(info["delivered"]["stream_seq"]), int(info["ack_floor"]["stream_seq"])
                owed[stream, info["name"]] = (floor if info["num_ack_pending"] else delivered, pending)
        return owed


async def take(bus: Bus) -> list[Row]:
    """The sum of a pod right now, read from the beginning. Exact when the pod is quiet."""
    accountant = Accountant(bus)
    await accountant.catch_up()
    return await accountant.rows()


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Follow the pod until ``stop`` is set, and answer requests on `sum_subject` with the rows as JSON."""
    accountant = Accountant(bus)
    answering: set[asyncio.Task[None]] = set()

    def asked(request: Received) -> None:
        task = asyncio.ensure_future(_answer(bus, accountant, request.reply))
        answering.add(task)
        task.add_done_callback(answering.discard)

    listening = bus.connection.listen(sum_subject(bus.pod.name), asked)
    following = asyncio.ensure_future(accountant.follow())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        ends: list[asyncio.Future[Any]] = [following, stopping, bus.connection.lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if bus.connection.lost.done():
            bus.connection.lost.result()
        if following.done():
            following.result()
    finally:
        following.cancel()
        stopping.cancel()
        await asyncio.wait(ends[:2])
        await listening.stop()


async def _answer(bus: Bus, accountant: Accountant, reply: str | None) -> None:
    if reply:
        rows = [asdict(row) | {"holds": row.holds} for row in await accountant.rows()]
        await bus.connection.send(reply, json.dumps(rows).encode())


def _takes(consumer: Consumer, subject: str) -> bool:
    return any(subjects.covers(wanted, subject) for wanted in consumer.filters)


def _object(payload: bytes) -> dict[str, object]:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
