"""What many conversations that wait for a person cost the one process that asked for them: memory, and time to wake.

Each message asks a person and parks. When all are parked, the agent's process is looked at; then all are answered, and
the clock runs from the first answer until the last handler has come to its end.

    .venv/bin/python bench/parked.py [--json] [--quick]
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rounds import SYNCS, embedded_server, lines, options, print_json

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings

AT_ONCE = 256  # publishes and answers under way


class Book(Message, subject="call.intent.book"):
    call_id: str


class Booked(Message, subject="call.intent.booked"):
    call_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One server setting. Memory is resident, in megabytes (10^6 bytes)."""

    sync: str
    conversations: int
    before_mb: float
    parked_mb: float
    peak_mb: float
    parked_per_second: float
    woken_per_second: float
    wake_seconds: float


def waiting_pod() -> Pod:
    """An agent that asks a person."""
    pod = Pod("bench", limits=Limits(concurrency=64))

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        await call.ask_human("Shall we?", expects=bool)
        await call.publish(Booked(call_id=message.call_id))

    return pod


def settings(url: str) -> Settings:
    return Settings(connection=ConnectionSettings(servers=(url,)))


async def serve(url: str) -> None:
    """The agent's process."""
    async with connect(waiting_pod(), settings=settings(url)) as bus:
        print("ready", flush=True)
        await Host(bus, ["booking"]).run()


@asynccontextmanager
async def agent(url: str) -> AsyncIterator[int]:
    """The agent at work; its process id."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--agent", url, stdout=subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


def memory(pid: int, field: str) -> float:
    """Megabytes, from Linux: ``VmRSS`` now, ``VmHWM`` the most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(field)


async def until_stored(bus: Bus, stream: str, pattern: str, count: int) -> None:
    """Return when a stream holds so many subjects of a kind."""
    found = 0
    while found < count:
        await asyncio.sleep(0.05)
        info = await bus.connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern, "offset": 10**9})
        found = int(info.get("total", 0))


async def until_idle(bus: Bus) -> None:
    """Return when the agent holds nothing and nothing waits for it."""
    while True:
        info = await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking")
        if not info["num_pending"] and not info["num_ack_pending"]:
            return
        await asyncio.sleep(0.05)


async def measured(sync: str, conversations: int) -> Row:
    """One row."""
    async with embedded_server(sync) as url, connect(waiting_pod(), settings=settings(url)) as bus:
        await bus.apply()
        async with agent(url) as pid:
            before = memory(pid, "VmRSS")
            began = time.perf_counter()
            for start in range(0, conversations, AT_ONCE):
                numbers = range(start, min(start + AT_ONCE, conversations))
                await asyncio.gather(*(bus.publish(Book(call_id=f"c{number}")) for number in numbers))
            await until_stored(bus, "STEP", "step.booking.*.park.*", conversations)
            await until_idle(bus)
            parking = time.perf_counter() - began
            parked = memory(pid, "VmRSS")
            questions = [d.subject async for d in bus.feed("step.booking.*.question.*", start=1, to_end=True)]
            began = time.perf_counter()
            for start in range(0, conversations, AT_ONCE):
                await asyncio.gather(*(answer(bus, one) for one in questions[start : start + AT_ONCE]))
            await until_stored(bus, "STEP", "step.booking.*.over.*", conversations)
            await until_idle(bus)
            waking = time.perf_counter() - began
            peak = memory(pid, "VmHWM")
    return Row(sync, conversations, before, parked, peak, conversations / parking, conversations / waking, waking)


async def answer(bus: Bus, question: str) -> None:
    """A person says yes."""
    await bus.journal.write(question.replace(".question.", ".human."), {"ok": True, "value": True})


def table(rows: list[Row]) -> str:
    head = ("server", "MB before", "MB parked", "MB at most", "parked/s *", "woken/s *", "all woken *")
    cells = [
        (
            f'sync="{row.sync}"',
            f"{row.before_mb:.0f}",
            f"{row.parked_mb:.0f}",
            f"{row.peak_mb:.0f}",
            f"{row.parked_per_second:,.0f}",
            f"{row.woken_per_second:,.0f}",
            f"{row.wake_seconds:.1f} s",
        )
        for row in rows
    ]
    return lines(f"{rows[0].conversations:,} parked conversations of one process", head, cells)


async def main() -> None:
    given = options("Memory and waking time of parked conversations.")
    rows = [await measured(sync, 1_000 if given.quick else 10_000) for sync in SYNCS]
    if given.json:
        print_json([asdict(row) for row in rows])
        return
    print(table(rows))
    print("* on this machine, now; from the first message published and the first answer given")


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[2]) if sys.argv[1:2] == ["--agent"] else main())
