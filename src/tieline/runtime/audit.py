"""The audit: facts go to CALL_AUDIT, in order, in atomic batches, so that they do not double the server's fsyncs.

A delivery is acknowledged only after the batch that holds its `Settled` fact is stored. So whatever a consumer's ack
floor has passed has a stored fact. With ``TIELINE_AUDIT=off`` a `Settlements` record takes the place of the facts.
A stream that is full or does not answer makes facts and acknowledgements wait; no fact is dropped.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields, replace
from typing import get_args

from pydantic.alias_generators import to_camel

from tieline import codec, subjects
from tieline.errors import Denied, NotAccepted, Unconfirmed, Unreachable
from tieline.facts import Fact, Published, Settled
from tieline.records.settlements import Settlements, ranges_of
from tieline.wire.batches import store_together
from tieline.wire.connection import ApiError, Connection, Forbidden, NoAnswer

__all__ = ["Audit", "Release"]

log = logging.getLogger("tieline.audit")

_LINGER = 0.05  # seconds that facts are collected: a batch costs one fsync, however many it holds
_BATCH = 500  # facts; the server takes up to 1,000. Encoding so many keeps handlers waiting for 10 ms at most
_MAX_WAITING = 20_000  # facts waiting; beyond it no new work is taken until the stream has caught up
_MAX_UNACKED = 2_000  # handled deliveries that wait for their fact: a kill makes at most this many run again
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds before a refused batch is tried again
_SAY_AGAIN = 60.0  # seconds between two log lines about a stream that does not take facts
_FULL = frozenset({10077, 10047, 10002, 10023, 10028})  # the stream, the account or the disk has no room
_TOO_LARGE = 10054  # one message is larger than the stream takes

type Release = Callable[[], Awaitable[None]]
"""Acknowledges one delivery. Called once, after its fact is stored."""

type _Entry = tuple[Fact, float, Release | None]  # when it happened, in seconds since 1970


class Audit:
    """Writes facts behind the work and acknowledges deliveries after their facts. ``facts``: False writes settlement
    records only."""

    def __init__(self, connection: Connection, *, facts: bool) -> None:
        self._connection = connection
        self._facts = facts
        self._waiting: list[_Entry] = []
        self._unacked = 0  # entries of _waiting that hold a release
        self._most = _BATCH  # entries in the next batch: halved by a refusal, doubled by a success
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()  # ends the linger: somebody waits for what is written
        self._written = asyncio.Event()
        self._closing = False
        self._said = -_SAY_AGAIN  # when a line about a stream that takes no facts was logged
        self._progress = 0.0  # when a batch was stored last
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer = asyncio.create_task(self._write_all(), name="tieline-audit")
        self._writer.add_done_callback(self._ended)

    def __call__(self, fact: Fact) -> None:
        """Remember a fact; it is on the bus a moment later."""
        self._waiting.append((fact, time.time(), None))
        self._wake.set()

    def conclude(self, settled: Settled, release: Release) -> None:
        """Store ``settled``, then acknowledge its delivery by ``release``."""
        self._waiting.append((settled, time.time(), release))
        self._unacked += 1
        self._wake.set()

    @property
    def full(self) -> bool:
        """Whether so much waits that no new work should begin."""
        return len(self._waiting) >= _MAX_WAITING or self._unacked >= _MAX_UNACKED

    async def room(self, within: float | None = None) -> None:
        """Return once fewer facts wait. `NotAccepted` where that takes longer than ``within`` seconds."""
        try:
            async with asyncio.timeout(within):
                while self.full and not self._writer.done():
                    await self._next_batch()
        except TimeoutError:
            raise NotAccepted(
                f"not published: {len(self._waiting):,} facts of earlier messages wait because no stream stores "
                f"{subjects.FACTS} (tieline report shows whether CALL_AUDIT is full)",
                subject=subjects.FACTS,
            ) from None

    async def written(self, within: float) -> None:
        """Return when every fact told so far is stored. `Unconfirmed` when not in time."""
        try:
            async with asyncio.timeout(within):
                while self._waiting and not self._writer.done():
                    await self._next_batch()
        except TimeoutError:
            raise Unconfirmed(
                f"{subjects.FACTS}: no stream stored the facts within {within:g} s; is CALL_AUDIT full (tieline "
                "report), or does it not exist (tieline apply)?",
                subject=subjects.FACTS,
            ) from None

    async def released(self, patience: float) -> None:
        """Return when every handled delivery is acknowledged, or nothing was stored for ``patience`` seconds."""
        self._progress = asyncio.get_running_loop().time()
        self._hurry.set()
        while self._unacked and not self._writer.done() and (left := self._patience_left(patience)) > 0:
            self._written.clear()
            try:
                async with asyncio.timeout(left):
                    await self._written.wait()
            except TimeoutError:
                continue
        if not self._closing:
            self._hurry.clear()

    async def close(self, patience: float) -> None:
        """Write everything that waits, and give up only when no batch was stored for ``patience`` seconds."""
        self._closing = True
        self._progress = asyncio.get_running_loop().time()
        self._hurry.set()
        self._wake.set()
        while not self._writer.done() and (left := self._patience_left(patience)) > 0:
            await asyncio.wait([self._writer], timeout=left)
        self._writer.cancel()
        if self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # retrieved: whoever ran a host has raised it
        if self._waiting:
            log.error(
                "%d facts were not written before the end, because CALL_AUDIT did not take them: %d handled messages "
                "are not acknowledged and will be delivered again",
                len(self._waiting),
                self._unacked,
            )

    async def ready(self) -> None:
        """Return once the stream of the facts answers. `Denied` where our credentials do not let us write to it."""
        subject = self._subject
        pause = _FIRST_PAUSE
        while True:
            try:
                # No stream has this name, so the one that answers refuses to store the message.
                await self._connection.request(subject, b"", {"Nats-Expected-Stream": "-"})
            except Forbidden as forbidden:
                raise self._denied(forbidden) from forbidden
            except NoAnswer as silence:
                self._say(f"no message is taken before it does: {silence}")
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    @property
    def _subject(self) -> str:
        return subjects.audit("ready") if self._facts else subjects.AUDIT

    def _patience_left(self, patience: float) -> float:
        if self._connection.lost.done() or self.failed.done():
            return 0.0
        return self._progress + patience - asyncio.get_running_loop().time()

    async def _next_batch(self) -> None:
        self._hurry.set()
        self._written.clear()
        await self._written.wait()
        if not self._closing:
            self._hurry.clear()

    async def _write_all(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._wake.wait()
            await self._linger()
            self._wake.clear()
            while self._waiting:
                try:
                    stored = await self._store_next()
                except Unreachable:
                    return  # the process ends with it; what was not acknowledged is delivered again
                if stored:
                    pause = _FIRST_PAUSE
                    continue
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            if self._closing:
                return

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _store_next(self) -> bool:
        """Store the next batch and acknowledge what it answers for. False: the same facts are to be tried again."""
        taken = self._waiting[: self._most]
        try:
            refusal = await self._stored(taken)
        except Forbidden as forbidden:
            self._give_up(forbidden)
            return not self._waiting
        except NoAnswer as silence:
            self._say(str(silence))
            self._most = max(1, self._most // 2)  # the server drops what exceeds its buffers without a word
            return False
        if refusal is not None:
            if len(taken) == 1 and refusal.err_code == _TOO_LARGE:
                self._waiting[0] = _shortened(taken[0])
            self._say(str(refusal), full=refusal.err_code in _FULL)
            self._most = max(1, self._most // 2)
            return False
        self._most = min(_BATCH, self._most * 2)
        del self._waiting[: len(taken)]
        # One write: nothing below waits unless the connection's buffer is full.
        for _, _, release in taken:
            if release is not None:
                self._unacked -= 1
                await release()
        self._progress = asyncio.get_running_loop().time()
        self._written.set()
        return True

    async def _stored(self, taken: Sequence[_Entry]) -> ApiError | None:
        """Store all or none. The server's words where it refuses."""
        messages = self._messages(taken) if self._facts else _settlements(taken)
        if not messages:
            return None
        return await store_together(self._connection, [(subject, payload, {}) for subject, payload in messages])

    def _messages(self, taken: Sequence[_Entry]) -> list[tuple[str, bytes]]:
        messages = []
        for entry in taken:
            payload = _encoded(entry)
            if len(payload) > self._connection.max_payload:  # to send it would cost us the connection
                payload = _encoded(_shortened(entry))
            messages.append((subjects.audit(entry[0].conversation), payload))
        return messages

    def _ended(self, writer: "asyncio.Task[None]") -> None:
        """A writer that fails must not leave deliveries unacknowledged in silence."""
        if not writer.cancelled() and (error := writer.exception()) is not None and not self.failed.done():
            self.failed.set_exception(error)
        self._written.set()

    def _give_up(self, forbidden: Forbidden) -> None:
        """Facts that nobody waits for are dropped: their messages are in their streams. Settlements are kept."""
        kept = [entry for entry in self._waiting if entry[2] is not None]
        if dropped := len(self._waiting) - len(kept):
            log.error("%d facts dropped: %s", dropped, self._denied(forbidden))
        self._waiting = kept
        if kept and not self.failed.done():
            self.failed.set_exception(self._denied(forbidden))
        self._written.set()

    def _denied(self, forbidden: Forbidden) -> Denied:
        return Denied(
            f"{forbidden}. Without it nobody would know what this process handled. Make its credentials anew with "
            "`tieline creds`",
            subject=self._subject,
        )

    def _say(self, why: str, *, full: bool = False) -> None:
        """Log at most once a minute that facts wait, and what to do."""
        now = asyncio.get_running_loop().time()
        if now - self._said < _SAY_AGAIN:
            return
        self._said = now
        remedy = (
            "the stream is full: raise its max_bytes in the pod and run `tieline apply`, or free disk space"
            if full
            else "does the stream exist (tieline apply), and has it a leader (tieline report)?"
        )
        log.warning(
            "CALL_AUDIT does not store facts: %s. %d facts and %d acknowledgements wait, none is lost; %s",
            why,
            len(self._waiting),
            self._unacked,
            remedy,
        )


