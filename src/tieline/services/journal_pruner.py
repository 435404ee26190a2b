"""Removes the journal (stream STEP) of conversations that have ended.

A conversation has ended when its newest record is older than ``TIELINE_JOURNAL_KEEP`` and nothing of it can run again:
no message of it is unsettled in any stream, none waits in SCHEDULE, none is a dead letter, none is parked, no question
is open, and it was not cancelled. A sweep decides this for every conversation that has old records::

    1. fix the newest sequence that may be removed: what follows is young, or an accountant has still to read it
    2. read who has dead letters and schedules, then who has unsettled messages
    3. for each conversation: is it parked, has it a younger record? Else purge its records up to that sequence

Why in this order: a message that moves while it is read (redriven, due, dead) is either seen where it arrives, or its
run has written a record that follows the sequence of step 1, and step 3 finds that. So the records of a message that
may run again are never removed, wherever a sweep is interrupted, and however many processes sweep at once: a purge
names a conversation and a sequence, and is done twice without harm.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import BadPayload, TielineError
from tieline.runtime.attempt import conversation_of
from tieline.runtime.bus import LONGEST_NAME, Bus
from tieline.services.accounting.checkpoints import Checkpoints
from tieline.services.stopping import until_stopped
from tieline.wire.connection import ApiError, Forbidden, NoAnswer
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed
from tieline.wire.infos import consumer_infos, stream_infos
from tieline.wire.stored import stored_message

__all__ = ["JournalPruner", "run"]

log = logging.getLogger("tieline.journal")

_STREAM = "STEP"
_RECORDS = frozenset(
    {_STREAM, "TOOL_RESULT", "CALL_AUDIT", "CANCELLED", "STATE", "OBJ_TIELINE", "KEYS", "RATE", "DLQ", "SCHEDULE"}
    | {"ADVISORY", "ACCOUNTING"}
)  # streams whose messages are not handled by agents and tools
_DIGEST = len(digest(""))
_CHUNK = 2_000  # conversations decided at a time
_AT_ONCE = 16
_MOST_READ = 200_000  # unsettled messages of a stream; of a longer backlog only those that may have old records
_SWEEPS = 24  # in the time that a journal is kept
_PAUSE = 30.0  # seconds before a sweep that could not be finished is tried again


@dataclass(frozen=True, slots=True)
class _Taker:
    """A consumer, and up to which sequence it has settled everything that it takes."""

    filters: tuple[str, ...]
    floor: int

    @classmethod
    def of(cls, info: dict[str, Any], last: int) -> "_Taker":
        """``last``: the newest sequence of its stream, read before."""
        single = info["config"].get("filter_subject")
        filters = info["config"].get("filter_subjects") or [single or ">"]
        if info["num_ack_pending"]:
            return cls(tuple(filters), int(info["ack_floor"]["stream_seq"]))
        return cls(tuple(filters), int(info["delivered"]["stream_seq"]) if info["num_pending"] else last)

    def owes(self, delivery: Delivery) -> bool:
        """Whether the message may still have to be handled."""
        return delivery.seq > self.floor and any(subjects.covers(one, delivery.stored_as) for one in self.filters)


class JournalPruner:
    """Sweeps the journal. ``keep``: seconds for which the records of an ended conversation are kept."""

    def __init__(self, bus: Bus, keep: float) -> None:
        self._bus = bus
        self._keep = keep
        self.removed = 0
        """Records removed by this process."""

    async def work(self) -> None:
        """Sweep for ever."""
        forbidden = False
        while True:
            pause = self._keep / _SWEEPS
            try:
                await self.sweep()
            except Forbidden as error:
                pause = self._keep
                if not forbidden:
                    log.error("the journal of ended conversations is not removed: %s (tieline creds)", error)
                forbidden = True
            except (TielineError, ApiError, NoAnswer) as error:
                pause = min(pause, _PAUSE)
                log.info("the journal cannot be swept now: %s", error)
            await asyncio.sleep(pause)

    async def sweep(self) -> int:
        """Remove what can be removed now; how many records that were. Raises where the bus does not answer."""
        before, cutoff = self.removed, time.time() - self._keep
        limit = await self._limit(cutoff)
        info = await self._bus.connection.api(f"STREAM.INFO.{_STREAM}")
        if limit <= int(info["state"]["first_seq"]) or info["config"].get("deny_purge"):
            return 0
        busy = await self._waiting()
        busy |= await self._unsettled(cutoff)
        conversations = 0
        async for chunk in self._old(limit):
            gate = asyncio.Semaphore(_AT_ONCE)
            ended = [self._decide(token, limit, gate) for token in chunk - busy]
            conversations += sum(await asyncio.gather(*ended))
        if conversations:
            log.info("removed %d records of %d ended conversations", self.removed - before, conversations)
        return self.removed - before

    async def _limit(self, cutoff: float) -> int:
        """The first sequence that is not removed: it is young, or an accountant has still to read it."""
        connection = self._bus.connection
        _, older = await Feed(connection, _STREAM, ["step.>"], start=datetime.fromtimestamp(cutoff, UTC)).position()
        read = []
        for pod in {self._bus.pod.name, *await self._pods()}:
            try:
                checkpoint = await Checkpoints(connection, pod).load()
            except BadPayload as error:
                log.warning("pod %s: no checkpoint of the accountant can be read: %s", pod, error)
                checkpoint = None
            if checkpoint is not None and _STREAM in checkpoint.positions:
                read.append(checkpoint.positions[_STREAM].seq)
            elif pod == self._bus.pod.name:
                return 0
        return min(older, *read) + 1

    async def _pods(self) -> set[str]:
        infos = await consumer_infos(self._bus.connection, _STREAM)
        pods = {(info["config"].get("metadata") or {}).get("tieline.pod") for info in infos}
        return {str(pod) for pod in pods if pod}

    async def _waiting(self) -> set[str]:
        """The conversations, as tokens, that have dead letters or delayed messages."""
        found: set[str] = set()
        for stream, filters in (("DLQ", ["DLQ.>"]), ("SCHEDULE", ["schedule.*", "due.>"])):
            async for delivery in Feed(self._bus.connection, stream, filters, start=1, to_end=True, headers_only=True):
                found.add(await self._token(delivery))
        return found

    async def _unsettled(self, cutoff: float) -> set[str]:
        """The conversations that have messages which a consumer has not settled."""
        found: set[str] = set()
        for stream, info in (await stream_infos(self._bus.connection)).items():
            if stream in _RECORDS:
                continue
            last = int(info["state"]["last_seq"])
            takers = [_Taker.of(told, last) for told in await self._consumers(stream)]
            floor = min((taker.floor for taker in takers), default=last)
            # A message stored after the cutoff has no older records, unless it is a copy that was brought back.
            long = last - floor > _MOST_READ
            if floor >= last:
                continue
            async for delivery in self._read(stream, [">"], floor + 1):
                if long and delivery.stored > cutoff:
                    break
                if any(taker.owes(delivery) for taker in takers):
                    found.add(await self._token(delivery))
            if long:
                async for delivery in self._read(stream, ["redrive.>"], floor + 1):
                    found.add(await self._token(delivery))
        return found

    async def _consumers(self, stream: str) -> list[dict[str, Any]]:
        """Those that work is done on. Others are readers."""
        return [
            info
            for info in await consumer_infos(self._bus.connection, stream)
            if info["config"].get("durable_name") and info["config"].get("ack_policy") != "none"
        ]

    def _read(self, stream: str, filters: list[str], start: int) -> Feed:
        return Feed(self._bus.connection, stream, filters, start=start, to_end=True, headers_only=True)

    async def _token(self, delivery: Delivery) -> str:
        """The conversation of a message that was read without its payload."""
        conversation = delivery.headers.get(names.CONVERSATION)
        payload = b""
        if conversation is None:
            whole = await stored_message(self._bus.connection, delivery.stream, delivery.seq)
            payload = b"" if whole is None else whole.payload
        named = conversation_of(delivery.headers, payload) or f"o-{delivery.origin}"
        return subjects.token(named if len(named) <= LONGEST_NAME else subjects.token(named))

    async def _old(self, limit: int) -> AsyncIterator[set[str]]:
        """The conversations that have records before ``limit``, in chunks."""
        chunk: set[str] = set()
        async for delivery in self._read(_STREAM, ["step.>"], 1):
            if delivery.seq >= limit:
                break
            chunk.add(subjects.conversation_token(delivery.subject))
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = set()
        if chunk:
            yield chunk

    async def _decide(self, token: str, limit: int, gate: asyncio.Semaphore) -> bool:
        """Remove the old records of a conversation, if it has ended."""
        pattern = subjects.steps_of_conversation(token)
        async with gate:
            if not _is_over(await self._bus.journal.subjects(pattern)):
                return False
            # After everything else: who runs again has written a record by now.
            if await stored_message(self._bus.connection, _STREAM, limit, pattern) is not None:
                return False
            answer = await self._bus.connection.api(f"STREAM.PURGE.{_STREAM}", {"filter": pattern, "seq": limit})
        self.removed += int(answer.get("purged", 0))
        return True


def _is_over(records: Iterable[str]) -> bool:
    """Whether none of a conversation's messages is parked, no question is open, and nobody cancelled it."""
    parked: set[tuple[str, str]] = set()
    asked: set[tuple[str, str]] = set()
    over: set[tuple[str, str]] = set()
    answered: set[tuple[str, str]] = set()
    for subject in records:
        _, agent, _, kind, key = subject.split(".")
        match kind:
            case "park":
                parked.add((agent, key[-_DIGEST:]))
            case "question":
                asked.add((agent, key))
            case "over":
                over.add((agent, key))
            case "human":
                answered.add((agent, key))
            case "cancel":
                return False
            case _:
                pass
    open_questions = {(agent, key[-_DIGEST:]) for agent, key in asked - answered}
    return not (parked | open_questions) - over


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Sweep until ``stop``."""
    await until_stopped(JournalPruner(bus, bus.settings.journal_keep).work(), bus.connection, stop)
