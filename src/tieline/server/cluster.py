"""Three nats-servers of one cluster as children of this process."""

import asyncio
import logging
import socket
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tieline.errors import BadSettings, ServerFailed
from tieline.server.config import Routes, ServerConfig
from tieline.server.embedded import EmbeddedServer

__all__ = ["EmbeddedCluster", "configs_of"]

log = logging.getLogger("tieline.server")

_SIZES = (3, 5)
_PAUSE = 1.0  # seconds until a server that ended is started again
_SETTLED = 10.0  # seconds that one must live to count as brought back
_TRIES = 5  # ends in a row after which one is given up


def configs_of(config: ServerConfig, servers: int) -> tuple[ServerConfig, ...]:
    """``config`` for each server of a cluster on this machine: folders ``n1`` …, the ports after one another.

    The ports of the routes are free ones. Raises `BadSettings` for a number of servers that is no good: two lose their
    majority with either of them.
    """
    if servers not in _SIZES:
        raise BadSettings(f"a cluster has {' or '.join(map(str, _SIZES))} servers here, not {servers}")
    ports = _free_ports(config.host, servers)
    return tuple(
        replace(
            config,
            data=config.data / f"n{number}",
            server_name=f"{config.server_name}-n{number}",
            port=_after(config.port, number),
            monitor_port=None if config.monitor_port is None else _after(config.monitor_port, number),
            routes=Routes(
                cluster=config.server_name,
                port=port,
                others=tuple(f"{config.host}:{other}" for other in ports if other != port),
            ),
        )
        for number, port in enumerate(ports, 1)
    )


class EmbeddedCluster:
    """Servers of one cluster: started, stopped and kept alive from here. POSIX only.

    ``async with EmbeddedCluster(config) as cluster`` starts them and stops them at the end. They share one machine, so
    they survive the death of a process each, and not that of the machine.
    """

    def __init__(self, config: ServerConfig, servers: int = 3) -> None:
        self.servers = tuple(EmbeddedServer(one) for one in configs_of(config, servers))
        self._failed: EmbeddedServer | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect: any of them will do, and all should be given."""
        return tuple(server.url for server in self.servers)

    @property
    def monitor_url(self) -> str | None:
        """The monitoring endpoints of the first server; None where they are off. The others' follow it."""
        return self.servers[0].monitor_url

    @property
    def log(self) -> Path:
        """The log of the server that could not be brought back, else of the first."""
        return (self._failed or self.servers[0]).log

    async def start(self, within: float = 60.0) -> Self:
        """Return once all listen and JetStream has a leader. Raises `ServerFailed`; then none stays behind."""
        starting = [asyncio.ensure_future(server.start(within)) for server in self.servers]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.wait(starting)
            await self.stop()
            raise
        return self

    async def stop(self) -> None:
        """End them all. Stopping what has ended is fine."""
        await asyncio.gather(*(server.stop() for server in self.servers))

    async def wait(self) -> int:
        """Bring back each server that ends, for as long as the others live; the exit code of one that cannot be."""
        keeping = [asyncio.ensure_future(self._kept(server)) for server in self.servers]
        try:
            done, _ = await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.wait(keeping)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _kept(self, server: EmbeddedServer) -> int:
        loop, ends = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            code = await server.wait()
            ends = 1 if loop.time() - began > _SETTLED else ends + 1
            name = server.config.server_name
            if ends > _TRIES:
                self._failed = server
                return code
            log.warning("nats-server %s ended with code %d and is started again; its log is %s", name, code, server.log)
            await asyncio.sleep(_PAUSE)
            try:
                await server.start()
            except ServerFailed as error:
                log.warning("nats-server %s: %s", name, error)


def _after(port: int, number: int) -> int:
    return port and port + number - 1


def _free_ports(host: str, count: int) -> list[int]:
    """Ports that nobody has now. Held together while they are chosen, so that they differ."""
    with ExitStack() as held:
        sockets = [
            held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) for _ in range(count)
        ]
        for one in sockets:
            one.bind((host, 0))
        return [int(one.getsockname()[1]) for one in sockets]
