"""The accountant dies, is started again, is not alone, or finds a checkpoint that it cannot use: the sum is right."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Any

import pytest
from command_line import tieline
from support.office import at_work, settings
from support.old_deployment import old_deployment
from support.old_deployment_pod import old_pod

from tieline import Bus, Conversation, Message, Pod, connect
from tieline.services import accountant
from tieline.services.accounting.asking import ask
from tieline.services.ledger import Row
from tieline.testing import Server, eventually
from tieline.wire.batches import store_together
from tieline.wire.connection import NoAnswer

_HISTORY = 60_000
_SHOP = """
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.agent
async def booking(intent: Book, call: Conversation) -> None: ...
"""


class Book(Message, subject="call.intent.book"):
    call_id: str


pod = Pod("shop")


@pod.agent
async def booking(_: Book, __: Conversation) -> None: ...


@asynccontextmanager
async def audit_process(folder: Path, url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process `audit` of the pod, which a test may kill."""
    (folder / "restartshop.py").write_text(_SHOP)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tieline.services.process",
        "--server",
        url,
        "restartshop",
        "audit",
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def accounting(bus: Bus) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    running = asyncio.create_task(accountant.run(bus, stop))
    try:
        yield running
    finally:
        stop.set()
        if not running.done():
            await running


async def answer(bus: Bus, **wanted: int) -> Row | None:
    """What the running accountant says of the agent, once it is as wanted."""
    try:
        rows = await ask(bus.connection, bus.pod.name)
    except NoAnswer:
        return None
    [row] = [row for row in rows if row.agent == "booking"]
    return row if all(getattr(row, name) == value for name, value in wanted.items()) else None


async def told(bus: Bus, **wanted: int) -> Row:
    return await eventually(lambda: answer(bus, **wanted), what=f"the sum to say {wanted}", within=60)


def message(number: int) -> tuple[str, bytes, dict[str, str]]:
    body = json.dumps({"callId": f"c{number}"}).encode()
    return "call.intent.book", body, {"Nats-Msg-Id": f"m{number}", "Tieline-Conversation": f"c{number}"}


def settled(seq: int, outcome: str = "done") -> tuple[str, bytes, dict[str, str]]:
    fact = {"fact": "settled", "at": 1.0, "callId": f"c{seq}", "by": "booking", "subject": "call.intent.book"}
    fact |= {"stream": "CALL_INTENT", "seq": seq, "origin": f"CALL_INTENT-{seq}-1", "outcome": outcome}
    return f"call.audit.c{seq}", json.dumps(fact).encode(), {}


async def fill(bus: Bus, first: int, last: int) -> None:
    """Messages that were handled, as an agent and a client leave them."""
    for numbers in batched(range(first, last + 1), 1_000, strict=False):
        assert await store_together(bus.connection, [message(number) for number in numbers]) is None
        assert await store_together(bus.connection, [settled(number) for number in numbers]) is None
    await pass_over(bus, last)


async def pass_over(bus: Bus, upto: int) -> None:
    """The consumer has handed out and got back everything up to a sequence."""
    config = (await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["config"]
    await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
    config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": upto + 1}
    await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.booking", {"stream_name": "CALL_INTENT", "config": config})


async def positions(bus: Bus) -> int:
    """The sequence of the newest checkpoint."""
    reply = await bus.connection.request("$JS.API.DIRECT.GET.ACCOUNTING.accounting.shop")
    return 0 if reply.status is not None or reply.headers is None else int(reply.headers["Nats-Sequence"])


async def test_killed_in_the_middle_of_a_long_history_it_is_right_and_soon_there(
    nats_server: Server, tmp_path: Path
) -> None:
    """More messages than the former accountant could count after a restart. It is killed while it reads for the first
    time, and again when it has a checkpoint; then it reads only what came since."""
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, _HISTORY)
        async with audit_process(tmp_path, nats_server.url) as process:
            await eventually(lambda: _reads(bus), what="it to read")
            process.send_signal(signal.SIGKILL)
        async with audit_process(tmp_path, nats_server.url) as process:
            await told(bus, published=_HISTORY, done=_HISTORY, pending=0, unaccounted=0)
            await eventually(lambda: positions(bus), what="a checkpoint", within=60)
            process.send_signal(signal.SIGKILL)
        await fill(bus, _HISTORY + 1, _HISTORY + 2_000)
        shown = await tieline("report", "restartshop", "--sum", "--json", cwd=tmp_path, url=nats_server.url)
        [row] = [row for row in shown.json["rows"] if row["agent"] == "booking"]
        assert (shown.code, row["published"], row["done"]) == (0, _HISTORY + 2_000, _HISTORY + 2_000)
        before = await _delivered(bus)
        async with audit_process(tmp_path, nats_server.url):
            row = await told(bus, published=_HISTORY + 2_000, done=_HISTORY + 2_000)
            assert row.holds
            assert await _delivered(bus) - before < 10_000, "it does not read the history again"


