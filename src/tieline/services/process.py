"""One process of a pod: what `tieline up` starts, and what `tieline run` does. Needs neither typer nor rich.

``python -m tieline.services.process [--server URL] [--credentials FILE] POD NAME…``
"""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tieline.errors import BadDeclaration, BadSettings, TielineError, first_of
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.runtime.host import Host, names_of
from tieline.services.clocks import disagreement
from tieline.services.logs import configure_logs
from tieline.services.reference import load_pod
from tieline.services.signals import StopSignals
from tieline.settings import Settings
from tieline.wire.connection import ApiError, NoAnswer
from tieline.wire.topology import consumers_of

__all__ = ["AUDIT", "GATEWAY", "METRICS", "READY", "run_process"]

AUDIT = "audit"
METRICS = "metrics"
GATEWAY = "gateway"
READY = b"ready\n"  # what a child writes to its --ready-fd

log = logging.getLogger("tieline.process")

_SERVICES = (AUDIT, METRICS, GATEWAY)
_PR_SET_PDEATHSIG = 1
_CONSUMER_MISSING = frozenset({10014, 10059})


def run_process(pod: Pod, names: Sequence[str], settings: Settings, on_ready: Callable[[], None]) -> int:
    """Run ``names`` (agents, ``tools``, services) of a pod until a stop signal; the exit code.

    0 when everything was drained, 1 when a second signal cut that short. ``on_ready`` is called once all of them pull.
    Raises `BadDeclaration` for a name the pod has not, `Unreachable` when the server stays away and `ConsumerGone` when
    a consumer is missing.
    """
    unknown = [name for name in names if name not in _SERVICES and name not in names_of(pod)]
    if unknown:
        there = ", ".join([*names_of(pod), *_SERVICES])
        raise BadDeclaration(f"pod {pod.name} has no {', '.join(unknown)} to run; it has {there}")
    if METRICS in names and settings.metrics_port is None:
        raise BadSettings("metrics have no port: TIELINE_METRICS_PORT is off; leave it out, or give a number")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        drained = runner.run(_until_stopped(pod, list(dict.fromkeys(names)), settings, on_ready))
    return 0 if drained else 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not made for this system
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _until_stopped(pod: Pod, names: list[str], settings: Settings, on_ready: Callable[[], None]) -> bool:
    """False where the second signal came before everything was drained."""
    signals = StopSignals()
    work = asyncio.create_task(_work(pod, names, settings, on_ready, signals.asked))
    insisted = asyncio.create_task(signals.insisted.wait())
    await asyncio.wait((work, insisted), return_when=asyncio.FIRST_COMPLETED)
    insisted.cancel()
    if work.done():
        await work
        return True
    work.cancel()
    await asyncio.wait((work,))
    log.warning("stopped at the second signal; what was running is handed back and runs again elsewhere")
    return False


async def _work(
    pod: Pod, names: list[str], settings: Settings, on_ready: Callable[[], None], stop: asyncio.Event
) -> None:
    async with connect(pod, settings=settings, name=f"{pod.name}-{'+'.join(names)}") as bus:
        if names != [METRICS]:  # it only reads
            bus.connection.unreadable.by = bus.replica
        try:
            async with asyncio.TaskGroup() as group:
                stops = _start(bus, names, group)
                beside = [group.create_task(_announce(bus, names, on_ready)), group.create_task(_until_lost(bus))]
                await asyncio.sleep(0)  # now they have begun; a stop before that would find nothing to stop
                await stop.wait()
                log.info("stopping: taking nothing more, finishing what runs")
                for task in beside:
                    task.cancel()
                for ask in stops:
                    ask()
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None


