"""``tieline plan`` and ``tieline apply``: what the server has, what the pod declares, and the way there."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from rich.text import Text

from tieline.cli.applying import apply_pod, begins_of, describe, pod_bus
from tieline.cli.options import JsonOption, PodArgument, ServerOption
from tieline.cli.printing import age, line, print_json, print_table, size
from tieline.cli.prune import Asking, Pruned, prune_asking
from tieline.errors import BadSettings
from tieline.operations.recreate import Recreation, plan_recreations
from tieline.services.reference import load_pod
from tieline.wire import topology
from tieline.wire.topology import Change

__all__ = ["apply", "change_rows", "plan"]

ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="Also change what a newer version of the pod holds, and lower limits although messages go."
    ),
]

_STYLES = {"create": "green", "update": "yellow", "keep": "cyan", "refuse": "red", "extra": "dim"}
_PENDING = frozenset({"create", "update", "refuse"})
_NANOSECONDS = frozenset({"max_age", "duplicate_window", "ack_wait"})
COLUMNS = ("kind", "name", "action", "field", "have → want", "why")


def plan(pod: PodArgument, force: ForceOption = False, server: ServerOption = None, json: JsonOption = False) -> int:
    """Show how the server differs from the pod, field by field. Changes nothing.

    Exit 0 when `apply` would do nothing; 1 when it would create, update or refuse something. What a newer version of
    the pod holds (keep) and consumers that no agent has any more (extra) are shown and do not count.
    """
    declared = load_pod(pod)

    async def look() -> tuple[list[Recreation], list[Change]]:
        async with pod_bus(declared, server) as bus:
            recreations = await plan_recreations(bus, {})
            changes = await topology.plan(bus.connection, declared, force=force)
            return recreations, [_recreated(change, recreations) for change in changes]

    recreations, changes = asyncio.run(look())
    for recreation in recreations:
        print(f"warning: {describe(recreation)}", file=sys.stderr)
    _show(f"plan for pod {declared.name} {declared.version}", changes, json)
    return int(any(change.action in _PENDING for change in changes))


def apply(
    pod: PodArgument,
    force: ForceOption = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Then remove agents and tools that the pod no longer declares; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do not ask.")] = False,
    begin: Annotated[
        list[str] | None,
        typer.Option(
            "--begin",
            metavar="AGENT=WHERE",
            help="Where a deleted consumer begins if that is not known: stored, new, or a sequence.",
        ),
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Make streams and consumers as the pod declares. Never deletes or recreates a stream; safe to run twice.

    --prune shows what is left of agents that the pod no longer declares (their consumers, journal and wake-ups, with
    counts), and removes it. A consumer that was deleted is created again where nothing is repeated. Exit 1 when
    something was refused or kept: only recreating it, or --force, could change it.
    """
    declared = load_pod(pod)
    if yes and not prune:
        raise BadSettings("--yes is for --prune")
    begins = begins_of(begin)
    asking = Asking(yes=yes, force=force, as_json=json)

    async def make() -> tuple[list[Change], Pruned | None]:
        async with pod_bus(declared, server) as bus:
            changes = await apply_pod(bus, _warn, force=force, begin=begins)
            if not json:
                _show(f"applied pod {declared.name} {declared.version}", changes, as_json=False)
            return changes, await prune_asking(bus.connection, declared, asking) if prune else None

    changes, pruned = asyncio.run(make())
    if json:
        told = {} if pruned is None else {"prune": pruned.as_json()}
        print_json({"changes": [asdict(change) for change in changes]} | told)
    if pruned is not None and pruned.refusal:
        raise BadSettings(pruned.refusal)
    refused = any(change.action == "refuse" for change in changes)
    return int(refused or (pruned is not None and pruned.has_kept))


def _recreated(change: Change, recreations: Sequence[Recreation]) -> Change:
    """What is said of a consumer that was deleted, in place of how to avoid that it is given what is stored."""
    for recreation in recreations:
        if change.name == f"{recreation.consumer.stream}/{recreation.consumer.durable}":
            return replace(change, why=f"it was deleted; {recreation.why}", stored=0)
    return change


def _warn(what: str) -> None:
    print(f"warning: {what}", file=sys.stderr)


def _show(title: str, changes: Sequence[Change], as_json: bool) -> None:
    if as_json:
        print_json({"changes": [asdict(change) for change in changes]})
    elif changes:
        print_table(title, COLUMNS, change_rows(changes))
    else:
        print(f"{title}: nothing to do")


def change_rows(changes: Sequence[Change]) -> list[list[object]]:
    """The rows of a table of changes."""
    return [
        [
            change.kind,
            change.name,
            Text(change.action, style=_STYLES[change.action]),
            change.field,
            _difference(change),
            change.why,
        ]
        for change in changes
    ]


def _difference(change: Change) -> str:
    if change.action == "create":
        return ", ".join(change.want.get("subjects") or change.want.get("filter_subjects") or [])
    return (
        "" if change.action == "extra" else f"{_shown(change.field, change.have)} → {_shown(change.field, change.want)}"
    )


def _shown(field: str, value: Any) -> str:
    if field in _NANOSECONDS and isinstance(value, int):
        return age(value / 1e9)
    if field == "max_bytes" and isinstance(value, int):
        return size(value)
    return "-" if value is None else line(value)
