"""What durable steps cost: beside the bare stream operations they are made of, and beside Temporal activities.

A round trip is ``await call.tool(echo, …)`` in a handler: the call is stored, an executor in another process runs the
tool and stores its result, and the handler has it. Beside it stands the bare sum of its parts: one JetStream publish
acknowledged, then one message pulled. Five steps are five tool calls in a row, and in Temporal the same function of
five activities: its development server with a file, one worker for workflows and activities with room for 512 of each.
The agent and the executor have a process each; the audit is off.

    .venv/bin/python bench/steps.py [--json] [--quick]
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import natsio
import uvloop
from natsio.jetstream import ConsumerConfig, StreamConfig
from rounds import SYNCS, embedded_server, lines, options, print_json
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings

STEPS = 5
MANY = Limits(concurrency=512)
QUEUE = "bench"


class Go(Message, subject="call.intent.go"):
    call_id: str
    number: int


class Idle(Message, subject="call.intent.idle"):
    call_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line. ``ratio`` is to the row named ``beside`` of the same run."""

    sync: str
    name: str
    value: float
    unit: str
    beside: str
    ratio: float | None


def steps_pod(steps: int, done: Callable[[float], None]) -> Pod:
    """A handler of ``steps`` tool calls; ``done`` is told how long it took."""
    pod = Pod("bench", limits=MANY)

    @pod.tool
    async def echo(number: int) -> int:
        return number + 1

    @pod.agent
    async def going(message: Go, call: Conversation) -> None:
        began = time.perf_counter()
        number = message.number
        for _ in range(steps):
            number = await call.tool(echo, number)
        done(time.perf_counter() - began)

    return pod


