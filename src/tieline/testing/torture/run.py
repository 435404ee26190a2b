"""One fault: the field is made, the load begins, the fault strikes in its middle, and what is left is judged."""

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tieline.errors import TielineError
from tieline.services.accountant import take
from tieline.services.ledger import Row
from tieline.services.letters.reading import Selection, letters
from tieline.services.replicas import compared, copies
from tieline.testing.torture.effects import Effects
from tieline.testing.torture.fault import Fault
from tieline.testing.torture.field import Field, field_of
from tieline.testing.torture.invariants import broken
from tieline.testing.torture.load import Load
from tieline.testing.torture.record import Dead, Record
from tieline.testing.torture.testimony import testimony
from tieline.testing.waiting import eventually
from tieline.wire.connection import ApiError, NoAnswer

__all__ = ["Verdict", "tortured"]

_STRIKES_AT = 0.3  # of the load, when the fault strikes
_LOOK = 0.02  # seconds
_QUIET = 90.0  # seconds for everything to be answered for, once the load is over


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one fault. ``skipped`` says why it was not run; ``evidence`` is what speaks against us, and
    ``testimony`` what servers and processes said of themselves then."""

    fault: Fault
    record: Record = field(default_factory=Record)
    evidence: tuple[str, ...] = ()
    testimony: tuple[str, ...] = ()
    skipped: str = ""
    took: float = 0.0

    @property
    def held(self) -> bool:
        """Run, and nothing broke."""
        return not self.skipped and not self.evidence


async def tortured(fault: Fault, seed: int, progress: Callable[[float], None] = lambda _: None) -> Verdict:
    """Run one fault. What is random in the load is of the ``seed``; ``progress`` is told how much is published."""
    why = "it cannot be run here" if fault.strike is None else None
    if (why := fault.why_not() or why) is not None:
        return Verdict(fault, skipped=why)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tieline-torture-", ignore_cleanup_errors=True) as folder:
        record = Record(canary=fault.plan.canary)
        try:
            async with field_of(Path(folder), fault) as there:
                try:
                    await _run(fault, seed, there, record, progress)
                except AssertionError as error:  # something awaited that never came
                    record.notes.append(str(error))
                evidence = (*(f"{fault.name}: {note}" for note in record.notes), *broken(record))
                told = tuple(await testimony(there)) if evidence else ()
        except AssertionError as error:  # the field did not come up
            evidence, told = (f"{fault.name}: {error}",), ()
        return Verdict(fault, record, evidence, told, took=time.monotonic() - began)


async def _run(fault: Fault, seed: int, there: Field, record: Record, progress: Callable[[float], None]) -> None:
    load = Load(there.bus, fault.plan, seed, there.folder / "acked.jsonl", there.effects)
    loading = asyncio.create_task(load.publish(progress))
    there.over = loading.done
    try:
        await eventually(lambda: load.begun >= _STRIKES_AT, what="the load's beginning", within=_QUIET)
        watching = asyncio.create_task(_watch(there, record))
        assert fault.strike is not None
        await fault.strike(there, record)
        await loading
        record.acked, record.unacked, record.longest_gap = load.acked, load.unacked, load.longest_gap
        await _settled(there, load)
        watching.cancel()
    finally:
        loading.cancel()
        await asyncio.wait((loading,))
    await _gather(there, record)


async def _watch(there: Field, record: Record) -> None:
    """The longest time in which nothing had an effect, from the fault on."""
    with Effects(there.effects) as effects:
        before, since = effects.count(), time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            if (count := effects.count()) > before:
                now = time.monotonic()
                record.recovery, before, since = max(record.recovery or 0.0, now - since), count, now


async def _settled(there: Field, load: Load) -> None:
    """Wait until each message that was acknowledged had its effect or died; what did not is judged afterwards."""

    async def done() -> bool:
        with Effects(there.effects) as effects:
            had = {(effect.lane, effect.number) for effect in effects.all()}
        left = [one for one in load.acked if (one.lane, one.number) not in had]
        try:
            dead = {letter.seq for letter in await _dead(there)}
        except (TielineError, ApiError, NoAnswer):
            return False
        return all(one.seq in dead for one in left)

    with suppress(AssertionError):
        await eventually(done, what="everything answered for", within=_QUIET, every=0.25)


async def _dead(there: Field) -> list[Dead]:
    found = letters(there.bus.connection, Selection())
    return [Dead(letter.seq, letter.told, letter.headers, letter.payload) async for letter in found]


async def _gather(there: Field, record: Record) -> None:
    with Effects(there.effects) as effects:
        record.effects, record.runs = effects.all(), effects.runs()

    async def read() -> bool:
        try:
            record.dead = await _dead(there)
        except (TielineError, ApiError, NoAnswer):
            return False
        return True

    await eventually(read, what="the dead letters", within=_QUIET, every=0.5)

    async def holds() -> list[Row] | None:
        try:
            record.rows = await take(there.bus)
        except (TielineError, ApiError, NoAnswer):  # no leader again, so soon after the fault
            return None
        return record.rows if all(row.holds and not row.pending for row in record.rows) else None

    with suppress(AssertionError):  # what does not hold by then is judged
        await eventually(holds, what="the sum", within=_QUIET, every=0.5)
    facts = [fact.payload async for fact in there.bus.feed("call.audit.*", start=1, to_end=True)]
    record.said = "\n".join([*there.said, *(fact.decode(errors="replace") for fact in facts)])
    if len(there.nodes) > 1:
        monitors = [str(node.monitor_url) for node in there.nodes]

        async def agree() -> bool:
            odd = compared(await copies(monitors))
            record.odd_copies = [f"{damage.stream} on {', '.join(damage.odd) or 'all'}" for damage in odd]
            return not odd

        with suppress(AssertionError):
            await eventually(agree, what="the copies", within=_QUIET, every=1.0)
