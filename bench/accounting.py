"""How long the audit process takes to know the sum after a restart, and `tieline report --sum`, with a long history.

The conversations are stored before: a message, the fact that it was published and the fact that it is done, each. Then
the audit process counts them once, is killed, and is started again: timed is from the start of the process until its
accountant answers with the right sum. The command is timed from its start to its end, with and without an accountant.

    .venv/bin/python bench/accounting.py [--json] [--quick] [--old PATH]

``--old`` is a checkout of another commit, whose figures are taken on the same data before.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import batched
from pathlib import Path

import natsio
import uvloop
from rounds import embedded_server, lines, print_json

from tieline import Bus, Conversation, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings
from tieline.wire.batches import store_together

PAGE = 500
PATIENCE = 300.0
NEW = Path(__file__).parents[1]
POD = """
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("bench")

@pod.agent
async def booking(_: Book, __: Conversation) -> None: ...
"""


class Book(Message, subject="call.intent.book"):
    call_id: str


pod = Pod("bench")


@pod.agent
async def booking(_: Book, __: Conversation) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one version, in seconds. ``held``: whether the sum was right after the restart."""

    version: str
    conversations: int
    first: float
    restarted: float
    held: bool
    report_beside: float
    report_alone: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where one version runs: its source, the folder with the pod, and the server."""

    name: str
    source: Path
    folder: Path
    url: str
    count: int

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "import sys; from tieline.cli.main import main; sys.exit(main())", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        # With compiled modules, as an installed package has them, whatever this machine's settings are.
        cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.folder / "compiled" / self.name)}
        return {**os.environ, **cached, "PYTHONPATH": f"{self.source / 'src'}:{self.folder}"}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer conversations")
    parser.add_argument("--old", type=Path, help="a checkout of another commit")
    given = parser.parse_args()
    count = 30_000 if given.quick else 300_000
    async with embedded_server("2m") as url:
        settings = Settings(connection=ConnectionSettings(servers=(url,)), audit=False)
        async with connect(pod, settings=settings) as bus:
            await bus.apply()
            await fill(bus, count)
        with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
            (Path(folder) / "benchpod.py").write_text(POD)
            old = [("before", given.old)] if given.old else []
            places = [Place(name, source, Path(folder), url, count) for name, source in (*old, ("now", NEW))]
            rows = [await measured(place) for place in places]
    if given.json:
        print_json([asdict(row) for row in rows])
    else:
        print(table(rows))


async def measured(place: Place) -> Row:
    """Let the audit process count once, kill it, and time the next one."""
    async with audit(place) as process:
        first = await right_after(place)
        await asyncio.sleep(4.0)  # its checkpoint
        process.send_signal(signal.SIGKILL)
        await process.wait()
    alone = await reported(place)
    async with audit(place) as process:
        restarted = await right_after(place)
        beside = await reported(place)
        process.terminate()
        await process.wait()
    return Row(place.name, place.count, first or 0.0, restarted or 0.0, restarted is not None, beside, alone)


@asynccontextmanager
async def audit(place: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process `audit` of the pod, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tieline.services.process", "--server", place.url, "benchpod", "audit",
        env=place.environment, cwd=place.folder, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def right_after(place: Place) -> float | None:
    """Seconds until the accountant answers with the right sum; None where it says that a wrong one holds for long."""
    began, wrong = time.monotonic(), 0.0
    client = await natsio.connect(place.url)
    try:
        while time.monotonic() < began + PATIENCE:
            try:
                rows = json.loads((await client.request("tieline.sum.bench", b"", timeout=2)).payload)
            except natsio.NATSError:
                rows = None
            mine = [row for row in rows if row["agent"] == "booking"] if isinstance(rows, list) else []
            if mine and (mine[0]["published"], mine[0]["done"]) == (place.count, place.count):
                return time.monotonic() - began
            if mine and mine[0]["published"] and mine[0]["done"] == mine[0]["published"]:
                wrong = wrong or time.monotonic()
                if time.monotonic() > wrong + 20:
                    return None
            await asyncio.sleep(0.02)
    finally:
        await client.close()
    return None


async def reported(place: Place) -> float:
    """Seconds that `tieline report --sum` takes, with the start of Python."""
    began = time.monotonic()
    command = place.command("report", "benchpod", "--sum", "--json", "--server", place.url)
    process = await asyncio.create_subprocess_exec(
        *command, env=place.environment, cwd=place.folder, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    took = time.monotonic() - began
    [row] = [row for row in json.loads(out)["rows"] if row["agent"] == "booking"]
    if row["published"] != place.count:
        print(f"{place.name}: the command counts {row['published']:,} of {place.count:,}", file=sys.stderr)
    return took


async def fill(bus: Bus, count: int) -> None:
    """Messages, their facts, and a consumer that has passed all of them."""
    for numbers in batched(range(1, count + 1), PAGE, strict=False):
        messages = [("call.intent.book", body(number), about(number)) for number in numbers]
        facts = [fact for number in numbers for fact in (published(number), settled(number))]
        for batch in (messages, facts):
            refusal = await store_together(bus.connection, batch)
            if refusal is not None:
                raise refusal
    config = (await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["config"]
    await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
    config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": count + 1}
    await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.booking", {"stream_name": "CALL_INTENT", "config": config})


def body(number: int) -> bytes:
    return json.dumps({"callId": f"c{number}"}).encode()


def about(number: int) -> dict[str, str]:
    return {"Nats-Msg-Id": f"m{number}", "Tieline-Conversation": f"c{number}"}


def published(seq: int) -> tuple[str, bytes, dict[str, str]]:
    """What a client tells of a message that it published."""
    fact = {"fact": "published", "at": time.time(), "callId": f"c{seq}", "by": "", "subject": "call.intent.book"}
    fact |= {"stream": "CALL_INTENT", "seq": seq, "msgId": f"m{seq}", "cause": "", "payload": {"callId": f"c{seq}"}}
    return f"call.audit.c{seq}", json.dumps(fact | {"expires": None, "tries": 1}).encode(), {}


def settled(seq: int) -> tuple[str, bytes, dict[str, str]]:
    """What an agent tells of a message that it handled."""
    fact = {"fact": "settled", "at": time.time(), "callId": f"c{seq}", "by": "booking", "subject": "call.intent.book"}
    fact |= {"stream": "CALL_INTENT", "seq": seq, "origin": f"CALL_INTENT-{seq}-19ab", "attempt": 1, "outcome": "done"}
    return f"call.audit.c{seq}", json.dumps(fact | {"reason": "", "took": 0.001}).encode(), {}


def table(rows: Sequence[Row]) -> str:
    """For people."""
    head = ("seconds *", "first count", "restarted", "report, accountant running", "report, none running", "right")
    shown = [
        (
            row.version,
            f"{row.first:.1f}",
            f"{row.restarted:.2f}" if row.held else "-",
            f"{row.report_beside:.2f}",
            f"{row.report_alone:.2f}",
            "yes" if row.held else "no",
        )
        for row in rows
    ]
    return lines(f"The sum of {rows[0].conversations:,} conversations", head, shown) + "* on this machine, now"


if __name__ == "__main__":
    uvloop.run(main())
