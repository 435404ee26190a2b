"""The audit: facts go to CALL_AUDIT, in order, in atomic batches, so that they do not double the server's fsyncs."""

import asyncio
import json
import logging
import time
from dataclasses import fields
from typing import get_args

from pydantic.alias_generators import to_camel

from tieline import codec, subjects
from tieline.errors import Unconfirmed, Unreachable
from tieline.facts import Fact
from tieline.wire.batches import store_together
from tieline.wire.connection import ApiError, Connection, Forbidden, NoAnswer

__all__ = ["Audit"]

log = logging.getLogger("tieline.audit")

_LINGER = 0.05  # seconds that facts are collected: a batch costs one fsync, however many it holds
_BATCH = 500  # facts; the server takes up to 1,000. Making so many is 10 ms that handlers wait, at the very most
_FULL = 20_000  # facts waiting; beyond it no new work is taken until the stream has caught up
_PAUSE = 0.5
_TRIES = 10
_FULL_STREAM = frozenset({10077, 10047})  # refused until somebody makes room: waiting would stall the work


class Audit:
    """Writes facts behind the work. Call it with a fact; `room` slows intake rather than losing facts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[tuple[Fact, float]] = []  # and when each was told
        self._told = asyncio.Event()
        self._written = asyncio.Event()
        self._dropped = 0
        self._closing = False
        self._writer = asyncio.create_task(self._write_for_ever(), name="tieline-audit")

    def __call__(self, fact: Fact) -> None:
        """Remember a fact; it is on the bus a moment later."""
        self._waiting.append((fact, time.time()))
        self._told.set()

    async def room(self) -> None:
        """Wait while too many facts wait."""
        while len(self._waiting) >= _FULL and not self._writer.done():
            self._written.clear()
            await self._written.wait()

    async def written(self, within: float) -> None:
        """Return when every fact told so far is stored, or refused by a full stream. `Unconfirmed` when not in time."""
        try:
            async with asyncio.timeout(within):
                while self._waiting and not self._writer.done():
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            where = subjects.audit("*")
            raise Unconfirmed(
                f"{where}: no stream stored the facts within {within:g} s; `tieline apply` makes it", subject=where
            ) from None

    async def close(self) -> None:
        """Write what waits, for as long as the connection lives."""
        self._closing = True
        self._told.set()
        await asyncio.wait([self._writer], timeout=5.0)
        self._writer.cancel()
        if self._waiting:
            log.warning("%d facts were not written before the end", len(self._waiting))

    async def _write_for_ever(self) -> None:
        while True:
            await self._told.wait()
            if not self._closing:
                await asyncio.sleep(_LINGER)
            self._told.clear()
            while self._waiting:
                taken = self._waiting[:_BATCH]
                try:
                    await self._store(taken)
                except Unreachable:
                    return  # the process ends with it; what was acknowledged is told by the server itself
                except Forbidden as forbidden:  # work goes before facts
                    self._drop(len(taken), str(forbidden))
                except NoAnswer as silence:
                    log.info("the audit waits for its stream: %s", silence)
                    await asyncio.sleep(_PAUSE)
                    continue
                del self._waiting[: len(taken)]
                self._written.set()
            if self._closing:
                return

    async def _store(self, facts: list[tuple[Fact, float]]) -> None:
        told = [(subjects.audit(fact.conversation), _encoded(fact, at)) for fact, at in facts]
        refusal = await self._batch(told)
        for _ in range(_TRIES):
            if refusal is None:
                return
            if refusal.err_code in _FULL_STREAM:
                break
            await asyncio.sleep(_PAUSE)  # a batch lost with a connection or a leader: the same facts, a new batch
            refusal = await self._batch(told)
        if refusal is not None:  # work goes before facts: a full audit stream must not stop calls
            self._drop(len(told), f"CALL_AUDIT refuses facts ({refusal}); tieline report shows its size")

    def _drop(self, facts: int, why: str) -> None:
        """Said loudly, and the sum will show it."""
        self._dropped += facts
        log.error("%d facts dropped so far: %s", self._dropped, why)

    async def _batch(self, told: list[tuple[str, bytes]]) -> ApiError | None:
        """Store all or none. The server's words where it refuses."""
        return await store_together(self._connection, [(subject, payload, {}) for subject, payload in told])


def _encoded(fact: Fact, at: float) -> bytes:
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