async def _reads(bus: Bus) -> bool:
    return bool((await bus.connection.api("STREAM.INFO.CALL_INTENT"))["state"]["consumer_count"] > 1)


async def _delivered(bus: Bus) -> int:
    """How many messages the readers of the streams were given, of those that are there."""
    count = 0
    for stream in ("CALL_INTENT", "CALL_AUDIT"):
        for info in (await bus.connection.api(f"CONSUMER.LIST.{stream}"))["consumers"] or ():
            if info["name"].startswith("feed-"):
                count += info["delivered"]["consumer_seq"]
    return count


@pytest.mark.parametrize(
    "garbage",
    [b"", b"garbage", b'{"format": 99, "sha256": "", "parts": 1, "part": 0}\n', "torn"],
    ids=["empty", "no JSON", "a newer format", "torn"],
)
async def test_a_checkpoint_that_cannot_be_used_is_reported_and_counted_anew(
    nats_server: Server, caplog: pytest.LogCaptureFixture, garbage: bytes | str
) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, 20)
        async with accounting(bus):
            await told(bus, done=20)
        whole = (await bus.connection.request("$JS.API.DIRECT.GET.ACCOUNTING.accounting.shop")).payload
        payload = whole[:-10] if isinstance(garbage, str) else garbage
        await bus.connection.request("accounting.shop", payload)
        await fill(bus, 21, 30)
        [row] = [row for row in await accountant.take(bus) if row.agent == "booking"]
        assert (row.published, row.done, row.holds) == (30, 30, True)
        assert "counted from scratch" in caplog.text
        async with accounting(bus):
            await told(bus, published=30, done=30)
        caplog.clear()
        async with accounting(bus):  # it has replaced the garbage
            await told(bus, published=30, done=30)
        assert "counted from scratch" not in caplog.text


async def test_of_two_accountants_one_leads_and_the_other_takes_over(nats_server: Server, tmp_path: Path) -> None:
    """Nothing is counted twice, however often they take turns."""
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, 10)
        async with audit_process(tmp_path, nats_server.url) as one, audit_process(tmp_path, nats_server.url) as two:
            await told(bus, published=10, done=10)
            one.send_signal(signal.SIGKILL)
            await one.wait()
            await fill(bus, 11, 20)
            await told(bus, published=20, done=20)
            two.send_signal(signal.SIGSTOP)  # frozen: it finds out that another one leads
            async with accounting(bus):
                await fill(bus, 21, 30)
                await told(bus, published=30, done=30)
                two.send_signal(signal.SIGCONT)
                await fill(bus, 31, 40)
                for _ in range(20):
                    row = await told(bus, published=40)
                    assert (row.done, row.holds) == (40, True)
        assert [row.published for row in await accountant.take(bus)] == [40]


