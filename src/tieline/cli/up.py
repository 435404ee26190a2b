"""``tieline up``: a server, the topology, and a process for each agent, kept alive."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tieline.cli.applying import apply_pod, pod_bus
from tieline.cli.options import JsonOption, PodArgument, urls_of
from tieline.cli.screen import ForPeople, ForScripts, Running, Screen
from tieline.cli.tenant import KEYS, KeysOption
from tieline.deploy.keys import Keys
from tieline.deploy.residence import Residence
from tieline.errors import BadSettings, NotApplied, Unreachable, first_of
from tieline.pod import Pod
from tieline.server import EmbeddedCluster, EmbeddedServer, ServerConfig, ServerEnded, ServerRestarted, keep_running
from tieline.services.reference import load_pod
from tieline.services.signals import StopSignals
from tieline.services.supervisor import Event, Exited, Logged, Restarted, Supervisor, processes_of
from tieline.settings import Settings
from tieline.wire.connection import ApiError, NoAnswer

__all__ = ["up"]

_PORT = 4222
_DATA = Path(".tieline")

type _Own = EmbeddedServer | EmbeddedCluster


@dataclass(frozen=True, slots=True)
class _Where:
    """The server: our own, or elsewhere; and as which tenant."""

    own: _Own | None
    urls: tuple[str, ...]
    residence: Residence | None


def up(
    pod: PodArgument,
    port: Annotated[int | None, typer.Option(help="Port of the server; 0 for a free one.", show_default="4222")] = None,
    monitor_port: Annotated[
        int | None, typer.Option(help="Port of the server's monitoring pages; 0 for a free one.", show_default="none")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder for what the server stores.", show_default=str(_DATA))
    ] = None,
    servers: Annotated[
        int, typer.Option(help="How many servers to start: 3 make a cluster, whose streams have three replicas.")
    ] = 1,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Run as this tenant, each process with credentials of its own; our server then lets in no one else."
        ),
    ] = None,
    keys: KeysOption = KEYS,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="URL", help="Use a server that runs elsewhere instead of starting one."),
    ] = None,
    json: JsonOption = False,
) -> int:
    """Start a NATS server, make the pod's streams and consumers, and run every agent in a process of its own.

    A process or server that ends is started again, with a growing wait. Ctrl-C or SIGTERM drains and stops everything,
    the server last (exit 0); a second one kills. Metrics are on port 7777 (TIELINE_METRICS_PORT). With --server it uses
    a server that runs elsewhere. --json prints a line when all is ready, then one for each thing that happens.
    """
    urls = urls_of(server)
    if urls and (port, monitor_port, data, servers) != (None, None, None, 1):
        raise BadSettings(
            "--port, --monitor-port, --data and --servers are for our own server; leave them out with --server"
        )
    declared = load_pod(pod)
    config = None
    if not urls:
        config = ServerConfig(data=data or _DATA, port=_PORT if port is None else port, monitor_port=monitor_port)
    residence = None if tenant is None else Residence(Keys(keys), tenant, declared)
    if residence is not None and config is not None:
        config = replace(config, operator=residence.settled())
    own = None if config is None else EmbeddedServer(config) if servers == 1 else EmbeddedCluster(config, servers)
    asyncio.run(_up(pod, declared, _Where(own, urls, residence), ForScripts() if json else ForPeople()))
    return 0


async def _up(reference: str, pod: Pod, where: _Where, screen: Screen) -> None:
    signals, residence = StopSignals(), where.residence
    async with where.own or nullcontext() as server:
        urls = where.urls if server is None else server.urls
        metered = Settings.from_environment().metrics_port is not None
        supervisor, processes = Supervisor(reference, urls), processes_of(pod, metrics=metered)
        if residence is not None:
            processes = await residence.admitted(processes, urls)
        operator = None if residence is None else residence.operator
        await _apply(pod, urls, operator, lambda what: print(f"warning: {what}", file=sys.stderr))

        def say(what: str) -> None:
            screen.happened(Logged("up", what))

        def running() -> Running:
            pids = {process.name: supervisor.pid(process.name) for process in processes}
            return Running(urls, None if server is None else server.monitor_url, processes, pids)

        async with (
            _kept_alive(server, screen) as given_up,
            _supervised(supervisor, signals, screen),
            asyncio.TaskGroup() as group,
        ):
            await supervisor.start(processes)
            screen.started(running())
            readying = group.create_task(_become_ready(supervisor, screen, running))
            apply_again = partial(_apply, pod, urls, operator, say)
            mending = group.create_task(_mend(supervisor.events(), apply_again, say))
            await _end(signals, given_up)
            mending.cancel()
            readying.cancel()


async def _become_ready(supervisor: Supervisor, screen: Screen, running: Callable[[], Running]) -> None:
    await supervisor.ready()
    screen.ready(running())


async def _apply(pod: Pod, urls: tuple[str, ...], credentials: Path | None, say: Callable[[str], None]) -> None:
    async with pod_bus(pod, list(urls), credentials) as bus:
        for change in await apply_pod(bus, say):
            if change.action in ("refuse", "keep"):
                what = f"{change.kind} {change.name}: {change.field} stays {change.have!r}"
                print(f"warning: {what}: {change.why}", file=sys.stderr)


async def _mend(events: AsyncIterator[Event], apply: Callable[[], Awaitable[None]], say: Callable[[str], None]) -> None:
    """Whenever a process ends by itself, create what somebody deleted, so that it finds it when it starts again."""
    async for event in events:
        if isinstance(event, Exited) and event.code and event.again_in is not None:
            try:
                await apply()
            except (NotApplied, Unreachable, ApiError, NoAnswer) as error:
                say(f"the pod cannot be applied again: {error}")


@asynccontextmanager
async def _supervised(supervisor: Supervisor, signals: StopSignals, screen: Screen) -> AsyncIterator[None]:
    """Shows what happens to the processes, and stops them at the end, whatever that end is."""
    telling = asyncio.create_task(_tell(supervisor.events(), screen))
    why = "a signal"
    try:
        yield
    except BaseExceptionGroup as group:
        error = first_of(group)
        why = str(error)
        raise error from None
    finally:
        screen.stopping(why)
        await _stop(supervisor, signals)
        await telling


async def _tell(events: AsyncIterator[Event], screen: Screen) -> None:
    async for event in events:
        screen.happened(event)


@asynccontextmanager
async def _kept_alive(server: _Own | None, screen: Screen) -> AsyncIterator[asyncio.Future[None]]:
    """Restarts our own servers whenever one ends, also while the agents drain; yields what fails with `ServerFailed`
    once that does not help."""

    def report(what: ServerEnded | ServerRestarted) -> None:
        screen.happened(_as_event(what))

    async def keep() -> None:
        if server is None:
            await asyncio.Event().wait()
            return
        await asyncio.gather(*(keep_running(one, report) for one in server.servers))

    keeping = asyncio.create_task(keep(), name="keeper of the server")
    try:
        yield keeping
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


def _as_event(what: ServerEnded | ServerRestarted) -> Event:
    name = f"nats-server {what.name}"
    if isinstance(what, ServerRestarted):
        return Restarted(name, what.pid, what.restarts)
    return Exited(name, what.pid, what.code, what.again_in)


async def _end(signals: StopSignals, given_up: asyncio.Future[None]) -> None:
    """Return at the first signal; raise `ServerFailed` when our own server could not be brought back before it."""
    asked = asyncio.create_task(signals.asked.wait())
    await asyncio.wait((asked, given_up), return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        return
    asked.cancel()
    given_up.result()


async def _stop(supervisor: Supervisor, signals: StopSignals) -> None:
    """Drain and stop; kill at the second signal."""
    stopping = asyncio.create_task(supervisor.stop())
    insisted = asyncio.create_task(signals.insisted.wait())
    await asyncio.wait((stopping, insisted), return_when=asyncio.FIRST_COMPLETED)
    insisted.cancel()
    if not stopping.done():
        supervisor.kill_all()
    await stopping
