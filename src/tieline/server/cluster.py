"""Three nats-servers of one cluster as children of this process."""

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from tieline.errors import BadSettings
from tieline.server.config import Routes, ServerConfig
from tieline.server.embedded import EmbeddedServer

__all__ = ["EmbeddedCluster", "configs_of"]

_SIZES = (3, 5)


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
    """Servers of one cluster: started and stopped from here; `keep_running` restarts one that ends. POSIX only.

    ``async with EmbeddedCluster(config) as cluster`` starts them and stops them at the end. They share one machine, so
    they survive the death of a process each, and not that of the machine.
    """

    def __init__(self, config: ServerConfig, servers: int = 3) -> None:
        self.servers = tuple(EmbeddedServer(one) for one in configs_of(config, servers))

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect: any of them will do, and all should be given."""
        return tuple(server.url for server in self.servers)

    @property
    def monitor_url(self) -> str | None:
        """The monitoring endpoints of the first server; None where they are off. The others' follow it."""
        return self.servers[0].monitor_url

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

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


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
