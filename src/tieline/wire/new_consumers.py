"""Consumers that do not exist yet: where each begins, and how many stored messages the server will give it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from tieline.agent import Start
from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.wire.connection import ApiError, Connection
from tieline.wire.declared_consumers import agent_of
from tieline.wire.feed import Feed
from tieline.wire.infos import consumer_infos
from tieline.wire.peers import ask

__all__ = [
    "CREATION_ONLY",
    "RENAMED",
    "beginning",
    "consumers_left_behind",
    "delivery_start",
    "explain_stored",
    "refuse_renames",
    "resume_beginning",
    "stored_for",
]

type Config = dict[str, Any]


class Declared(Protocol):
    """A consumer that a pod declares."""

    @property
    def stream(self) -> str: ...
    @property
    def durable(self) -> str: ...


CREATION_ONLY = frozenset({"deliver_policy", "opt_start_seq", "opt_start_time"})
"""Fields of a consumer that only say where it began: they decide nothing once it exists."""

RENAMED = "tieline.agent"
"""Metadata of a consumer whose agent was renamed: the name that its agent is declared under now."""

_STREAM_MISSING, _CONSUMER_MISSING = 10059, 10014


def delivery_start(start: Start) -> Config:
    """The fields of a consumer's configuration for ``start``. See `beginning` for ``"new"``."""
    if isinstance(start, datetime):
        return {"deliver_policy": "by_start_time", "opt_start_time": start.astimezone(UTC).isoformat()}
    return {"deliver_policy": "new" if start == "new" else "all"}


async def beginning(connection: Connection, stream: str, wanted: Config) -> Config:
    """``wanted`` with ``"new"`` turned into the sequence after the newest message.

    Why: the configuration then says exactly which messages the consumer is given, however long ago it was made. The
    time of its creation does not: a message may be stored between that time and the start that the server chose.
    """
    if wanted.get("deliver_policy") != "new":
        return wanted
    state = (await ask(connection, f"STREAM.INFO.{stream}"))["state"]
    return wanted | {"deliver_policy": "by_start_sequence", "opt_start_seq": int(state["last_seq"]) + 1}


async def resume_beginning(connection: Connection, stream: str, durable: str, wanted: Config) -> Config:
    """``wanted`` for a new consumer of what is brought back, with the place where it begins.

    The main consumer of an older deployment takes these messages too: the new one begins behind what that has handled.
    What it handled out of order is delivered again, and found by its record of completion.
    """
    try:
        main = await ask(connection, f"CONSUMER.INFO.{stream}.{agent_of(durable)}")
    except ApiError as error:
        if error.err_code in (_CONSUMER_MISSING, _STREAM_MISSING):
            return await beginning(connection, stream, wanted)
        raise
    taken = main["config"].get("filter_subjects") or [main["config"].get("filter_subject", "")]
    if not frozenset(taken) & frozenset(wanted["filter_subjects"]):
        return _without_start(wanted) | {"deliver_policy": "all"}  # somebody deleted it: better again than not at all
    floor = main["ack_floor" if main["num_ack_pending"] else "delivered"]["stream_seq"]
    return _without_start(wanted) | {"deliver_policy": "by_start_sequence", "opt_start_seq": int(floor) + 1}


def _without_start(wanted: Config) -> Config:
    return {field: value for field, value in wanted.items() if field not in CREATION_ONLY}


async def stored_for(connection: Connection, stream: str, wanted: Config) -> int:
    """How many messages that are stored now a new consumer with this configuration will be given; the server counts.

    Raises `NotApplied` if the server refuses to count.
    """
    start: int | datetime = int(wanted.get("opt_start_seq", 1))
    if wanted["deliver_policy"] == "new":
        return 0
    if wanted["deliver_policy"] == "by_start_time":
        start = datetime.fromisoformat(wanted["opt_start_time"])
    try:
        count, _ = await Feed(connection, stream, wanted["filter_subjects"], start=start).position()
    except NotApplied as error:
        if isinstance(error.__cause__, ApiError) and error.__cause__.err_code == _STREAM_MISSING:
            return 0
        raise
    return count


def explain_stored(count: int, wanted: Config, left_behind: Iterable[dict[str, Any]]) -> str:
    """What to know before a consumer is created that will be given ``count`` stored messages; empty for none.

    ``left_behind`` are the consumers on its stream that the pod made and no longer declares: if one of them takes the
    same messages, the new agent may be that one under another name.
    """
    if not count:
        return ""
    number = f"{count:,} stored message{'s' if count != 1 else ''}"
    took = frozenset(subject for subject in wanted["filter_subjects"] if not subject.startswith("redrive."))
    same = [
        info["name"]
        for info in left_behind
        if took & frozenset(info["config"].get("filter_subjects") or [info["config"].get("filter_subject", "")])
    ]
    if same:
        renamed = f'if {same[0]} was renamed, declare @pod.agent(formerly="{same[0]}") to go on where it is'
        return f'it will be given {number}; {renamed}, or start="new" to begin behind them'
    return f'it will be given {number}; declare @pod.agent(start="new") to begin behind them'


async def consumers_left_behind(
    connection: Connection, pod: Pod, declared: Iterable[Declared]
) -> dict[str, list[dict[str, Any]]]:
    """By stream, what the server says of each consumer that this pod made and no longer declares. Nobody pulls them."""
    known = {(consumer.stream, consumer.durable) for consumer in declared}
    found = {}
    for stream in pod.streams:
        infos = await consumer_infos(connection, stream)
        found[stream] = [info for info in infos if _is_of(info, pod) and (stream, info["name"]) not in known]
    return found


async def refuse_renames(connection: Connection, pod: Pod) -> None:
    """Raise `NotApplied` where an agent's ``formerly`` would make it go on from the wrong position."""
    renamed = [agent for agent in pod.agents.values() if agent.wire_name != agent.name]
    streams = {pod.stream_of(subject).name for agent in renamed for subject in agent.filters}
    for stream in sorted(streams):
        infos = [info for info in await consumer_infos(connection, stream) if _is_of(info, pod)]
        declared = {info["name"]: info["config"]["metadata"].get(RENAMED, info["name"]) for info in infos}
        for agent in renamed:
            _refuse_rename(agent.name, agent.wire_name, declared)


def _refuse_rename(name: str, wire_name: str, declared: dict[str, str]) -> None:
    """``declared``: by consumer of the pod, the name that its agent was last declared under."""
    if wire_name in declared:
        if name in declared:
            raise NotApplied(
                f"agent {name}: formerly={wire_name!r}, and there are consumers of both names. The agent has run as "
                f"{name!r} already; going back to the position of {wire_name!r} would repeat what it handled since. "
                f"Remove formerly=, or delete the consumer {name!r} if it has handled nothing"
            )
        return
    for consumer, last in declared.items():
        if last == wire_name:
            raise NotApplied(
                f"agent {name}: formerly={wire_name!r} is not its name on the bus: an earlier rename kept {consumer!r} "
                f'there. Declare formerly="{consumer}"'
            )


def _is_of(info: dict[str, Any], pod: Pod) -> bool:
    return bool((info["config"].get("metadata") or {}).get("tieline.pod") == pod.name)
