"""The accountant: what became of every message, for each stream and agent, from the bus alone.

It reads what the streams stored (all of it, also from foreign clients) and what facts, settlement records, dead letters
and the journal say became of it, and lays that beside what the server says its consumers have passed. Nothing is done
without a fact or a record. What it knows is in a checkpoint on the bus, so that a restart reads only what came since.

Several may run for one pod. One leads: it answers, reports what expired, and writes checkpoints. The others stand by.
"""

import asyncio
import logging
import random
import time
from collections.abc import Mapping

from tieline.errors import NotAccepted, NotApplied, Unsettled, first_of
from tieline.records.checkpoint import Position
from tieline.runtime.bus import Bus
from tieline.services.accounting.asking import CATCHING_UP, ask, encode_rows, sum_subject
from tieline.services.accounting.books import NOBODY
from tieline.services.accounting.checkpoints import Overtaken
from tieline.services.accounting.keeper import Keeper, Restored, count_now
from tieline.services.accounting.readers import Readers
from tieline.services.expiries import Expiries
from tieline.services.ledger import Row
from tieline.services.stopping import until_stopped
from tieline.wire.connection import ApiError, NoAnswer, Received

__all__ = ["NOBODY", "Accountant", "run", "sum_subject", "take", "take_settled"]

log = logging.getLogger("tieline.accountant")

_EVERY = 2.0  # seconds between looks at the consumers
_CHECKPOINT_EVERY = 3.0  # seconds; longer where a checkpoint is so large that writing it takes long
_SHARE = 20  # of the time at most one part is spent on writing checkpoints
_STANDBY = 1.0  # seconds between two questions whether another accountant leads
_PING_WAIT = 1.0
_FAREWELL = 2.0  # seconds that the last checkpoint may take
_COUNTED = 10.0  # seconds that a sum which does not hold is counted again
_BETWEEN = 0.25
_LAGS = 40_000  # messages that wait to be counted: two seconds of work
_LAG_EVERY = 2.0
_MISSING = 60.0  # seconds that a stream which was there may be missing: `tieline apply` makes STEP again
_PROMPT = 0.8  # seconds that an answer may wait for a look
_PING, _PONG = b"ping", b"pong"


async def take(bus: Bus) -> list[Row]:
    """The sum of a pod right now: from its accountant, or where none runs, from the newest checkpoint and what came
    since. It changes nothing."""
    try:
        return await ask(bus.connection, bus.pod.name)
    except NoAnswer:
        return (await count_now(bus.connection, bus.pod)).rows or []


async def take_settled(bus: Bus) -> list[Row]:
    """Like `take`, again for ten seconds while the server counts otherwise: an acknowledgement may be on its way."""
    until = time.monotonic() + _COUNTED
    rows = await take(bus)
    while any(row.difference for row in rows) and time.monotonic() < until:
        await asyncio.sleep(_BETWEEN)
        rows = await take(bus)
    return rows


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Keep the books of the pod until ``stop`` is set, and answer requests on `sum_subject` with the rows as JSON."""
    await until_stopped(Accountant(bus).work(), bus.connection, stop)


class Accountant:
    """Leads, or stands by while another accountant of the pod leads."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._scratch = False  # the checkpoint must not be used
        self._led_until = -_MISSING  # when it last led, in the clock's time

    async def work(self) -> None:
        """Do so for ever. Cancelled while it leads, it writes a last checkpoint."""
        while True:
            if await self._is_led():
                await asyncio.sleep(_STANDBY)
                continue
            try:
                await self._lead()
            except Overtaken:
                log.warning("another accountant of pod %s leads: this one stands by", self._bus.pod.name)
            except Restored as restored:
                log.error("%s. The sum is counted from scratch", restored)
                self._scratch = True
            except NoAnswer as silence:
                log.warning("the accountant cannot begin now: %s", silence)
            except NotApplied as missing:
                if time.monotonic() > self._led_until + _MISSING:
                    raise
                log.warning("the accountant waits for a stream: %s", missing)
            await asyncio.sleep(random.uniform(0.5, 1.0) * _STANDBY)

    async def _is_led(self) -> bool:
        for _ in range(2):  # one answer may be lost, or late
            try:
                await self._bus.connection.request(sum_subject(self._bus.pod.name), _PING, wait=_PING_WAIT)
            except NoAnswer:
                await asyncio.sleep(random.uniform(0.0, 0.1) * _STANDBY)
            else:
                return True
        return False

    async def _lead(self) -> None:
        lead = None
        try:
            async with asyncio.TaskGroup() as group:
                lead = _Lead(self._bus, group)
                await lead.work(self._scratch)
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None
        finally:
            if lead is not None and lead.has_looked:
                self._led_until, self._scratch = time.monotonic(), False


