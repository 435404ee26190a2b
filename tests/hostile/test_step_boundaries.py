"""A crash costs one step, not the call: a process and the server are killed at every boundary of a five-step handler.

Every boundary is tried with one fault, turn and turn about the death of the process at work and of the server.
``TORTURE=1`` tries every boundary with both.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import pytest
from five_steps import Booking, Ledger, Viewing, five_steps, opened
from support.office import stored

from tieline import Bus, Host, Pod
from tieline.services import accountant
from tieline.testing import Server, eventually

type Fault = Literal["process", "server"]

TORTURE = os.environ.get("TORTURE") == "1"
AGENT = (
    "before tool.call.crm",
    "after tool.call.crm",
    "before step.booking.*.step.*",  # the function ran, its record is not written
    "after step.booking.*.step.*",
    "before call.intent.quote",
    "after call.intent.quote",
    "before tool.call.tally",
    "after tool.call.tally",
    "before state.*",
    "after state.*",  # the state is written, the step's record is not
    "after step.booking.*.state.*",
    "before call.intent.booked",
    "after call.intent.booked",
    "ack $JS.ACK.CALL_INTENT.booking.*",
)
OTHERS = (
    "enter crm",
    "before step.booking.*.tool.crm*",  # the tool ran, its record is not written
    "after step.booking.*.tool.crm*",
    "ack $JS.ACK.TOOL_CALL.tool-crm.*",
    "before step.booking.*.ask.*",
    "after step.booking.*.ask.*",
    "ack $JS.ACK.CALL_INTENT.quoter.*",
    "before step.booking.*.tool.tally*",
    "after step.booking.*.tool.tally*",
)
WAITING = (
    "before step.viewing.*.question.*",
    "after step.viewing.*.question.*",
    "before step.viewing.*.attempt.*",  # it decided to park
    "before step.viewing.*.sent.*",
    "before step.viewing.*.park.*",
    "after step.viewing.*.park.*",
    "ack $JS.ACK.CALL_INTENT.viewing.*",
)
RESULTS = ("ask", "human", "state", "step", "tool")


def matrix() -> list[tuple[str, Fault]]:
    points = [*AGENT, *OTHERS]
    if TORTURE:
        return [(point, fault) for point in points for fault in ("process", "server")]
    return [(point, "server" if number % 2 else "process") for number, point in enumerate(points)]


@asynccontextmanager
async def hosted(pod: Pod, url: str, seen: Callable[[str], None], *names: str) -> AsyncIterator[Bus]:
    """``names`` at work in this process."""
    bus = await opened(pod, url, seen)
    try:
        await bus.apply()
        host = Host(bus, names)
        work = asyncio.create_task(host.run())
        await asyncio.sleep(0)
        yield bus
        host.stop()
        await work
    finally:
        await bus.close()


def ignore(_: str) -> None:
    """Nothing happens at any point."""


async def settled(bus: Bus) -> None:
    """Every message that somebody consumes has its end, and the sum holds."""

    async def holds() -> bool:
        rows = await accountant.take(bus)
        return all(row.holds and (not row.pending or row.agent == "(nobody)") for row in rows)

    await eventually(holds, what="a sum that holds with nothing pending", within=20.0, every=0.1)


async def check(bus: Bus, ledger: Ledger, runs: int = 1) -> None:
    """The promises, whatever happened on the way."""
    await eventually(lambda: len(ledger.events("told")) >= runs, what="the handler's end", within=20.0)
    await settled(bus)
    assert ledger.effects() == 1
    [told] = set(ledger.events("told"))  # two runs saw the same
    assert re.fullmatch(r"told \['lead of 1', 'note on lead of 1 by \d+', '42', '1'\]", told)
    [booked] = await stored(bus, "call.intent.booked")
    assert str(json.loads(booked.payload)["told"]) == told.removeprefix("told ")
    kinds = sorted(delivery.subject.split(".")[3] for delivery in await stored(bus, "step.booking.*.*.*"))
    assert [kind for kind in kinds if kind in RESULTS] == ["ask", "state", "step", "tool", "tool"]
    assert not await stored(bus, "DLQ.>")


@pytest.mark.parametrize(("point", "fault"), matrix())
async def test_a_death_at_a_boundary(nats_server: Server, tmp_path: Path, point: str, fault: Fault) -> None:
    ledger = Ledger(tmp_path)
    victim = ["booking"] if point in AGENT else ["tools", "quoter"]
    others = ["tools", "quoter"] if point in AGENT else ["booking"]
    if fault == "process":
        await process_dies(nats_server, ledger, tmp_path, point, victim, others)
    else:
        await server_dies(nats_server, ledger, point)


async def process_dies(
    server: Server, ledger: Ledger, folder: Path, point: str, victim: list[str], others: list[str]
) -> None:
    """The victim's work is in a process of its own until it dies; then this one takes over."""
    pod = five_steps(ledger)
    async with hosted(pod, server.url, ignore, *others) as bus:
        await bus.publish(Booking(call_id="c1"))
        async with apart(server, folder, point, signal.SIGKILL, *victim) as process, asyncio.timeout(20.0):
            assert await process.wait() == -signal.SIGKILL, "the boundary was not reached"
        async with hosted(pod, server.url, ignore, *victim):
            await check(bus, ledger)


