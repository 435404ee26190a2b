"""Remove agents and tools that a pod no longer declares, with everything of theirs that nobody else uses.

The consumers of an agent go last, because they say that there is something to remove: a prune that was killed halfway
and is run again finds the rest. Streams are never deleted, and neither are messages and dead letters in them.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.records.dead_letters import read_dead_letter
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.feed import Feed
from tieline.wire.new_consumers import consumers_left_behind
from tieline.wire.peers import ask
from tieline.wire.topology import agent_of, consumer_infos, consumers_of, stream_infos
from tieline.wire.versions import newer_version

__all__ = ["Leftover", "LeftoverConsumer", "find_leftovers", "prune"]

_STREAM_MISSING, _CONSUMER_MISSING = 10059, 10014
_TARGET = "Nats-Schedule-Target"
_AT_ONCE = 64  # requests


@dataclass(frozen=True, slots=True)
class LeftoverConsumer:
    """A consumer that would be removed. ``pending`` messages were not delivered to it, ``unacknowledged`` ones were
    and are not settled; ``pulls`` wait at the server, so a process uses it now."""

    stream: str
    name: str
    pending: int
    unacknowledged: int
    pulls: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is left of one agent or tool (``tool-<name>``).

    ``journal`` counts its records in STEP, ``parked`` its messages that are put aside, ``schedules`` the wake-ups that
    the server holds for it, ``dead_letters`` those that stay in DLQ. ``kept_because`` says why nothing is removed.
    """

    agent: str
    consumers: tuple[LeftoverConsumer, ...]
    journal: int = 0
    parked: int = 0
    schedules: tuple[str, ...] = ()
    dead_letters: int = 0
    kept_because: str = ""
    journals: tuple[str, ...] = field(default=(), repr=False)
    """The filters of its journal; none where another agent has the same name."""

    @property
    def pending(self) -> int:
        """Messages that nobody will handle for it any more."""
        return sum(consumer.pending + consumer.unacknowledged for consumer in self.consumers)


async def find_leftovers(connection: Connection, pod: Pod, *, force: bool = False) -> list[Leftover]:
    """What `prune` would remove, by agent. Changes nothing.

    An agent is kept where a newer version of the pod made its consumer, or a process still pulls from it; ``force``
    removes it anyway. Raises `NotApplied` if the server does not answer.
    """
    by_agent: dict[str, list[LeftoverConsumer]] = {}
    kept: dict[str, str] = {}
    wanted = {"metadata": {f"tieline.version.{pod.name}": pod.version}}
    for stream, infos in (await consumers_left_behind(connection, pod, consumers_of(pod))).items():
        for info in infos:
            agent = agent_of(info["name"])
            by_agent.setdefault(agent, []).append(_consumer(stream, info))
            if newer := newer_version(info["config"], wanted):
                kept.setdefault(agent, f"version {newer} of the pod made it; this is version {pod.version}")
            elif info["num_waiting"]:
                kept.setdefault(agent, "a process still pulls from it; stop that process first")
    if not by_agent:
        return []
    shared = await _shared_names(connection, pod)
    schedules = await _schedules(connection, pod, by_agent)
    return [
        await _leftover(connection, agent, tuple(consumers), schedules[agent], agent in shared)
        if force or agent not in kept
        else Leftover(agent, tuple(consumers), kept_because=kept[agent])
        for agent, consumers in sorted(by_agent.items())
    ]


async def prune(
    connection: Connection, pod: Pod, leftovers: Iterable[Leftover], progress: Callable[[Leftover], None]
) -> None:
    """Remove what `find_leftovers` found, but for what is kept. ``progress`` is called after each agent.

    Safe to interrupt and to run again, and for two people at once. Raises `NotApplied` with the server's words if it
    refuses.
    """
    for leftover in leftovers:
        if leftover.kept_because:
            continue
        await _remove_schedules(connection, pod, leftover)
        for journal in leftover.journals:
            await _purge(connection, "STEP", journal)
        for consumer in leftover.consumers:
            await _request(connection, f"CONSUMER.DELETE.{consumer.stream}.{consumer.name}", None)
        progress(leftover)


def _consumer(stream: str, info: dict[str, Any]) -> LeftoverConsumer:
    counts = (int(info[name]) for name in ("num_pending", "num_ack_pending", "num_waiting"))
    return LeftoverConsumer(stream, info["name"], *counts)


