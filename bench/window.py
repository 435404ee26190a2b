"""How many handled messages run again when their process is killed: the window between a handler's end and its ack.

A process handles messages that do nothing but note their number in a file. It is killed with SIGKILL while messages
come at a steady rate, and started again. Counted is which numbers are in the file twice. A delivery is acknowledged
only after the batch that holds its fact is stored, so the window is the linger of 50 ms plus one write.

    .venv/bin/python bench/window.py [--json] [--quick]
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rounds import embedded_server, lines, options

from tieline import Bus, Conversation, Limits, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings
from tieline.testing import eventually

RATES = (100, 1_000)  # messages a second


class Note(Message, subject="call.intent.note"):
    call_id: str
    notes: str


pod = Pod("window", limits=Limits(concurrency=64, ack_wait=2))


@pod.agent
async def noting(message: Note, _: Conversation) -> None:
    """Append the message's id to the file, in one write."""
    descriptor = os.open(message.notes, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{message.call_id}\n".encode())
    os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds: messages that ran twice, and what that is in milliseconds of the rate."""

    sync: str
    audit: str
    rate: int
    again: float
    milliseconds: float
    missing: int


async def started(url: str, audit: str) -> asyncio.subprocess.Process:
    """The agent's process."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tieline.services.process", "--server", url, "window:pod", "noting"),
        cwd=Path(__file__).parent,
        env=os.environ | {"TIELINE_AUDIT": audit, "TIELINE_LOG": "error"},
    )


async def pulls(bus: Bus) -> bool:
    """Whether the process waits for messages: what comes from now on is handled at the rate it comes."""
    return bool((await bus.connection.api("CONSUMER.INFO.CALL_INTENT.noting"))["num_waiting"])


async def publish(bus: Bus, notes: Path, rate: int, seconds: float) -> int:
    """A steady rate for so long; how many that were."""
    began, sent, under_way = asyncio.get_running_loop().time(), 0, set[asyncio.Task[str]]()
    while (passed := asyncio.get_running_loop().time() - began) < seconds:
        while sent < passed * rate:
            under_way.add(asyncio.create_task(bus.publish(Note(call_id=str(sent), notes=str(notes)))))
            sent += 1
        await asyncio.sleep(0.005)
    await asyncio.gather(*under_way)
    return sent


async def one_round(url: str, audit: str, rate: int, number: int) -> tuple[int, int]:
    """Messages that ran twice, and messages that never ran."""
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        notes = Path(folder) / "notes"
        notes.touch()
        at = Settings(connection=ConnectionSettings(servers=(url,)), audit=False)
        async with connect(pod, settings=at) as bus:
            await bus.apply()
            process = await started(url, audit)
            await eventually(lambda: pulls(bus), what="a process that pulls")
            loading = asyncio.create_task(publish(bus, notes, rate, 3.0))
            await eventually(lambda: len(notes.read_text().splitlines()) > rate * (1 + number % 5 / 10), what="work")
            process.kill()
            await process.wait()
            process = await started(url, audit)
            sent = await loading
            await eventually(lambda: len(set(notes.read_text().split())) == sent, what="all of it", within=60)
            process.terminate()
            await process.wait()
            ran = Counter(notes.read_text().split())
            return sum(count > 1 for count in ran.values()), sent - len(ran)


async def main() -> None:
    given = options(__doc__ or "")
    rows = []
    for sync in ("always",) if given.quick else ("2m", "always"):
        async with embedded_server(sync) as url:
            for audit in ("on", "off"):
                for rate in RATES:
                    found = [await one_round(url, audit, rate, number) for number in range(2 if given.quick else 6)]
                    again = statistics.median(one for one, _ in found)
                    lost = sum(missing for _, missing in found)
                    rows.append(Row(sync, audit, rate, again, again / rate * 1_000, lost))
    if given.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    cells = [
        (
            f"sync {row.sync}, audit {row.audit}, {row.rate:,}/s",
            f"{row.again:g}",
            f"{row.milliseconds:.0f}",
            row.missing,
        )
        for row in rows
    ]
    head = ("", "ran twice", "ms of the rate", "never ran")
    print(lines("Handled messages that run again after a SIGKILL", head, [tuple(map(str, cell)) for cell in cells]))


if __name__ == "__main__":
    uvloop.run(main())
