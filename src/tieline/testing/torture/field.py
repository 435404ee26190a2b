"""Where a fault strikes: servers, the pod's processes, and a connection of our own to all of them."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from tieline.runtime.bus import Bus, connect
from tieline.server.config import ServerConfig
from tieline.services.replicas import copies, splits
from tieline.services.supervisor import Exited, Logged, Process, Supervisor, processes_of
from tieline.settings import ConnectionSettings, PublishSettings, Settings
from tieline.testing.cluster import Cluster
from tieline.testing.server import Server
from tieline.testing.torture.disks import Disk, disk_at
from tieline.testing.torture.effects import Effects
from tieline.testing.torture.network import Network, network_of
from tieline.testing.torture.office import pod
from tieline.testing.waiting import eventually
from tieline.wire.connection import ApiError, NoAnswer

__all__ = ["STREAM", "Field", "field_of"]

STREAM = "TORTURE"

_REFERENCE = "tieline.testing.torture.office"
_RESERVED = 64 << 30  # bytes that streams may reserve together
_PATIENCE = 120.0  # seconds: what does not come back by then does not


@dataclass(slots=True)
class Field:
    """What a fault may strike, while the load runs. ``first`` and ``second`` each run the whole pod but the audit."""

    nodes: tuple[Server, ...]
    bus: Bus
    first: Supervisor
    second: Supervisor
    folder: Path
    disks: dict[str, Disk]
    network: Network | None
    said: list[str] = field(default_factory=list)
    ends: list[Exited] = field(default_factory=list)
    over: Callable[[], bool] = bool
    """Whether the load has ended: nothing has an effect any more."""

    @property
    def server(self) -> Server:
        """The only server, or the first of the cluster."""
        return self.nodes[0]

    @property
    def net(self) -> Network:
        """The network between the servers, where the fault asked for one."""
        assert self.network is not None
        return self.network

    @property
    def effects(self) -> Path:
        """Where the effects are."""
        return self.folder / "effects.db"

    def named(self, name: str) -> Server:
        """The server of that name."""
        return next(node for node in self.nodes if node.config.server_name == name)

    async def leader(self, durable: str = "") -> Server:
        """The server that leads the stream, or one of its consumers; the only one where there is no cluster."""
        if len(self.nodes) == 1:
            return self.server
        what = f"CONSUMER.INFO.{STREAM}.{durable}" if durable else f"STREAM.INFO.{STREAM}"

        async def asked() -> str | None:
            try:
                return str((await self.bus.connection.api(what))["cluster"].get("leader") or "") or None
            except (ApiError, NoAnswer):
                return None

        return self.named(await eventually(asked, what=f"a leader of {durable or STREAM}", within=_PATIENCE))

    async def back(self, node: Server) -> None:
        """Start it again, and return once all servers hear one another.

        A second one that dies within the first moment of another takes the majority with it: see `Split`. That is two
        faults at once, which three servers do not promise to survive.
        """
        await node.restart()
        monitors = [str(each.monitor_url) for each in self.nodes]

        async def of_one_mind() -> bool:
            return not splits(await copies(monitors))

        await eventually(of_one_mind, what=f"{node.config.server_name} among the others", within=_PATIENCE, every=0.1)

    async def goes_on(self) -> None:
        """Return when something had an effect, or the load is over; `AssertionError` where nothing has for long."""
        with Effects(self.effects) as effects:
            check = partial(self._went_on, effects, effects.count())
            await eventually(check, what="the next effect", within=_PATIENCE)

    def _went_on(self, effects: Effects, before: int) -> bool:
        return effects.count() > before or self.over()


class Needs(Protocol):
    """What a fault wants of its field. See `Fault`."""

    @property
    def servers(self) -> int: ...
    @property
    def sync(self) -> str: ...
    @property
    def reconnect(self) -> float: ...
    @property
    def store(self) -> int | None: ...
    @property
    def apart(self) -> bool: ...
    @property
    def powered(self) -> bool: ...


@asynccontextmanager
async def field_of(folder: Path, needs: Needs) -> AsyncIterator[Field]:
    """A field of one server or three, with the pod at work twice. Everything ends with it."""
    config = ServerConfig(data=folder / "nats", sync=needs.sync, monitor_port=0, server_name="torture")
    effects = folder / "effects.db"
    with Effects(effects):  # made before several processes want to
        pass
    async with AsyncExitStack() as stack:
        if needs.powered or needs.store is not None:  # small disks are full before the server thinks so
            config = replace(config, max_file_store=_RESERVED)
        if needs.store is not None:
            stack.enter_context(_mounted(config.data, needs.store))
        network = stack.enter_context(network_of(needs.servers)) if needs.apart else None
        place = None if network is None else lambda number: (network.address(number), network.launcher(number))
        cluster: Cluster | Server = Cluster(config, needs.servers, place) if needs.servers > 1 else Server(config)
        disks = _powered(cluster, folder / "images", stack) if needs.powered else {}
        await stack.enter_async_context(cluster)
        nodes = cluster.nodes if isinstance(cluster, Cluster) else (cluster,)
        urls = tuple(node.url for node in nodes)
        settings = Settings(
            connection=replace(ConnectionSettings(servers=urls), reconnect=_PATIENCE),
            publish=PublishSettings(patience=60.0, ack_timeout=1.0),
        )
        bus = await stack.enter_async_context(connect(pod, settings=settings, name="torture"))
        await bus.apply()
        stack.enter_context(_Environment({"TIELINE_RECONNECT": f"{needs.reconnect:g}"}))
        first = await stack.enter_async_context(Supervisor(_REFERENCE, urls))
        second = await stack.enter_async_context(Supervisor(_REFERENCE, urls))
        there = Field(nodes, bus, first, second, folder, disks, network)
        everything = processes_of(pod)
        for supervisor, processes in ((first, everything), (second, _working(everything))):
            listening = asyncio.create_task(_listen(supervisor, there))
            stack.push_async_callback(_ended, listening)
            await supervisor.start(processes)
        for supervisor in (first, second):
            await supervisor.ready(_PATIENCE)
        yield there
        for node in nodes:  # a frozen server would outlast the end of its pod
            os.kill(node.pid, signal.SIGCONT) if node.embedded.running else None


def _powered(cluster: Cluster | Server, images: Path, stack: AsyncExitStack) -> dict[str, Disk]:
    """A disk for each server, by its name."""
    nodes = cluster.nodes if isinstance(cluster, Cluster) else (cluster,)
    return {node.config.server_name: stack.enter_context(disk_at(node.config.data, images)) for node in nodes}


def _working(processes: Iterable[Process]) -> list[Process]:
    return [process for process in processes if process.name != "audit"]


async def _listen(supervisor: Supervisor, there: Field) -> None:
    async for event in supervisor.events():
        match event:
            case Logged(text=text):
                there.said.append(text)
            case Exited():
                there.ends.append(event)
            case _:
                pass


async def _ended(listening: "asyncio.Task[None]") -> None:
    listening.cancel()
    await asyncio.wait((listening,))


@contextmanager
def _mounted(folder: Path, mebibytes: int) -> Iterator[None]:
    """A file system of its own for ``folder``, as large as that. Root only."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


class _Environment:
    """Variables for the processes that are started meanwhile."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