def _settlements(taken: Sequence[_Entry]) -> list[tuple[str, bytes]]:
    """What replaces the facts: a record for each agent and stream. Other endings have records of their own."""
    found: dict[tuple[str, str], dict[str, list[int]]] = {}
    for fact, _, _ in taken:
        if isinstance(fact, Settled) and fact.outcome in ("done", "superseded"):
            found.setdefault((fact.by, fact.stream), {}).setdefault(fact.outcome, []).append(fact.seq)
    records = [
        Settlements(by, stream, time.time(), ranges_of(of.get("done", ())), ranges_of(of.get("superseded", ())))
        for (by, stream), of in found.items()
    ]
    return [(subjects.AUDIT, record.encode()) for record in records]


def _shortened(entry: _Entry) -> _Entry:
    """The same fact without what makes it large."""
    fact, at, release = entry
    if isinstance(fact, Published):
        return replace(fact, payload={"callId": fact.conversation}), at, release
    if isinstance(fact, Settled):
        return replace(fact, reason=fact.reason[:100]), at, release
    return entry


def _encoded(entry: _Entry) -> bytes:
    fact, at, _ = entry
    kind = type(fact)
    told = {wire: getattr(fact, name) for name, wire in _WIRE_NAMES[kind]}
    whole = {"fact": kind.__name__.lower(), "at": round(at, 4), **told}
    try:
        return codec.to_json(whole)
    except ValueError:  # half of a surrogate pair in somebody's text: escaped, it is JSON like any
        return json.dumps(whole).encode()


def _wire_names(kind: type[Fact]) -> tuple[tuple[str, str], ...]:
    return tuple((f.name, "callId" if f.name == "conversation" else to_camel(f.name)) for f in fields(kind))


_WIRE_NAMES: dict[type[Fact], tuple[tuple[str, str], ...]] = {
    kind: _wire_names(kind) for kind in get_args(Fact.__value__)
}
