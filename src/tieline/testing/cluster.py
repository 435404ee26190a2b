"""Three real nats-servers of one cluster, each of which a test may kill, freeze and bring back."""

import asyncio
from types import TracebackType
from typing import Self

from tieline.server.cluster import configs_of
from tieline.server.config import ServerConfig
from tieline.testing.server import Server

__all__ = ["Cluster"]


class Cluster:
    """A cluster of one test's own. Its ``nodes`` are servers like any other: `Server.kill`, `Server.pause` …"""

    def __init__(self, config: ServerConfig, servers: int = 3) -> None:
        self.nodes = tuple(Server(one) for one in configs_of(config, servers))

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
