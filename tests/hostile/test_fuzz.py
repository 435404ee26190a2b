"""Thousands of hostile messages, headers, facts, dead letters, records and advisories among valid ones.

Every process of the pod has one gigabyte. None ends, every valid message is handled, and afterwards every command
answers. ``FUZZ_MESSAGES`` is how many hostile messages are sent (600), ``FUZZ_SEED`` the seed:

    FUZZ_MESSAGES=5000 FUZZ_SEED=7 uv run pytest -n 0 -s tests/hostile/test_fuzz.py
"""

import asyncio
import json
import os
import random
import resource
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import natsio
import pytest
from support.fuzzed import Book, fuzzed
from support.hostility import Frame, Hostility, send_raw
from support.office import settings

from tieline import Bus, connect
from tieline.testing import Server, eventually
from tieline.wire.feed import Feed

COUNT = int(os.environ.get("FUZZ_MESSAGES", "600"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
MEMORY = 1024**3  # bytes of address space for each process

TESTS = Path(__file__).parents[1]
STREAMS = ("CALL_INTENT", "TOOL_CALL", "STEP", "TOOL_RESULT", "CALL_AUDIT", "STATE", "DLQ", "SCHEDULE", "CANCELLED")
ADVISORY = {
    "type": "io.nats.jetstream.advisory.v1.max_deliver", "id": "x", "timestamp": "2026-11-29T14:28:10.691757057Z",
    "stream": "CALL_INTENT", "consumer": "mailer", "stream_seq": 1, "deliveries": 5, "reason": "no such mailbox",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod's processes, started by ``tieline up``."""

    pids: dict[str, int]
    log: Path
    port: int

    def ended(self) -> list[str]:
        """What ended, by the supervisor's own lines."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if line.startswith('{"event":"exited"') or '"exited"' in line[:40]]

    def alive(self) -> bool:
        return all(Path(f"/proc/{pid}").exists() for pid in self.pids.values())

    @property
    def memory(self) -> dict[str, int]:
        """MiB that each process has held at most."""
        return {name: _peak(pid) for name, pid in self.pids.items()}


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@asynccontextmanager
async def up(url: str, folder: Path) -> AsyncIterator[Pod]:
    """``tieline up`` against a server that has all the memory it wants."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "up.log"
    environment = {**os.environ, "TIELINE_METRICS_PORT": str(port), "TIELINE_AUDIT": "on"}
    with log.open("wb") as out, (folder / "up.err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("tieline")),
            *("up", "support.fuzzed:fuzzed", "--server", url, "--json"),
            cwd=TESTS, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, env=environment,
            preexec_fn=_limited,
        )  # fmt: skip
    try:

        def running() -> dict[str, int]:
            lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
            told = [found for found in map(json.loads, lines) if "processes" in found]
            return {one["name"]: one["pid"] for one in told[-1]["processes"]} if told else {}

        pids = await eventually(running, what="the processes to be ready", within=90)
        assert isinstance(pids, dict)
        yield Pod(pids, log, port)
        assert process.returncode is None
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(40):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def command(url: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a command prints. It ends with one of ``codes``, and not by a traceback."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("tieline")), *arguments, "--server", url,
        cwd=TESTS, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=_limited,
    )  # fmt: skip
    async with asyncio.timeout(180):
        out, err = await process.communicate()
    shown = f"seed {SEED}: tieline {' '.join(arguments)}: {process.returncode}\n{err.decode(errors='replace')[-4000:]}"
    assert process.returncode in codes, shown
    assert "Traceback" not in err.decode(errors="replace"), shown
    return out.decode()


async def templates(bus: Bus) -> list[Frame]:
    """Everything that the pod has stored so far, and an advisory."""
    found = []
    for stream in STREAMS:
        feed = Feed(bus.connection, stream, [">"], start=1, to_end=True)
        found += [Frame(one.stored_as, tuple(one.headers.items()), one.payload) async for one in feed]
    # Core messages, which no stream keeps.
    step = next(frame for frame in found if frame.subject.startswith("step.booking."))
    found.append(Frame(f"nudge.{step.subject}", (("Nats-Subject", step.subject), *step.headers), step.payload))
    found += [Frame("tieline.present.fuzzed.booking.0", (), b"{}"), Frame("tieline.sum.fuzzed", (), b"{}")]
    for kind in ("MAX_DELIVERIES", "MSG_TERMINATED"):
        subject = f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.CALL_INTENT.mailer"
        found.append(Frame(subject, (), json.dumps(ADVISORY).encode()))
    return found


async def publish_valid(bus: Bus, notes: Path, numbers: range) -> None:
    for number in numbers:
        await bus.publish(Book(call_id=f"v-{number}", notes=str(notes), number=number))


def handled(notes: Path) -> set[str]:
    return {line.split()[1] for line in notes.read_text().splitlines()} if notes.exists() else set()


async def scraped(port: int) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(fetch)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
async def test_a_pod_survives_hostile_records_of_every_kind(nats_server: Server, tmp_path: Path) -> None:
    print(f"\nseed {SEED}, {COUNT} hostile messages")
    notes, url = tmp_path / "notes", nats_server.url
    async with connect(fuzzed, settings=settings(url)) as bus, up(url, tmp_path) as pod:
        await publish_valid(bus, notes, range(20))
        wanted = {f"v-{number}" for number in range(20) if number % 10 != 9}
        await eventually(lambda: handled(notes) >= wanted, what=f"the first ones (seed {SEED})", within=60)
        hostile = Hostility(await templates(bus), SEED).frames()
        sent = 0
        for start in range(20, 20 + COUNT // 10, 10):
            frames = list(islice(hostile, 100))
            await send_raw(url, frames)
            await publish_valid(bus, notes, range(start, start + 10))
            wanted |= {f"v-{number}" for number in range(start, start + 10) if number % 10 != 9}
            sent += len(frames)
        what = f"every valid one of {len(wanted)}, among {sent} hostile ones (seed {SEED})"
        try:
            await eventually(lambda: handled(notes) >= wanted, what=what, within=300)
        except AssertionError:
            print("missing:", sorted(wanted - handled(notes))[:50])
            raise
        await everything_answers(url, pod)
        print(f"peak memory in MiB: {pod.memory}")
        assert pod.alive(), pod.ended()
        assert pod.ended() == [], f"seed {SEED}"


@asynccontextmanager
async def lying(url: str) -> AsyncIterator[None]:
    """Somebody who answers for the accountant, faster than it does, with something else each time."""
    row = {"stream": "S", "agent": "a", "unaccounted": 0, "published": 1, "done": 1}
    answers = [b"", b"7", b"[7]", b"[{}]", json.dumps([row]).encode(), b'{"catchingUp":1}', b"[" * 20_000]
    wrong: list[object] = [10**400, "x", None, [], float("nan")]
    answers += [json.dumps([row | {"done": value}]).encode() for value in wrong]
    client = await natsio.connect(url)
    subscription = client.subscribe("tieline.sum.*")

    async def answer() -> None:
        number = 0
        async for asked in subscription:
            if asked.reply:
                await client.publish(asked.reply, answers[number % len(answers)])
                number += 1

    working = asyncio.create_task(answer())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.wait([working])
        await client.close()


async def everything_answers(url: str, pod: Pod) -> None:
    """Every command, once the hostile records are there."""
    here = "support.fuzzed:fuzzed"
    await command(url, "report")
    assert "could not be read and were skipped" in await command(url, "report", here)
    json.loads(await command(url, "report", here, "--json"))
    await command(url, "report", here, "--sum", codes=(0, 3))
    await command(url, "doctor", here, codes=(0, 3, 4))
    json.loads(await command(url, "doctor", here, "--json", codes=(0, 3, 4)))
    await command(url, "calls", "ls")
    lines = (await command(url, "calls", "ls", "--json", "--limit", "5000")).splitlines()
    conversations = [json.loads(line)["id"] for line in lines]
    for conversation in conversations[:: max(1, len(conversations) // 8)]:
        await command(url, "calls", "show", conversation, codes=(0, 1))
    await command(url, "dlq", "ls")
    letters = json.loads(await command(url, "dlq", "ls", "--json", "--limit", "5000"))["letters"]
    for letter in letters[:: max(1, len(letters) // 8)]:
        await command(url, "dlq", "show", str(letter["id"]))
    # Exit 1: some are held, each with the reason.
    tally = json.loads(await command(url, "dlq", "redrive", "--all", "--dry-run", "--json", codes=(0, 1)))
    assert tally["done"] + sum(one["count"] for one in tally["held"]) >= len(letters)
    assert "tieline_up 1.0" in await scraped(pod.port)
    async with lying(url):
        # Exit 1: no accountant gave an answer that can be read.
        await command(url, "report", here, "--sum", codes=(0, 1, 3))
        assert "tieline_up 1.0" in await scraped(pod.port)