async def _shared_names(connection: Connection, pod: Pod) -> set[str]:
    """The names of agents whose journal must stay: this pod's own, and other pods' in the account."""
    shared = {name for agent in pod.agents.values() for name in agent.names}
    shared |= {f"tool-{tool}" for tool in pod.tools}
    for stream in await stream_infos(connection):
        for info in await consumer_infos(connection, stream):
            owner = (info["config"].get("metadata") or {}).get("tieline.pod")
            if owner is not None and owner != pod.name:
                shared.add(agent_of(info["name"]))
    return shared


async def _leftover(
    connection: Connection,
    agent: str,
    consumers: tuple[LeftoverConsumer, ...],
    schedules: tuple[str, ...],
    is_shared: bool,
) -> Leftover:
    if is_shared:
        return Leftover(agent, consumers)
    owners = dict.fromkeys((agent, *(consumer.name for consumer in consumers)))
    journals = tuple(subjects.steps_of(owner) for owner in owners)
    letters = [subjects.dead_letter(agent, "*", ">")]
    return Leftover(
        agent,
        consumers,
        journal=await _count(connection, "STEP", list(journals)),
        parked=len(await _parked(connection, agent)),
        schedules=schedules,
        dead_letters=await _count(connection, "DLQ", letters),
        journals=journals,
    )


async def _count(connection: Connection, stream: str, filters: list[str]) -> int:
    try:
        return (await Feed(connection, stream, filters, start=1).position())[0]
    except NotApplied as error:
        if isinstance(error.__cause__, ApiError) and error.__cause__.err_code == _STREAM_MISSING:
            return 0
        raise


async def _parked(connection: Connection, agent: str) -> set[str]:
    """The origins of messages that were put aside and have not ended since."""
    parked = await _origins(connection, subjects.step_filter(agent, "park"))
    if not parked:
        return parked
    ended = await _origins(connection, subjects.step_filter(agent, "over"))
    async for letter in Feed(connection, "DLQ", [subjects.dead_letter(agent, "*", ">")], start=1, to_end=True):
        told = read_dead_letter(letter.headers.get(names.DEAD)) or {}
        ended.add(str(told.get("origin")))
    return parked - ended


async def _origins(connection: Connection, pattern: str) -> set[str]:
    if not await _count(connection, "STEP", [pattern]):
        return set()
    feed = Feed(connection, "STEP", [pattern], start=1, to_end=True, headers_only=True)
    return {record.headers[names.ORIGIN] async for record in feed if names.ORIGIN in record.headers}


async def _schedules(connection: Connection, pod: Pod, agents: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By agent, the subjects of the schedules that would bring a message back to it."""
    found: dict[str, list[str]] = {agent: [] for agent in agents}
    owners = {target: agent for agent in found for target in _targets(pod, agent)}
    if await _count(connection, "SCHEDULE", [subjects.schedules()]):
        feed = Feed(connection, "SCHEDULE", [subjects.schedules()], start=1, to_end=True, headers_only=True)
        async for schedule in feed:
            owner = owners.get(schedule.headers.get(_TARGET, ""))
            if owner is not None:
                found[owner].append(schedule.subject)
    return {agent: tuple(schedules) for agent, schedules in found.items()}


def _targets(pod: Pod, agent: str) -> list[str]:
    return [subjects.due(subjects.redrive(stream, agent)) for stream in pod.streams]


async def _remove_schedules(connection: Connection, pod: Pod, leftover: Leftover) -> None:
    room = asyncio.Semaphore(_AT_ONCE)

    async def remove(pattern: str) -> None:
        async with room:
            await _purge(connection, "SCHEDULE", pattern)

    due = _targets(pod, leftover.agent) if leftover.journals else []
    await asyncio.gather(*(remove(pattern) for pattern in (*leftover.schedules, *due)))


async def _purge(connection: Connection, stream: str, pattern: str) -> None:
    await _request(connection, f"STREAM.PURGE.{stream}", {"filter": pattern})


async def _request(connection: Connection, endpoint: str, body: dict[str, Any] | None) -> None:
    try:
        await ask(connection, endpoint, body)
    except ApiError as error:
        if error.err_code not in (_STREAM_MISSING, _CONSUMER_MISSING):
            raise NotApplied(f"{endpoint}: the server refuses: {error}") from error
    except NoAnswer as silence:
        raise NotApplied(f"{endpoint}: no answer; run it again: {silence}") from silence
