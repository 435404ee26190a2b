"""``tieline apply --prune``: shows what is left of agents that a pod no longer declares, asks, and removes it."""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any

import typer

from tieline.cli.printing import line, print_table
from tieline.operations.prune import Leftover, find_leftovers, prune
from tieline.pod import Pod
from tieline.wire.connection import Connection

__all__ = ["Asking", "Pruned", "prune_asking"]

_COLUMNS = (
    "agent",
    "consumers",
    ">pending",
    ">parked",
    ">journal",
    ">wake-ups",
    ">dead letters (stay)",
    "kept because",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Whether to ask before anything is removed, and how to show it."""

    yes: bool
    force: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was found, and which agents were removed. ``refusal`` says why none was, where nobody agreed."""

    found: tuple[Leftover, ...]
    removed: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def has_kept(self) -> bool:
        """Whether something is left."""
        return len(self.removed) < len(self.found)

    def as_json(self) -> dict[str, Any]:
        """The same for scripts."""
        return {"agents": [_as_json(leftover) for leftover in self.found], "removed": list(self.removed)}


async def prune_asking(connection: Connection, pod: Pod, asking: Asking) -> Pruned:
    """Show what would be removed; remove it once somebody agreed."""
    found = tuple(await find_leftovers(connection, pod, force=asking.force))
    if not asking.as_json:
        _show(pod, found)
    going = [leftover for leftover in found if not leftover.kept_because]
    if not going:
        return Pruned(found)
    if not asking.yes:
        if asking.as_json or not sys.stdin.isatty():
            return Pruned(found, refusal="nothing was removed: give --yes where nobody can be asked")
        if not await asyncio.to_thread(typer.confirm, f"Remove {', '.join(one.agent for one in going)} for good?"):
            return Pruned(found, refusal="nothing was removed")
    removed: list[str] = []

    def note(leftover: Leftover) -> None:
        removed.append(leftover.agent)
        if not asking.as_json:
            print(f"removed {leftover.agent}")

    await prune(connection, pod, going, note)
    return Pruned(found, tuple(removed))


def _show(pod: Pod, found: tuple[Leftover, ...]) -> None:
    if not found:
        print(f"pod {pod.name}: nothing to prune")
        return
    rows = [
        [
            line(one.agent),
            ", ".join(f"{consumer.stream}/{consumer.name}" for consumer in one.consumers),
            *((one.pending, one.parked, one.journal, len(one.schedules), one.dead_letters)),
            one.kept_because,
        ]
        for one in found
    ]
    print_table(f"left of agents that pod {pod.name} no longer declares", _COLUMNS, rows)


def _as_json(one: Leftover) -> dict[str, Any]:
    consumers = [
        {
            "stream": consumer.stream,
            "name": consumer.name,
            "pending": consumer.pending,
            "unacknowledged": consumer.unacknowledged,
        }
        for consumer in one.consumers
    ]
    return {
        "agent": one.agent,
        "consumers": consumers,
        "pending": one.pending,
        "parked": one.parked,
        "journal": one.journal,
        "schedules": len(one.schedules),
        "deadLetters": one.dead_letters,
        "keptBecause": one.kept_because,
    }