def _start(bus: Bus, names: list[str], group: asyncio.TaskGroup) -> list[Callable[[], None]]:
    """Start the parts of this process in ``group``; how to ask each of them to stop."""
    stops: list[Callable[[], None]] = []
    hosted, host = [name for name in names if name not in _SERVICES], None
    if hosted:
        host = Host(bus, hosted)
        group.create_task(host.run())
        stops.append(host.stop)
    if bus.settings.health_port is not None:
        from tieline.services import health

        probed = asyncio.Event()
        group.create_task(health.serve(bus, host, bus.settings.health_port, probed))
        stops.append(probed.set)
    if AUDIT in names:
        stops.append(_start_audit(bus, group))
    if GATEWAY in names:
        from tieline.services import gateway

        closed = asyncio.Event()
        group.create_task(gateway.run(bus, closed))
        stops.append(closed.set)
    if METRICS in names and bus.settings.metrics_port is not None:
        from tieline.services import metrics

        at, server = bus.settings, bus.settings.connection.servers[0]
        place = metrics.Place(at.metrics_port or 0, at.metrics_host, server=server)
        over = asyncio.Event()
        group.create_task(metrics.run(bus.connection, bus.pod, place, over))
        stops.append(over.set)
    return stops


def _start_audit(bus: Bus, group: asyncio.TaskGroup) -> Callable[[], None]:
    """The services of the process ``audit``. Imported only where they run: agents do without their weight."""
    from tieline.services import accountant, aged_out, deadletters, due_messages, journal_pruner, pager, storage_watch

    stop = asyncio.Event()
    for service in (pager, storage_watch, accountant, deadletters, due_messages, journal_pruner, aged_out):
        group.create_task(service.run(bus, stop))
    return stop.set


async def _until_lost(bus: Bus) -> None:
    await asyncio.shield(bus.connection.lost)


async def _announce(bus: Bus, names: list[str], on_ready: Callable[[], None]) -> None:
    """Say that this process is ready: connected, its consumers are there, and the server has its first pulls."""
    said = ""
    agents = [bus.pod.agents[name].wire_name for name in names if name in bus.pod.agents]
    owners = {*agents, *(f"tool-{tool}" for tool in bus.pod.tools if "tools" in names)}
    for consumer in consumers_of(bus.pod):
        if consumer.kind == "waker" or consumer.owner not in owners:
            continue
        try:
            asked = time.time()
            info = await bus.connection.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.durable}")
            said = said or disagreement(info, asked, time.time())
        except ApiError as error:
            if error.err_code in _CONSUMER_MISSING:
                return  # the pull finds the same and ends this process with it
            log.warning("consumer %s of %s: %s", consumer.durable, consumer.stream, error)
        except NoAnswer:
            log.info("consumer %s of %s: may not be asked about", consumer.durable, consumer.stream)
    if said:
        log.error("%s", said)
    await bus.connection.flush()  # pulls went out before: when this returns, the server has read them
    log.info("ready: %s", ", ".join(names))
    on_ready()


def _die_with(parent: int) -> None:
    """SIGTERM when the process that started this one dies, however it dies. Linux only; elsewhere nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the request stood: no signal would ever come
        sys.exit("the process that started this one is gone")


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tieline.services.process", description=__doc__)
    parser.add_argument("pod")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--server", action="append", default=[])
    parser.add_argument("--credentials", type=Path)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--parent", type=int)
    given = parser.parse_args()
    if given.parent is not None:
        _die_with(given.parent)

    def on_ready() -> None:
        if given.ready_fd is not None:
            os.write(given.ready_fd, READY)
            os.close(given.ready_fd)

    try:
        settings = Settings.from_environment()
        # `tieline up` puts the name before each line of text.
        configure_logs(settings, "+".join(given.names) if settings.log_format == "json" else "")
        if given.server:
            settings = replace(settings, connection=replace(settings.connection, servers=tuple(given.server)))
        if given.credentials is not None:
            settings = replace(settings, connection=replace(settings.connection, credentials=given.credentials))
        return run_process(load_pod(given.pod), given.names, settings, on_ready)
    except TielineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadDeclaration | BadSettings) else 1


if __name__ == "__main__":
    sys.exit(_main())