class _Lead:
    """One accountant's time as the leader."""

    def __init__(self, bus: Bus, group: asyncio.TaskGroup) -> None:
        self._bus = bus
        self._group = group
        self._expiries = Expiries(bus)
        self._keeper = Keeper(bus.connection, bus.pod, Readers(bus.connection, group, self._expiries))
        self._saved: Mapping[str, Position] = {}
        self._lags: set[str] = set()
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def has_looked(self) -> bool:
        """Whether everything was read and judged once."""
        return self._keeper.rows is not None

    async def work(self, scratch: bool) -> None:
        """Look, report and write checkpoints for ever. Raises `Overtaken` where another one does the same."""
        listening = self._bus.connection.listen(sum_subject(self._bus.pod.name), self._asked)
        try:
            await self._keeper.open(create=True, scratch=scratch)
            self._group.create_task(self._save_for_ever(), name="tieline-accountant-checkpoints")
            self._group.create_task(self._watch_lag(), name="tieline-accountant-lag")
            while True:
                try:
                    await self._keeper.look()
                    await self._report()
                except (NoAnswer, ApiError) as silence:
                    log.warning("the accountant cannot look now: %s", silence)
                await asyncio.sleep(_EVERY)
        except asyncio.CancelledError:
            await self._save_at_the_end()
            raise
        finally:
            await listening.stop()

    def _asked(self, request: Received) -> None:
        if request.reply:
            task = asyncio.ensure_future(self._answer(request.reply, ping=request.payload == _PING))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, reply: str, *, ping: bool) -> None:
        """Answer with the sum as of now; with that of the last look where the server is slow."""
        answer = _PONG
        if not ping:
            try:
                async with asyncio.timeout(_PROMPT):
                    rows: list[Row] | None = await self._keeper.look() if self._keeper.is_open else None
            except (TimeoutError, NoAnswer, ApiError, Restored):
                rows = self._keeper.rows
            answer = CATCHING_UP if rows is None else encode_rows(rows)
        await self._bus.connection.send(reply, answer)

    async def _report(self) -> None:
        """Report what expired, and what could not be reported before."""
        books, keeper = self._keeper.books, self._keeper
        now = time.time()
        try:
            for stream in books.streams:
                for account in books.of_stream(stream):
                    await self._expiries.prepare(account, now, keeper.ages.get(stream))
                    in_hand = keeper.in_hand.get((stream, account.agent), range(0))
                    await self._expiries.report(account, books.positions[stream].created, in_hand, now)
        except (NotAccepted, Unsettled) as error:
            log.warning("what expired cannot be reported now: %s", error)
        self._expiries.forget([*books.accounts.values(), *books.nobody.values()])

    async def _save_for_ever(self) -> None:
        wait = 0.0
        while True:
            await asyncio.sleep(wait)
            began = time.monotonic()
            try:
                await self._save()
            except (NoAnswer, ApiError) as error:
                log.warning("the checkpoint of the sum cannot be stored now: %s", error)
            wait = max(_CHECKPOINT_EVERY, (time.monotonic() - began) * _SHARE) if self._saved else _BETWEEN

    async def _save(self) -> None:
        """Write a checkpoint, if anything was read since the last one, and not before everything was judged once."""
        positions = dict(self._keeper.books.positions)
        if self._keeper.rows is not None and positions != self._saved:
            await self._keeper.checkpoints.store(self._keeper.books.checkpoint(time.time()))
            self._saved = positions

    async def _save_at_the_end(self) -> None:
        if self._bus.connection.lost.done():
            return
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._save()
        except (TimeoutError, NoAnswer, ApiError, Overtaken) as error:
            log.info("no last checkpoint of the sum: %s", error)

    async def _watch_lag(self) -> None:
        """A look waits for what is to be read; this does not."""
        while True:
            await asyncio.sleep(_LAG_EVERY)
            self._warn_of_lag()

    def _warn_of_lag(self) -> None:
        lags = {stream: left for stream, left in self._keeper.readers.behind.items() if left > _LAGS}
        for stream in lags.keys() - self._lags:
            log.warning("the accountant lags: %s messages of %s wait to be counted", f"{lags[stream]:,}", stream)
        for stream in self._lags - lags.keys():
            log.warning("the accountant has caught up with %s", stream)
        self._lags = set(lags)
