"""`tieline up`: everything started, kept alive, and gone at the end."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import Program, alive, started, tieline
from support.office import settings

from tieline import Pod, connect
from tieline.testing import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and at the parent-death signal")

_POD = """
import asyncio, sys, time
from pathlib import Path
from tieline import Conversation, Message, Pod

print("heavy" if {"typer", "rich"} & set(sys.modules) else "lean", file=sys.stderr)

class Book(Message, subject="call.intent.book"):
    call_id: str

class Search(Message, subject="call.intent.search"):
    call_id: str

pod = Pod("shop")

@pod.tool
async def look(wish: str) -> str:
    return wish

@pod.agent
async def booking(intent: Book, call: Conversation) -> None:
    Path(f"{intent.call_id}.began").touch()
    if intent.call_id == "stuck":
        time.sleep(600)

@pod.agent
async def searching(intent: Search, call: Conversation) -> None: ...
"""
_NAMES = ["booking", "searching", "tools", "audit", "metrics"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(_POD)
    return tmp_path


@asynccontextmanager
async def up(folder: Path) -> AsyncIterator[tuple[Program, dict[str, Any]]]:
    options = ("--port", "0", "--data", "data", "--json")
    async with started("up", "shop", *options, cwd=folder) as program:
        yield program, await program.line()


def server_pid(folder: Path) -> int:
    return int((folder / "data" / "tieline.lock").read_text())


def pids_of(ready: dict[str, Any], folder: Path) -> list[int]:
    return [*(process["pid"] for process in ready["processes"]), server_pid(folder)]


async def all_gone(pids: list[int]) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids), what="every process is gone", within=20)


async def publish(folder: Path, url: str, call: str) -> None:
    sent = await tieline("pub", "call.intent.book", f'{{"callId": "{call}"}}', cwd=folder, url=url)
    assert sent.code == 0, sent


async def test_it_starts_all_restarts_the_dead_and_stops_without_a_trace(folder: Path) -> None:
    async with up(folder) as (program, ready):
        assert ready["event"] == "ready"
        assert [process["name"] for process in ready["processes"]] == _NAMES
        pids = pids_of(ready, folder)
        assert len({*pids, program.process.pid}) == 7
        assert all(alive(pid) for pid in pids)

        os.kill(pids[0], signal.SIGKILL)
        exited = await program.line(event="exited")
        assert (exited["name"], exited["pid"], exited["code"]) == ("booking", pids[0], -signal.SIGKILL)
        again = await program.line(event="restarted")
        assert again["name"] == "booking"
        assert alive(again["pid"])

        await publish(folder, ready["url"], "c1")
        await eventually((folder / "c1.began").exists, what="the restarted agent handles")
        program.process.send_signal(signal.SIGTERM)
        end = await program.ended()
        assert (end.code, end.err.count("error")) == (0, 0)
        await all_gone([*pids, again["pid"]])
    last = [json.loads(line) for line in end.out.splitlines()]
    assert {told["code"] for told in last if told["event"] == "exited"} == {0}


async def test_agent_processes_import_neither_typer_nor_rich(folder: Path) -> None:
    async with up(folder) as (program, _):
        said = [await program.line(event="log", text="lean") for _ in _NAMES]
    assert {line["name"] for line in said} == {*_NAMES}


async def test_a_second_signal_kills_what_does_not_end(folder: Path) -> None:
    async with up(folder) as (program, ready):
        await publish(folder, ready["url"], "stuck")
        await eventually((folder / "stuck.began").exists, what="the handler holds its process")
        program.process.send_signal(signal.SIGINT)
        await program.line(event="stopping")
        program.process.send_signal(signal.SIGINT)
        end = await program.ended()
        await all_gone(pids_of(ready, folder))
    ends = {told["name"]: told["code"] for told in map(json.loads, end.out.splitlines()) if told["event"] == "exited"}
    assert ends["booking"] == -signal.SIGKILL


async def test_nothing_outlives_it_when_it_is_killed(folder: Path) -> None:
    async with up(folder) as (program, ready):
        pids = pids_of(ready, folder)
        program.process.kill()
        await all_gone(pids)


async def test_a_server_that_is_killed_under_load_is_started_again_and_nothing_is_lost(folder: Path) -> None:
    async with up(folder) as (program, ready):
        calls: list[str] = []
        async with connect(Pod("load"), settings=settings(ready["url"], reconnect=60.0, patience=60.0)) as bus:

            async def load() -> None:
                while True:
                    call = f"c{len(calls)}"
                    payload = json.dumps({"callId": call}).encode()
                    await bus.publisher.publish("call.intent.book", payload, {"Nats-Msg-Id": call})
                    calls.append(call)

            async def more() -> None:
                least = len(calls) + 50
                await eventually(lambda: len(calls) > least, what="load")

            loading = asyncio.create_task(load())
            for number in (1, 2):
                await more()
                pid = server_pid(folder)
                os.kill(pid, signal.SIGKILL)
                exited = await program.line(event="exited", name="nats-server tieline")
                assert (exited["pid"], exited["code"]) == (pid, -signal.SIGKILL)
                assert exited["restartIn"] > 0
                again = await program.line(event="restarted", name="nats-server tieline")
                assert (again["pid"], again["restarts"]) == (server_pid(folder), number)
                assert again["pid"] != pid
            await more()
            loading.cancel()
            await asyncio.wait([loading])
        await eventually(lambda: all((folder / f"{c}.began").exists() for c in calls), what="every message is handled")
        assert all(alive(process["pid"]) for process in ready["processes"]), "no agent had to start again"
        program.process.send_signal(signal.SIGTERM)
        assert (await program.ended()).code == 0
        await all_gone(pids_of(ready, folder))


async def test_a_server_that_cannot_start_again_ends_it_with_the_explanation(folder: Path) -> None:
    async with up(folder) as (program, ready):
        streams = folder / "data" / "jetstream" / "$G" / "streams"
        (streams / "CALL_INTENT" / "meta.inf").write_bytes(b"")  # it is read when the server starts
        os.kill(server_pid(folder), signal.SIGKILL)
        await program.log_line("did not start again; the next try is in")
        stopping = await program.line(event="stopping")
        assert "could not be recovered" in stopping["why"]
        end = await program.ended()
        await all_gone(pids_of(ready, folder))
    assert end.code == 1
    assert "error: nats-server did not start" in end.err
    assert "restore the folder from a backup" in end.err
    assert str(folder / "data" / "nats.log") in end.err


async def test_a_process_that_never_becomes_ready_is_told_with_its_last_words(folder: Path) -> None:
    with (folder / "shop.py").open("a") as pod:
        pod.write('\nif "typer" not in sys.modules:\n    raise OSError("the price list is missing")\n')
    end = await tieline("up", "shop", "--port", "0", cwd=folder)
    assert end.code == 1
    assert "ended 3 times before it was ready" in end.err
    assert "the price list is missing" in end.err
    assert "Traceback" not in end.err


async def test_people_get_the_address_the_table_and_prefixed_lines(folder: Path, nats_url: str) -> None:
    async with started("up", "shop", cwd=folder, url=nats_url) as program:
        assert program.process.stdout is not None
        first = await program.process.stdout.readline()
        assert nats_url in first.decode()
        lines = []
        while b"ready: 5 processes" not in (line := await program.process.stdout.readline()):
            lines.append(line.decode())
        assert any(line.split()[:1] == ["booking"] and "call.intent.book" in line for line in lines)
        program.process.send_signal(signal.SIGTERM)
        assert (await program.ended()).code == 0


async def test_options_of_its_own_server_do_not_go_with_another(folder: Path) -> None:
    end = await tieline("up", "shop", "--port", "0", cwd=folder, url="nats://127.0.0.1:1")
    assert end.code == 2
    assert end.err.splitlines()[-1].startswith("error: --port")
