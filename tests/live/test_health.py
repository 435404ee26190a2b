"""Probes are told the truth: connected, the consumers there, pulling."""

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import SHOP, started, tieline
from support.office import QUICK, Office, at_work, settings

from tieline import Conversation, Message, Pod
from tieline.runtime import worker
from tieline.services import health
from tieline.testing import Server, eventually
from tieline.wire import consumer


class Book(Message, subject="call.intent.book"):
    call_id: str


def shop() -> Pod:
    pod = Pod("shop", limits=QUICK)

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    return pod


async def answer(port: int, request: bytes) -> tuple[int, Any]:
    """The status and body of an answer; (0, what came) where it is no HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        said = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = said.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1.1 (\d+) ", head)
    return (int(found[1]), json.loads(body)) if found else (0, said)


async def asked(port: int, path: str) -> tuple[int, Any]:
    return await answer(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@asynccontextmanager
async def probed(office: Office, caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    stop = asyncio.Event()
    with caplog.at_level(logging.INFO, "tieline.health"):
        serving = asyncio.create_task(health.serve(office.bus, office.host, 0, stop))
        await eventually(lambda: "health at port" in caplog.text, what="the port")
    found = re.search(r"health at port (\d+)", caplog.text)
    assert found
    try:
        yield int(found[1])
    finally:
        stop.set()
        await serving


async def _is(port: int, status: int) -> Any:
    code, body = await asked(port, "/ready")
    return body if code == status else None


async def test_ready_follows_the_server_and_live_does_not(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(shop(), nats_server.url) as office, probed(office, caplog) as port:
        names = ("CALL_INTENT/booking", "STEP/booking-waker")
        ready = await eventually(lambda: _is(port, 200), what="ready")
        assert ready == {"ready": True, "connected": True, "consumers": dict.fromkeys(names, True), "waits": ""}
        assert await asked(port, "/else") == (404, {"error": "there are /live and /ready"})
        nats_server.kill()
        away = await eventually(lambda: _is(port, 503), what="not ready")
        assert (away["ready"], away["connected"]) == (False, False)
        assert await asked(port, "/live") == (200, {"live": True})
        await nats_server.start()
        await eventually(lambda: _is(port, 200), what="ready again")
        office.host.stop()
        assert await asked(port, "/ready") == (
            503,
            {"ready": False, "connected": True, "consumers": dict.fromkeys(names, False), "waits": ""},
        )


async def test_a_server_that_does_not_answer_pulls_is_noticed(
    nats_server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, not gone: the connection stands, and the messages do not come."""
    monkeypatch.setattr(consumer, "_HEARTBEAT", 0.2)
    monkeypatch.setattr(consumer, "_SILENCE", 60.0)
    monkeypatch.setattr(worker, "_DEAF", 2.0)
    async with at_work(shop(), settings(nats_server.url, ping_interval=60.0)) as office, probed(office, caplog) as port:
        await eventually(lambda: _is(port, 200), what="ready")
        await asyncio.sleep(2.5)
        assert (await asked(port, "/ready"))[0] == 200  # the server's signs of life count
        nats_server.pause()
        deaf = await eventually(lambda: _is(port, 503), what="not ready")
        assert (deaf["connected"], False in deaf["consumers"].values()) == (True, True)
        nats_server.resume()
        await eventually(lambda: _is(port, 200), what="ready again")


@pytest.mark.parametrize("request_", [b"\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"x" * 20_000 + b"\r\n"])
async def test_rubbish_does_not_end_it(nats_server: Server, caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async with at_work(shop(), nats_server.url) as office, probed(office, caplog) as port:
        with contextlib.suppress(OSError):
            status, _ = await answer(port, request_)
            assert status in (0, 404)
        assert (await asked(port, "/live"))[0] == 200


async def test_the_command_sees_who_pulls(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    missing = await tieline("health", "shop", cwd=tmp_path, url=nats_url)
    assert (missing.code, "CALL_INTENT/booking: stream not found" in missing.out) == (3, True)
    await tieline("apply", "shop", cwd=tmp_path, url=nats_url)
    idle = await tieline("health", "shop", "--json", cwd=tmp_path, url=nats_url)
    assert idle.code == 3
    whys = [("CALL_INTENT/booking-resume", ""), ("CALL_INTENT/booking", "nobody pulls")]  # the second tells of both
    whys += [("STEP/booking-waker", "nobody pulls")]
    assert idle.json == {"healthy": False, "consumers": [{"name": name, "why": why} for name, why in whys]}
    wrong = await tieline("health", "shop", "bokking", cwd=tmp_path, url=nats_url)
    assert (wrong.code, "pod shop has no bokking; it has booking" in wrong.err) == (2, True)

    place = {"TIELINE_HEALTH_PORT": "0"}
    async with started("run", "shop", "booking", cwd=tmp_path, url=nats_url, **place) as program:
        port = (await program.log_line("health at port ")).partition("health at port ")[2].partition(":")[0]
        await eventually(lambda: _code(tmp_path, nats_url, 0), what="somebody pulls", every=0.2)
        assert await _probe(port) == (0, "")
        program.process.terminate()
        assert (await program.ended()).code == 0
    code, said = await _probe(port)
    assert (code, f"nobody answers at TIELINE_HEALTH_PORT={port}" in said) == (1, True)


async def _code(folder: Path, url: str, code: int) -> bool:
    return (await tieline("health", "shop", "booking", cwd=folder, url=url)).code == code


async def _probe(port: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tieline.services.health",
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TIELINE_HEALTH_PORT": port},
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()
