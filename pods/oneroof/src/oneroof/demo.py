"""The demo: opens the office, plays its callers, kills an agent in the middle, and shows that nothing was lost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live

from oneroof import view
from oneroof.line import Exchange
from oneroof.mishaps import Mishaps
from oneroof.opening import Office, Place, opened
from oneroof.play import Player, Progress
from oneroof.script import scripted_calls
from oneroof.timeline import timeline
from tieline.cli.sum_table import sum_table
from tieline.services.accountant import take
from tieline.services.ledger import Row
from tieline.services.supervisor import Exited, Restarted

__all__ = ["Show", "demo"]

_VICTIM = "scheduler"
_ITS_TOOL = "tool.call.calendar"
_KILL_AT = 0.4  # of the calls: well in the middle
_QUIET = 15.0  # seconds within which the sum must come to rest after the last call


class Show:
    """Prints for people, or JSON lines for scripts."""

    def __init__(self, *, as_json: bool) -> None:
        self.console = Console(stderr=as_json, quiet=as_json)
        self._as_json = as_json

    def event(self, name: str, /, **told: object) -> None:
        """One line for scripts; people see the tables."""
        if self._as_json:
            print(json.dumps({"event": name, **told}, default=str), flush=True)


async def demo(place: Place, show: Show, count: int | None = None) -> int:
    """Play ``count`` calls (all unless given); 0 only if every call was answered and the sum holds."""
    began = time.monotonic()
    async with opened(place) as office:
        took = time.monotonic() - began
        pids = [{"name": p.name, "pid": office.supervisor.pid(p.name)} for p in office.processes]
        show.event("ready", url=office.url, monitorUrl=office.monitor_url, processes=pids, seconds=round(took, 2))
        show.console.print(view.opening(office, took))
        exchange = Exchange(office.bus)
        player = Player(exchange, scripted_calls()[:count])
        accident, mishaps = _Accident(office, player, show), Mishaps.of(office)
        async with _beside(exchange.listen(), accident.cause(), accident.watch()):
            await mishaps.poison()  # first: it takes its time to die
            await mishaps.misfit()
            with Live(get_renderable=lambda: view.calls(player, accident.notes), console=show.console):
                await player.play()
            show.console.print()
        told = await mishaps.late()
        rows = await _quiet(office)
        sample = _worth_showing(player, accident.call_id)
        moments = await timeline(office.bus, sample.call_id)
        show.console.print(sum_table(rows), view.call_timeline(sample, moments))
        desk = await mishaps.desk()
        show.console.print(view.dead_letters(desk, told))
        planted = bool(told) and {(letter.agent, letter.cause) for letter in desk} == mishaps.PLANTED
        show.event("desk", letters=[{"agent": one.agent, "cause": one.cause, "id": one.seq} for one in desk], told=told)
        ok = planted and not player.failed and all(row.holds and not row.pending for row in rows)
        show.event("sum", rows=[asdict(row) | {"holds": row.holds} for row in rows])
        show.event("over", ok=ok, calls=len(player.calls), failed=[call.script.id for call in player.failed])
        show.console.print(view.verdict(player, rows, ok=ok))
    return 0 if ok else 1


@dataclass(slots=True)
class _Accident:
    """What is done to the victim, on purpose: SIGKILL while it waits for a tool, in the middle of the demo."""

    office: Office
    player: Player
    show: Show
    notes: list[str] = field(default_factory=list)
    killed_at: float = 0.0
    call_id: str | None = None  # whose booking was interrupted

    async def cause(self) -> None:
        """Kill the victim when it has just called a tool: it holds a message, and one of its steps is recorded."""
        async for delivery in self.office.bus.feed(_ITS_TOOL, start=datetime.now(UTC)):
            if self.player.over >= len(self.player.calls) * _KILL_AT:
                self.killed_at = time.monotonic()
                self.call_id = delivery.headers.get("Tieline-Conversation")
                self.office.supervisor.kill(_VICTIM)
                return

    async def watch(self) -> None:
        """Note what becomes of the processes."""
        async for event in self.office.supervisor.events():
            match event:
                case Exited(name, pid, code):
                    self.notes.append(f"[red]✗ {name} (pid {pid}) was killed on purpose, in mid-booking ({code})[/red]")
                    self.show.event("killed", process=name, pid=pid, code=code, call=self.call_id)
                case Restarted(name, pid):
                    took = time.monotonic() - self.killed_at
                    self.notes.append(f"[green]✓ {name} is back as pid {pid} after {took:.1f} s[/green]")
                    self.show.event("restarted", process=name, pid=pid, seconds=round(took, 2))


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work`` for as long as the block lasts."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _quiet(office: Office) -> list[Row]:
    """The sum once nothing is pending any more, or as it is when that takes too long."""
    until = time.monotonic() + _QUIET
    while True:
        rows = await take(office.bus)
        if all(row.holds and not row.pending for row in rows) or time.monotonic() > until:
            return rows
        await asyncio.sleep(0.2)


def _worth_showing(player: Player, interrupted: str | None) -> Progress:
    """The call whose booking was interrupted tells the most; else one with many answers."""
    for call in player.calls:
        if call.call_id == interrupted:
            return call
    return max(player.calls, key=lambda call: len(call.answered))