async def test_what_a_record_says_late_corrects_the_sum_after_a_restart_too(nats_server: Server) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        assert await store_together(bus.connection, [message(number) for number in (1, 2, 3)]) is None
        await pass_over(bus, 3)
        async with accounting(bus):
            await told(bus, unaccounted=3)
        await bus.connection.request(*settled(1))
        await bus.connection.request(*settled(2, "superseded"))
        async with accounting(bus):
            row = await told(bus, done=1, unaccounted=2)
            assert not row.holds
            await bus.connection.request(*settled(2))
            await bus.connection.request(*settled(2))
            await told(bus, done=2, unaccounted=1)


def mortal(number: int) -> tuple[str, bytes, dict[str, str]]:
    subject, body, headers = message(number)
    return subject, body, headers | {"Nats-TTL": str(3_600 + random.randrange(9_000))}


@pytest.mark.nats(max_payload=32_768)
async def test_a_large_backlog_is_in_the_checkpoint_in_several_messages(nats_server: Server) -> None:
    """The agent is away: each message is pending, with the time at which it was stored."""
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for numbers in batched(range(1, 20_001), 1_000, strict=False):
            assert await store_together(bus.connection, [mortal(number) for number in numbers]) is None
        async with accounting(bus):
            await told(bus, published=20_000, pending=20_000)
        async with accounting(bus):
            row = await told(bus, published=20_000, pending=20_000)
            assert row.holds


async def test_a_new_agent_counts_what_is_stored_and_accuses_nobody(nats_server: Server) -> None:
    later = Pod("shop")

    @later.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    @later.agent
    async def statistics(_: Book, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, 20)
        async with accounting(bus):
            await told(bus, done=20)
    async with connect(later, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        rows = {row.agent: row for row in await accountant.take(bus)}
        assert (rows["booking"].done, rows["statistics"].published, rows["statistics"].pending) == (20, 20, 20)
        assert all(row.holds for row in rows.values())
    async with at_work(later, settings(nats_server.url, audit=True), "statistics") as office:

        async def done() -> bool:
            rows = {row.agent: row for row in await accountant.take(office.bus)}
            return rows["statistics"].done == 20 and all(row.holds for row in rows.values())

        await eventually(done, what="the new agent")


async def test_an_upgraded_deployment_is_not_accused_of_its_past(tmp_path: Path) -> None:
    """It has acknowledgements without facts, and no checkpoint. What was stored before `apply` is not judged."""
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        rows = await accountant.take(bus)  # before `apply`: read-only, and no stream for checkpoints yet
        assert not any(row.unaccounted for row in rows)
        await bus.apply()
        rows = await accountant.take(bus)
        assert not any(row.unaccounted for row in rows)
        assert sum(row.done for row in rows) > 0
        stop = asyncio.Event()
        running = asyncio.create_task(accountant.run(bus, stop))
        await eventually(lambda: _led(bus), what="the accountant")
        assert [replace(row, at_server=None) for row in await ask(bus.connection, bus.pod.name)] == [
            replace(row, at_server=None) for row in rows
        ]
        stop.set()
        await running


async def _led(bus: Bus) -> Any:
    try:
        return await ask(bus.connection, bus.pod.name)
    except NoAnswer:
        return False


async def test_the_accountant_creates_the_stream_that_an_older_apply_did_not(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, 5)
        await bus.connection.api("STREAM.DELETE.ACCOUNTING")
        async with accounting(bus):
            await told(bus, published=5, done=5)
        assert await positions(bus) > 0
        assert "created the stream ACCOUNTING" in caplog.text
        plan = await bus.plan()
        assert [change.name for change in plan if change.action != "update"] == []


async def test_a_fact_about_a_message_that_was_never_stored_is_not_believed(nats_server: Server) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill(bus, 1, 5)
        lie = {"fact": "published", "at": 1.0, "callId": "c1", "subject": "call.intent.book", "stream": "CALL_INTENT"}
        for seq in (7, 10**15):
            await bus.connection.request("call.audit.c1", json.dumps(lie | {"seq": seq, "expires": None}).encode())
        async with accounting(bus):
            row = await told(bus, published=5, done=5)
            assert row.holds
            await bus.connection.request(*message(6))
            await told(bus, published=6, pending=1)
