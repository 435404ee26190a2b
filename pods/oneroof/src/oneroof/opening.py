"""Opening the office: the server, the topology, the eight processes; and closing it again."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from oneroof.declared import pod
from tieline import Bus, Settings, connect
from tieline.server import EmbeddedServer, ServerConfig
from tieline.services.supervisor import Process, Supervisor, processes_of

__all__ = ["Office", "Place", "opened"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an office opens. ``server`` is a NATS URL, or None for a server of its own; ports of 0 are any free one."""

    data: Path
    server: str | None = None
    port: int = 0
    monitor_port: int | None = None


@dataclass(frozen=True, slots=True)
class Office:
    """An open office."""

    url: str
    monitor_url: str | None
    bus: Bus
    supervisor: Supervisor
    processes: list[Process]


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Office]:
    """An office whose processes are all ready; closed at the end of the block, the server last.

    Raises `ServerFailed`, `Unreachable` or `ProcessFailed` when it cannot open.
    """
    os.environ["ONEROOF_DATA"] = str(place.data / "books")  # for the tool executor, which inherits it
    async with AsyncExitStack() as stack:
        url, monitor_url = place.server, None
        if url is None:
            config = ServerConfig(data=place.data, port=place.port, monitor_port=place.monitor_port)
            server = await stack.enter_async_context(EmbeddedServer(config))
            url, monitor_url = server.url, server.monitor_url
        settings = Settings.from_environment()
        settings = replace(settings, connection=replace(settings.connection, servers=(url,)))
        bus = await stack.enter_async_context(connect(pod, settings=settings, name="oneroof-line"))
        await bus.apply()
        supervisor = await stack.enter_async_context(Supervisor("oneroof", servers=(url,)))
        processes = processes_of(pod)
        await supervisor.start(processes)
        await supervisor.ready()
        yield Office(url, monitor_url, bus, supervisor, processes)
