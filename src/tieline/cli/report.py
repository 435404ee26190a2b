"""``tieline report``: streams, consumers and dead letters, as they are now."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic.alias_generators import to_camel
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tieline.cli.options import JsonOption, ServerOption, connected, settings_of
from tieline.cli.printing import age, console, line, print_json, size, table
from tieline.cli.sum_table import sum_table
from tieline.diagnosis.capacity import Level
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.runtime.bus import connect
from tieline.services.accountant import take_settled
from tieline.services.letters.reading import Selection, counted
from tieline.services.reference import load_pod
from tieline.services.skipped import AUDIT, Skipped, skipped_records
from tieline.services.storage_watch import storage_alarms
from tieline.wire.connection import Connection
from tieline.wire.topology import consumer_infos, consumers_of, stream_infos

__all__ = ["report"]

_EVERY = 2.0  # seconds between looks of --watch
_BROKEN = 3


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream. ``oldest`` is the age of its first message in seconds; limits of None are none."""

    name: str
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    oldest: float | None
    consumers: int
    max_bytes: int | None
    max_age: float | None


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """One durable consumer. ``pending`` were never delivered; ``in_flight`` are delivered and not acknowledged."""

    stream: str
    name: str
    pending: int
    in_flight: int
    redelivered: int
    waiting: int
    ack_floor: int


@dataclass(frozen=True, slots=True)
class DeadCount:
    """How many dead letters of one agent have one cause."""

    agent: str
    cause: str
    count: int


@dataclass(frozen=True, slots=True)
class StorageAlarm:
    """A stream, or the account, that has little room left. ``text`` says what that means and what to do."""

    thing: str
    level: Level
    ratio: float
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything the report shows. ``missing`` are streams of the pod that the server has not; ``skipped`` are records
    of the whole account that processes could not read."""

    streams: tuple[StreamState, ...]
    consumers: tuple[ConsumerState, ...]
    dead_letters: tuple[DeadCount, ...]
    missing: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    alarms: tuple[StorageAlarm, ...] = ()


def report(
    pod: Annotated[
        str | None, typer.Argument(metavar="[POD]", help="Only this pod's: module or module:attribute.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds until Ctrl-C.")] = False,
    sum_: Annotated[bool, typer.Option("--sum", help="Show instead whether the pod's sum holds.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Show streams, durable consumers and dead letters: all of the account, or those of a pod.

    With ``--sum``: published = done + dead + expired + pending, for each stream and agent of a pod, as of now. Exit 3
    where messages are unaccounted, or where the server counts otherwise for ten seconds.
    """
    declared = None if pod is None else load_pod(pod)
    if sum_:
        if declared is None or watch:
            raise BadSettings("--sum counts one pod, once: tieline report POD --sum")
        return asyncio.run(_sum(declared, server, json))
    try:
        asyncio.run(_report(declared, server, watch, json))
    except KeyboardInterrupt:
        return 0 if watch else 130
    return 0


async def _sum(pod: Pod, server: list[str] | None, as_json: bool) -> int:
    async with connect(pod, settings=replace(settings_of(server), audit=False)) as bus:
        rows = await take_settled(bus)
    holds = all(row.holds for row in rows)
    if as_json:
        print_json({"holds": holds, "rows": [_camel(asdict(row) | {"holds": row.holds}) for row in rows]})
        return 0 if holds else _BROKEN
    out = console()
    out.print(sum_table(rows))
    if not holds:
        wrong = ", ".join(f"{row.stream} {row.agent}" for row in rows if not row.holds)
        if any(row.unaccounted for row in rows):
            out.print("[red]Messages are unaccounted: `tieline losses POD` lists them.[/red]")
        out.print(f"[red]The sum does not hold: {wrong}.[/red] docs/operations/runbook.md says what that means.")
    return 0 if holds else _BROKEN


async def _report(pod: Pod | None, server: list[str] | None, watch: bool, as_json: bool) -> None:
    async with connected(server) as connection:
        if as_json:
            async for state in _states(connection, pod, watch):
                print_json(_camel(asdict(state)))
        elif not watch:
            console().print(_tables(await _state(connection, pod)))
        else:
            with Live(console=console(), auto_refresh=False) as live:
                async for state in _states(connection, pod, watch):
                    live.update(_tables(state), refresh=True)


async def _states(connection: Connection, pod: Pod | None, watch: bool) -> AsyncIterator[State]:
    yield await _state(connection, pod)
    while watch:
        await asyncio.sleep(_EVERY)
        yield await _state(connection, pod)


