"""The load: lanes of jobs, published one after another, and what the server acknowledged of them."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tieline import headers as names
from tieline.errors import NotAccepted, TielineError, first_of
from tieline.runtime.bus import Bus
from tieline.testing.torture.effects import Effects
from tieline.testing.torture.office import Kind
from tieline.testing.torture.record import Acked
from tieline.testing.waiting import eventually

__all__ = ["Load", "Plan", "kinds_of"]

_PATIENCE = 120.0  # seconds for the effect of one job
_RUBBISH = (b"", b"not json", b"[" * 5_000, b'{"callId": 7}', b"\xff\xfe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, how fast, and of what. ``odd`` is the share of jobs that end as dead letters."""

    lanes: int = 8
    jobs: int = 20  # of each lane
    pause: float = 0.1  # seconds between two jobs of a lane
    odd: float = 0.05
    poison: int = 0  # jobs that end their process, among all
    slow: int = 0
    canary: str = ""


class Load:
    """Publishes what a plan says. Every other lane waits for each job's effect before the next one."""

    def __init__(self, bus: Bus, plan: Plan, seed: int, journal: Path, effects: Path) -> None:
        self.acked: list[Acked] = []
        self.unacked = 0
        self.longest_gap = 0.0
        self._bus = bus
        self._plan = plan
        self._journal = journal
        self._effects = effects
        self._last = time.monotonic()
        self._kinds = kinds_of(plan, seed)

    @property
    def begun(self) -> float:
        """How much of the load is published, from 0 to 1."""
        return (len(self.acked) + self.unacked) / (self._plan.lanes * self._plan.jobs)

    async def publish(self, progress: Callable[[float], None]) -> None:
        """Publish everything. A publish that fails is counted and not tried again: that was the client's duty.

        `AssertionError` where a lane waits in vain for the effect of its last job.
        """
        self._last = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for lane in range(self._plan.lanes):
                    group.create_task(self._lane(lane, progress))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None

    async def _lane(self, lane: int, progress: Callable[[float], None]) -> None:
        name, ordered = f"lane-{lane}", lane % 2 == 0
        with Effects(self._effects) as effects:
            for number in range(self._plan.jobs):
                kind = self._kinds[lane][number]
                stored = await self._job(name, number, kind, ordered=ordered)
                progress(self.begun)
                await asyncio.sleep(self._plan.pause)
                if stored and ordered and kind in ("plain", "slow"):
                    had = partial(effects.has, name, number)
                    await eventually(had, what=f"the effect of {name}/{number}", within=_PATIENCE)

    async def _job(self, lane: str, number: int, kind: Kind, *, ordered: bool) -> bool:
        """Publish one; whether the server acknowledged it."""
        payload = _RUBBISH[number % len(_RUBBISH)]
        if kind != "rubbish":
            job = {"callId": lane, "number": number, "kind": kind, "effects": str(self._effects)}
            payload = json.dumps(job | {"secret": self._plan.canary}).encode()
        headers = {names.MSG_ID: f"{lane}-{number}", names.CONVERSATION: lane}
        try:
            ack = await self._bus.publisher.publish("torture.job", payload, headers)
        except (NotAccepted, TielineError):
            self.unacked += 1
            return False
        now = time.monotonic()
        self.longest_gap, self._last = max(self.longest_gap, now - self._last), now
        self.acked.append(Acked(lane, number, kind, ack.seq, payload, ordered))
        line = {"at": round(time.time(), 3), "lane": lane, "number": number, "kind": kind, "seq": ack.seq}
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        return True


def kinds_of(plan: Plan, seed: int) -> list[list[Kind]]:
    """What each job is, by lane. The seed decides, and nothing else."""
    chance = random.Random(seed)
    kinds: list[Kind] = ["plain"] * (plan.lanes * plan.jobs)
    places = chance.sample(range(len(kinds)), len(kinds))
    for _ in range(plan.poison):
        kinds[places.pop()] = "poison"
    for _ in range(plan.slow):
        kinds[places.pop()] = "slow"
    for turn in range(int(len(kinds) * plan.odd)):
        kinds[places.pop()] = "refuse" if turn % 2 else "rubbish"
    return [kinds[start : start + plan.jobs] for start in range(0, len(kinds), plan.jobs)]
