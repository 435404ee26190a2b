"""Rendered servers and processes, run on this machine as their files say."""

import asyncio
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tieline.server.binary import find_binary
from tieline.testing import eventually

__all__ = ["BIN", "Here", "Running", "free_ports", "is_ok", "running", "servers", "status_of"]

BIN = Path(sys.executable).parent


@dataclass
class Running:
    """A process that was started as rendered."""

    name: str
    process: Process
    said: list[str]

    async def port(self, what: str) -> int:
        async def seen() -> int:
            found = re.search(rf"{what}:?(\d+)", "".join(self.said))
            return int(found[1]) if found else 0

        try:
            return int(str(await eventually(seen, what=f"{self.name}: {what}")))
        except AssertionError as error:
            raise AssertionError(f"{error}; it said: {''.join(self.said)[-2000:]}") from None


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], environment: Mapping[str, str], cwd: Path
) -> AsyncIterator[Running]:
    given = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment}
    process = await asyncio.create_subprocess_exec(*command, cwd=cwd, env=given, stderr=PIPE)
    said: list[str] = []

    async def listen() -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            said.append(line.decode())

    listening = asyncio.create_task(listen())
    try:
        yield Running(name, process, said)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@dataclass
class Here:
    """Where the rendered servers are on this machine: a port for each of theirs."""

    clients: dict[str, int]
    monitors: dict[str, int]

    def urls(self, told: str) -> str:
        """``TIELINE_SERVERS`` as rendered, as it is here."""
        hosts = [re.fullmatch(r"nats://([a-z0-9-]+)(\.[a-z-]+)?:4222", url) for url in told.split(",")]
        return ",".join(f"nats://127.0.0.1:{self.clients[host[1]]}" for host in hosts if host)


@asynccontextmanager
async def servers(confs: Mapping[str, str], data: str, project: Path) -> AsyncIterator[Here]:
    """nats-server run with these confs, on loopback, with folders and ports of their own."""
    names = list(confs)
    ports = free_ports(3 * len(names))
    clients, routes, monitors = (dict(zip(names, ports[at::3], strict=True)) for at in range(3))
    async with AsyncExitStack() as stack:
        for name, conf in confs.items():
            assert 'sync_interval: "always"' in conf
            text = conf.replace("0.0.0.0:8222", f"127.0.0.1:{monitors[name]}").replace("0.0.0.0", "127.0.0.1")
            text = text.replace("port: 4222", f"port: {clients[name]}").replace("port: 6222", f"port: {routes[name]}")
            text = text.replace(f'"{data}', f'"{project}/{name}')
            for other in names:
                text = re.sub(rf"{other}(\.nats-headless)?:6222", f"127.0.0.1:{routes[other]}", text)
            path = project / f"{name}.here.conf"
            path.write_text(text)
            await stack.enter_async_context(running(name, [str(find_binary()), "-c", str(path)], {}, project))
        for port in monitors.values():
            page = f"http://127.0.0.1:{port}/healthz?js-server-only=true"
            await eventually(partial(is_ok, page), what="a server")
        yield Here(clients, monitors)


async def is_ok(page: str) -> bool:
    return await status_of(page) == 200


async def status_of(page: str) -> int:
    def asked() -> int:
        try:
            with urllib.request.urlopen(page, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    return await asyncio.to_thread(asked)
