"""``tieline plan`` and ``tieline apply``: what the server has, what the pod declares, and the way there."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from tieline.cli.options import JsonOption, PodArgument, ServerOption, connected
from tieline.cli.printing import age, line, print_json, print_table, size
from tieline.cli.prune import Asking, Pruned, prune_asking
from tieline.errors import BadSettings
from tieline.services.reference import load_pod
from tieline.wire import topology
from tieline.wire.topology import Change

__all__ = ["apply", "change_rows", "plan", "warn_of_replay"]

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

    async def look() -> list[Change]:
        async with connected(server) as connection:
            return await topology.plan(connection, declared, force=force)

    changes = asyncio.run(look())
    _show(f"plan for pod {declared.name} {declared.version}", changes, json)
    return int(any(change.action in _PENDING for change in changes))


def apply(
    pod: PodArgument,
    force: ForceOption = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Then remove agents and tools that the pod no longer declares; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do not ask.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Make streams and consumers as the pod declares. Never deletes or recreates a stream; safe to run twice.

    --prune shows what is left of agents that the pod no longer declares (their consumers, journal and wake-ups, with
    counts), and removes it. Exit 1 when something was refused or kept: only recreating it, or --force, could change it.
    """
    declared = load_pod(pod)
    if yes and not prune:
        raise BadSettings("--yes is for --prune")
    asking = Asking(yes=yes, force=force, as_json=json)

    async def make() -> tuple[list[Change], Pruned | None]:
        async with connected(server) as connection:
            changes = await topology.apply(connection, declared, force=force, before_replay=warn_of_replay)
            if not json:
                _show(f"applied pod {declared.name} {declared.version}", changes, as_json=False)
            return changes, await prune_asking(connection, declared, asking) if prune else None

    changes, pruned = asyncio.run(make())
    if json:
        told = {} if pruned is None else {"prune": pruned.as_json()}
        print_json({"changes": [asdict(change) for change in changes]} | told)
    if pruned is not None and pruned.refusal:
        raise BadSettings(pruned.refusal)
    refused = any(change.action == "refuse" for change in changes)
    return int(refused or (pruned is not None and pruned.has_kept))


def warn_of_replay(change: Change) -> None:
    """Say on stderr, before a consumer is created, that it will be given stored messages, and how to avoid it."""
    print(f"warning: {change.kind} {change.name} does not exist yet; {change.why}", file=sys.stderr)


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