@asynccontextmanager
async def apart(
    server: Server, folder: Path, point: str, sign: signal.Signals, *names: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``names`` at work in a process of their own, which sends itself ``sign`` at ``point``."""
    program = Path(__file__).with_name("five_steps.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, server.url, folder, point, str(int(sign)), *names
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def server_dies(server: Server, ledger: Ledger, point: str) -> None:
    """The server is killed at the boundary and comes back; the processes live on."""
    died = asyncio.Event()

    def seen(what: str) -> None:
        if not died.is_set() and fnmatch(what, point):
            died.set()
            server.kill()

    pod = five_steps(ledger, seen)
    async with hosted(pod, server.url, seen, "booking", "tools", "quoter") as bus:
        await bus.publish(Booking(call_id="c1"))
        async with asyncio.timeout(10.0):
            await died.wait()
        await server.restart()
        await check(bus, ledger)


@pytest.mark.parametrize("point", WAITING if TORTURE else WAITING[::2])
async def test_the_asking_process_dies_around_its_park(nats_server: Server, tmp_path: Path, point: str) -> None:
    """What it asked is asked once, and its answer brings the message back wherever it was when it died."""
    ledger = Ledger(tmp_path)
    pod = five_steps(ledger)
    async with hosted(pod, nats_server.url, ignore, "quoter") as bus:
        await bus.publish(Viewing(call_id="c1"))
        async with apart(nats_server, tmp_path, point, signal.SIGKILL, "viewing") as process, asyncio.timeout(20.0):
            assert await process.wait() == -signal.SIGKILL, "the boundary was not reached"
        async with hosted(pod, nats_server.url, ignore, "viewing"):
            [question] = await eventually(lambda: stored(bus, "step.viewing.*.question.*"), what="the question")
            answer = question.subject.replace(".question.", ".human.")
            await bus.journal.write(answer, {"ok": True, "value": "yes"})
            await eventually(lambda: ledger.events("viewed"), what="the handler's end")
            await settled(bus)
            assert set(ledger.events("viewed")) == {"viewed yes"}
            assert len(await stored(bus, "call.intent.price")) == 1


async def test_two_replicas_that_run_one_delivery_agree(nats_server: Server, tmp_path: Path) -> None:
    """A process that stands still for longer than its lease finds, once it goes on, what the other one recorded."""
    ledger = Ledger(tmp_path)
    pod = five_steps(ledger)
    point = "before step.booking.*.step.*"
    async with (
        hosted(pod, nats_server.url, ignore, "tools", "quoter") as bus,
        apart(nats_server, tmp_path, point, signal.SIGSTOP, "booking") as process,
    ):
        await bus.publish(Booking(call_id="c1"))
        await eventually(lambda: ledger.events("step"), what="the first run's step")
        async with hosted(pod, nats_server.url, ignore, "booking"):
            await eventually(lambda: ledger.events("told"), what="the second run's end")
            process.send_signal(signal.SIGCONT)
            await check(bus, ledger, runs=2)
    assert len(ledger.events("step")) == 2
    assert f"by {process.pid}" not in ledger.events("told")[0]


async def test_a_replica_that_comes_late_with_its_tool_finds_the_first_result(
    nats_server: Server, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    pod = five_steps(ledger)
    point = "before step.booking.*.tool.crm*"
    async with (
        hosted(pod, nats_server.url, ignore, "booking", "quoter") as bus,
        apart(nats_server, tmp_path, point, signal.SIGSTOP, "tools") as process,
    ):
        await bus.publish(Booking(call_id="c1"))
        await eventually(lambda: ledger.events("crm"), what="the first run of the tool")
        async with hosted(pod, nats_server.url, ignore, "tools"):
            await eventually(lambda: ledger.events("told"), what="the handler's end")
            process.send_signal(signal.SIGCONT)
            await check(bus, ledger)
    assert len(ledger.events("crm")) == 2