@asynccontextmanager
async def executor(url: str) -> AsyncIterator[None]:
    """The tool executor, in a process of its own."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--executor", url, stdout=subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def serve_tools(url: str) -> None:
    """The other end of `executor`."""
    async with connect(steps_pod(1, lambda _: None), settings=settings(url)) as bus:
        print("ready", flush=True)
        await Host(bus, ["tools"]).run()


def settings(url: str) -> Settings:
    return Settings(connection=ConnectionSettings(servers=(url,)), audit=False)


async def bare(url: str, rounds: int) -> list[float]:
    """Seconds for one publish acknowledged and one message pulled, one after the other."""
    took: list[float] = []
    async with await natsio.connect(url) as client:
        stream = await client.jetstream().create_stream(StreamConfig(name="BARE", subjects=["bare.*"]))
        consumer = await stream.create_consumer(ConsumerConfig(durable_name="bare", filter_subject="bare.*"))
        for number in range(rounds):
            began = time.perf_counter()
            await client.jetstream().publish("bare.x", b'{"callId":"c","args":{"number":1}}', msg_id=f"m{number}")
            message = await consumer.next()
            took.append(time.perf_counter() - began)
            if message is not None:
                await message.ack()
        await client.request("$JS.API.STREAM.DELETE.BARE")
    return took


async def gone_through(url: str, steps: int, messages: int, at_once: int) -> tuple[list[float], float]:
    """Seconds of each handler, and tool calls a second, with ``at_once`` handlers running."""
    took: list[float] = []
    finished = asyncio.Event()

    def done(seconds: float) -> None:
        took.append(seconds)
        if len(took) == messages:
            finished.set()

    pod = steps_pod(steps, done)
    pod.agents["going"].limits = Limits(concurrency=at_once)
    async with connect(pod, settings=settings(url)) as bus:
        await bus.apply()
        async with executor(url):
            await load(bus, lambda number: Go(call_id=f"c{number}-{os.urandom(4).hex()}", number=number), messages)
            host = Host(bus, ["going"])
            began = time.perf_counter()
            running = asyncio.create_task(host.run())
            await finished.wait()
            seconds = time.perf_counter() - began
            host.stop()
            await running
    return took, messages * steps / seconds


async def load(bus: Bus, make: Callable[[int], Message], messages: int) -> None:
    """Store the messages that start the handlers."""
    for start in range(0, messages, 256):
        await asyncio.gather(*(bus.publish(make(number)) for number in range(start, min(start + 256, messages))))


async def idle(url: str, messages: int) -> float:
    """Messages a second of a handler without steps."""
    left = messages
    finished = asyncio.Event()
    pod = Pod("bench", limits=MANY)

    @pod.agent
    async def idling(_: Idle, call: Conversation) -> None:  # noqa: ARG001 - a handler takes both
        nonlocal left
        left -= 1
        if not left:
            finished.set()

    async with connect(pod, settings=settings(url)) as bus:
        await bus.apply()
        await load(bus, lambda number: Idle(call_id=f"c{number}"), messages)
        host = Host(bus, ["idling"])
        began = time.perf_counter()
        running = asyncio.create_task(host.run())
        await finished.wait()
        rate = messages / (time.perf_counter() - began)
        host.stop()
        await running
    return rate


@activity.defn
async def echo_activity(number: int) -> int:
    return number + 1


@workflow.defn
class FiveSteps:
    """The same five calls, as Temporal writes them."""

    @workflow.run
    async def run(self, number: int) -> int:
        for _ in range(STEPS):
            number = await workflow.execute_activity(
                echo_activity, number, start_to_close_timeout=timedelta(seconds=60)
            )
        return number


@asynccontextmanager
async def temporal_server() -> AsyncIterator[str]:
    """Temporal's development server with a file, in a folder that goes with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        program = str(Path(sys.executable).with_name("temporal"))
        process = await asyncio.create_subprocess_exec(
            *(program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)),
            *("--db-filename", f"{folder}/temporal.db", "--log-level", "error"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            await process.wait()


async def temporal_client(address: str) -> Client:
    """Connected, as soon as the server answers."""
    for _ in range(100):
        try:
            return await Client.connect(address)
        except RuntimeError:
            await asyncio.sleep(0.1)
    return await Client.connect(address)


async def temporal(functions: int) -> float:
    """Activities a second of ``functions`` five-step workflows, all started at once."""
    async with temporal_server() as address:
        client = await temporal_client(address)
        worker = Worker(
            client,
            task_queue=QUEUE,
            workflows=[FiveSteps],
            activities=[echo_activity],
            workflow_runner=UnsandboxedWorkflowRunner(),
            max_concurrent_activities=512,
            max_concurrent_workflow_tasks=512,
        )
        async with worker:
            start = partial(client.execute_workflow, FiveSteps.run, task_queue=QUEUE)
            await start(0, id="warm-up")
            began = time.perf_counter()
            await asyncio.gather(*(start(number, id=f"w{number}") for number in range(functions)))
            return functions * STEPS / (time.perf_counter() - began)


async def compare(sync: str, quick: bool, of_temporal: float) -> list[Row]:
    """One table."""
    calls, messages = (200, 400) if quick else (1000, 2000)
    async with embedded_server(sync) as url:
        ordinary = statistics.median(await bare(url, calls))
        trips, _ = await gone_through(url, 1, calls, 1)
        trip = statistics.median(trips)
        _, few = await gone_through(url, STEPS, messages, 64)
        _, many = await gone_through(url, STEPS, messages, 512)
        without = await idle(url, messages * 5)
    parts, five = "publish acknowledged + pull", "Temporal"
    return [
        Row(sync, parts, ordinary * 1e6, "us", "", None),
        Row(sync, "tool round trip", trip * 1e6, "us", parts, trip / ordinary),
        Row(sync, "five steps, 64 at once", few, "steps/s", five, few / of_temporal),
        Row(sync, "five steps, 512 at once", many, "steps/s", five, many / of_temporal),
        Row(sync, "Temporal, five activities", of_temporal, "steps/s", "", None),
        Row(sync, "a handler without steps", without, "messages/s", "", None),
    ]


def table(rows: list[Row]) -> str:
    cells = [
        (row.name, f"{row.value:,.0f} {row.unit}", f"{row.ratio:.2f} of {row.beside}" if row.ratio else "")
        for row in rows
    ]
    return lines(f'Durable steps, server with sync="{rows[0].sync}"', ("", "p50 or rate *", "ratio"), cells)


async def main() -> None:
    given = options("What durable steps cost, beside their parts and beside Temporal.")
    of_temporal = await temporal(50 if given.quick else 300)
    tables = [await compare(sync, given.quick, of_temporal) for sync in SYNCS]
    if given.json:
        print_json([asdict(row) for rows in tables for row in rows])
        return
    for rows in tables:
        print(table(rows))
    print("* on this machine, now")


if __name__ == "__main__":
    uvloop.run(serve_tools(sys.argv[2]) if sys.argv[1:2] == ["--executor"] else main())
