"""`tieline run`: what a container runs, how it ends, and what it says."""

import asyncio
import signal
from pathlib import Path

import pytest
from command_line import Program, started, tieline

from tieline.testing import Server, eventually

_POD = """
import asyncio
from pathlib import Path
from tieline import Conversation, Limits, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.agent(limits=Limits(ack_wait=60))
async def booking(intent: Book, call: Conversation) -> None:
    Path(f"{intent.call_id}.began").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    Path(f"{intent.call_id}.done").touch()
"""


@pytest.fixture
async def folder(tmp_path: Path, nats_url: str) -> Path:
    (tmp_path / "shop.py").write_text(_POD)
    assert (await tieline("apply", "shop", cwd=tmp_path, url=nats_url)).code == 0
    return tmp_path


async def publish(folder: Path, url: str, call: str) -> None:
    sent = await tieline("pub", "call.intent.book", f'{{"callId": "{call}"}}', "--pod", "shop", cwd=folder, url=url)
    assert sent.code == 0, sent


async def busy(folder: Path, url: str, program: Program) -> None:
    """The agent is ready and a handler runs."""
    assert " INFO booking ready: booking" in await program.log_line("ready")
    await publish(folder, url, "c1")
    await eventually((folder / "c1.began").exists, what="the handler runs")


async def test_sigterm_lets_the_running_handler_finish_and_takes_nothing_more(folder: Path, nats_url: str) -> None:
    async with started("run", "shop", "booking", cwd=folder, url=nats_url) as program:
        await busy(folder, nats_url, program)
        program.process.send_signal(signal.SIGTERM)
        await program.log_line("stopping")
        await publish(folder, nats_url, "c2")
        (folder / "go").touch()
        end = await program.ended()
    assert (end.code, end.out) == (0, "")
    assert (folder / "c1.done").exists()
    assert not (folder / "c2.began").exists()


async def test_a_second_signal_hands_back_at_once_what_is_running(folder: Path, nats_url: str) -> None:
    async with started("run", "shop", "booking", cwd=folder, url=nats_url) as program:
        await busy(folder, nats_url, program)
        program.process.send_signal(signal.SIGINT)
        await program.log_line("stopping")
        program.process.send_signal(signal.SIGINT)
        end = await program.ended()
    assert end.code == 1
    assert "second signal" in end.err
    assert not (folder / "c1.done").exists()
    (folder / "go").touch()
    async with started("run", "shop", "booking", cwd=folder, url=nats_url):
        # Long before the ack wait of a minute is over: it was handed back.
        await eventually((folder / "c1.done").exists, what="the message comes again")


async def test_several_agents_and_the_audit_share_a_process(folder: Path, nats_url: str) -> None:
    (folder / "go").touch()
    async with started("run", "shop", "booking", "audit", cwd=folder, url=nats_url) as program:
        await program.log_line("ready: booking, audit")
        await publish(folder, nats_url, "c1")
        await eventually((folder / "c1.done").exists, what="the message is handled")
        program.process.send_signal(signal.SIGTERM)
        assert (await program.ended()).code == 0


async def test_a_missing_consumer_is_named(tmp_path: Path, nats_url: str) -> None:
    (tmp_path / "shop.py").write_text(_POD)
    end = await tieline("run", "shop", "booking", cwd=tmp_path, url=nats_url)
    assert end.code == 1
    errors = [line for line in end.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "'booking'" in errors[0] or "'booking-waker'" in errors[0]  # whichever was pulled first
    assert "tieline apply" in errors[0]
    assert "ready" not in end.err
    assert "Traceback" not in end.err


async def test_a_server_that_stays_away_ends_it_with_an_error(folder: Path, nats_server: Server) -> None:
    async with started("run", "shop", "booking", cwd=folder, url=nats_server.url, TIELINE_RECONNECT="0.2s") as program:
        await program.log_line("ready")
        nats_server.kill()
        end = await program.ended()
    assert end.code == 1
    assert "stayed away for 0.2 s" in end.err
    assert "Traceback" not in end.err


async def test_a_signal_before_it_is_ready_ends_it_too(folder: Path, nats_server: Server) -> None:
    nats_server.pause()
    async with started("run", "shop", "booking", cwd=folder, url=nats_server.url, TIELINE_CONNECT_TIMEOUT="30s") as one:

        def installed() -> bool:
            status = Path(f"/proc/{one.process.pid}/status").read_text()
            caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
            return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

        await eventually(installed, what="it listens to signals")
        one.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)  # two signals that come as one would be one
        one.process.send_signal(signal.SIGTERM)
        end = await one.ended()
        nats_server.resume()
    assert end.code == 1
    assert "Traceback" not in end.err


async def test_a_pod_beside_a_kubernetes_service_called_tieline_runs(folder: Path, nats_url: str) -> None:
    links = {
        "TIELINE_SERVICE_HOST": "10.96.4.7",
        "TIELINE_SERVICE_PORT": "4222",
        "TIELINE_PORT": "tcp://10.96.4.7:4222",
        "TIELINE_PORT_4222_TCP": "tcp://10.96.4.7:4222",
        "TIELINE_PORT_4222_TCP_ADDR": "10.96.4.7",
    }
    (folder / "go").touch()
    env = links | {"TIELINE_RECONECT": "5s"}
    async with started("run", "shop", "booking", cwd=folder, url=nats_url, **env) as program:
        await program.log_line("TIELINE_RECONECT is not a setting and has no effect; the nearest setting is")
        await publish(folder, nats_url, "c1")
        await eventually((folder / "c1.done").exists, what="the agent handles a message")
        program.process.send_signal(signal.SIGTERM)
        end = await program.ended()
    assert end.code == 0
    assert "TIELINE_PORT" not in end.err + end.out
