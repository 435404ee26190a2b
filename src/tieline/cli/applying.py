"""Applying a pod to a server: deleted consumers first, at a position that repeats nothing, then everything else."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tieline.cli.options import settings_of
from tieline.errors import BadSettings
from tieline.operations.recreate import Recreation, plan_recreations, recreate
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.wire import topology
from tieline.wire.topology import Change

__all__ = ["apply_pod", "begins_of", "describe", "pod_bus", "warn_of_replay"]


@asynccontextmanager
async def pod_bus(pod: Pod, servers: list[str] | None, credentials: Path | None = None) -> AsyncIterator[Bus]:
    """The bus of the pod for one command."""
    settings = replace(settings_of(servers), audit=False)
    if credentials is not None:
        settings = replace(settings, connection=replace(settings.connection, credentials=credentials))
    async with connect(pod, settings=settings, name="tieline-cli") as bus:
        yield bus


async def apply_pod(
    bus: Bus, say: Callable[[str], None], *, force: bool = False, begin: Mapping[str, str] | None = None
) -> list[Change]:
    """Create deleted consumers again, then apply the pod. ``say`` is called for each of them before it is created.

    Raises `NotApplied` where an agent's consumer was deleted and it is not known what it had handled.
    """
    for recreation in await plan_recreations(bus, begin or {}):
        say(describe(recreation))
        await recreate(bus, recreation)
    return await topology.apply(bus.connection, bus.pod, force=force, before_replay=warn_of_replay)


def describe(recreation: Recreation) -> str:
    """Where a deleted consumer begins, and why."""
    name = f"{recreation.consumer.stream}/{recreation.consumer.durable}"
    return f"consumer {name} was deleted; it is created again at sequence {recreation.begin:,}: {recreation.why}"


def warn_of_replay(change: Change) -> None:
    """Say on stderr, before a consumer is created, that it will be given stored messages, and how to avoid it."""
    print(f"warning: {change.kind} {change.name} does not exist yet; {change.why}", file=sys.stderr)


def begins_of(options: list[str] | None) -> dict[str, str]:
    """What ``--begin AGENT=WHERE`` says, by agent."""
    found = {}
    for option in options or ():
        agent, equals, where = option.partition("=")
        if not (agent and equals and where):
            raise BadSettings(f"--begin {option!r}: write AGENT=stored, AGENT=new or AGENT=SEQUENCE")
        found[agent] = where
    return found