async def _state(connection: Connection, pod: Pod | None) -> State:
    streams = await stream_infos(connection)
    wanted = set(streams) if pod is None else set(pod.streams)
    consumers: list[ConsumerState] = []
    declared = None if pod is None else {(c.stream, c.durable) for c in consumers_of(pod)}
    for stream in sorted(wanted & set(streams)):
        for info in await consumer_infos(connection, stream):
            durable = info["config"].get("durable_name")
            if durable and (declared is None or (stream, durable) in declared):
                consumers.append(_consumer_state(info))
    dead = await _dead_letters(connection)
    agents = None if declared is None else {durable for _, durable in declared}
    return State(
        tuple(_stream_state(info) for name, info in sorted(streams.items()) if name in wanted),
        tuple(consumers),
        tuple(
            DeadCount(agent, cause, count)
            for (agent, cause), count in sorted(dead.items())
            if agents is None or agent in agents
        ),
        tuple(sorted(wanted - set(streams))),
        await skipped_records(connection) if AUDIT in streams else (),
        tuple(
            StorageAlarm(alarm.thing, alarm.level, round(alarm.ratio, 3), alarm.text)
            for alarm in await storage_alarms(connection, pod)
        ),
    )


def _stream_state(info: dict[str, Any]) -> StreamState:
    config, state = info["config"], info["state"]
    oldest = None
    if state["messages"]:
        oldest = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(state["first_ts"])).total_seconds())
    return StreamState(
        config["name"],
        state["messages"],
        state["bytes"],
        state["first_seq"],
        state["last_seq"],
        oldest,
        state["consumer_count"],
        config["max_bytes"] if config.get("max_bytes", -1) > 0 else None,
        config["max_age"] / 1e9 if config.get("max_age") else None,
    )


def _consumer_state(info: dict[str, Any]) -> ConsumerState:
    return ConsumerState(
        info["stream_name"],
        info["name"],
        info["num_pending"],
        info["num_ack_pending"],
        info["num_redelivered"],
        info["num_waiting"],
        info["ack_floor"]["stream_seq"],
    )


async def _dead_letters(connection: Connection) -> dict[tuple[str, str], int]:
    return {(group.agent, group.cause): group.count for group in await counted(connection, Selection())}


def _camel(value: Any) -> Any:
    match value:
        case dict():
            return {to_camel(key): _camel(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_camel(inner) for inner in value]
        case _:
            return value


def _tables(state: State) -> Group:
    streams = table(
        "streams",
        ("stream", ">messages", ">bytes", ">first", ">last", ">oldest", ">consumers", ">max bytes", ">max age"),
        [
            (s.name, s.messages, size(s.bytes), s.first_seq, s.last_seq, age(s.oldest), s.consumers, *_limits(s))
            for s in state.streams
        ],
    )
    consumers = table(
        "\nconsumers",
        ("consumer", "stream", ">pending", ">in flight", ">redelivered", ">waiting pulls", ">ack floor"),
        [
            (c.name, c.stream, _alarming(c.pending), c.in_flight, _alarming(c.redelivered), c.waiting, c.ack_floor)
            for c in state.consumers
        ],
    )
    dead = [(d.agent, d.cause, _alarming(d.count)) for d in state.dead_letters]
    shown: list[Any] = [streams, consumers]
    shown.append(table("\ndead letters", ("agent", "cause", ">count"), dead) if dead else Text("\nno dead letters"))
    if state.skipped:
        shown.append(_skipped(state.skipped))
    shown += [Text(f"stream {name} does not exist; `tieline apply` makes it", style="red") for name in state.missing]
    shown += [Text(f"\n{alarm.text}", style="yellow" if alarm.level == "warning" else "red") for alarm in state.alarms]
    return Group(*shown)


def _skipped(skipped: tuple[Skipped, ...]) -> Table:
    columns = ("kind", ">total", "by", "last: stream", ">message", "subject", ">when")
    rows = [
        (
            s.kind,
            s.total,
            line(s.by),
            line(s.stream),
            s.seq,
            line(s.subject),
            f"{age(max(0.0, time.time() - s.at))} ago",
        )
        for s in skipped
    ]
    return table("\nrecords that could not be read and were skipped", columns, rows)


def _limits(stream: StreamState) -> tuple[str, str]:
    return size(stream.max_bytes), age(stream.max_age)


def _alarming(count: int) -> Text:
    return Text(str(count), style="yellow" if count else "")
