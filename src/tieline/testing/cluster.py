"""Three real nats-servers of one cluster, each of which a test may kill, freeze and bring back."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from tieline.server.cluster import configs_of
from tieline.server.config import ServerConfig
from tieline.testing.server import Server

__all__ = ["Cluster"]


class Cluster:
    """A cluster of one test's own. Its ``nodes`` are servers like any other: `Server.kill`, `Server.pause` …"""

    def __init__(
        self, config: ServerConfig, servers: int = 3, place: Callable[[int], tuple[str, Sequence[str]]] | None = None
    ) -> None:
        """``place`` gives the address on which a server listens, by its number from 0, and the launcher it is started
        through; all of them are on ``config.host`` and started as they are, unless it is given."""
        configs = configs_of(config, servers)
        placed = [(one.host, ()) if place is None else place(number) for number, one in enumerate(configs)]
        hosts = {one.routes.port: placed[number][0] for number, one in enumerate(configs) if one.routes is not None}
        self.nodes = tuple(
            Server(_moved(one, host, hosts), launcher) for one, (host, launcher) in zip(configs, placed, strict=True)
        )

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients connect; the same after restarts."""
        return tuple(node.url for node in self.nodes)

    def named(self, name: str) -> Server:
        """The node of that server name, as stream and consumer info have it. `KeyError` where there is none."""
        return {node.config.server_name: node for node in self.nodes}[name]

    async def start(self) -> Self:
        """Return when all are ready and have a leader. Raises `tieline.errors.ServerFailed`."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        return self

    async def stop(self) -> None:
        """An orderly end of all."""
        await asyncio.gather(*(node.stop() for node in self.nodes))

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def _moved(config: ServerConfig, host: str, hosts: Mapping[int, str]) -> ServerConfig:
    """``config`` on another address, and with the others where they are: ``hosts`` by the ports of their routes."""
    if config.routes is None:
        return replace(config, host=host)
    ports = [int(other.rpartition(":")[2]) for other in config.routes.others]
    return replace(config, host=host, routes=replace(config.routes, others=tuple(f"{hosts[p]}:{p}" for p in ports)))
