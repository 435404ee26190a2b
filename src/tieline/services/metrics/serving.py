"""The endpoint: facts are followed all the time, the server is read when somebody scrapes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import prometheus_client
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from tieline.errors import BadSettings, NotApplied
from tieline.pod import Pod
from tieline.services.conversations import fact_in
from tieline.services.metrics.families import families
from tieline.services.metrics.reading import Reader, Reading
from tieline.services.metrics.told import Told
from tieline.services.stopping import until_stopped
from tieline.wire.connection import Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed

__all__ = ["Place", "alert_rules", "run", "serve"]

log = logging.getLogger("tieline.metrics")

_AGAIN = 10.0  # seconds until a port that is taken, or a stream that is not there, is tried again
_LONGEST = 8.0  # seconds that a scrape may take: Prometheus waits for ten


@dataclass(frozen=True, slots=True)
class Place:
    """Where to serve, and what to look at. ``port`` 0 is a free one; ``server`` is the URL of the NATS server, and
    ``monitor`` that of its monitoring pages (None: port 8222 of its host, where it is this server's)."""

    port: int
    host: str = "127.0.0.1"
    server: str = "nats://127.0.0.1:4222"
    monitor: str | None = None


def alert_rules() -> str:
    """The alerting rules that come with Tieline, as Prometheus reads them."""
    return files("tieline.services.metrics").joinpath("alerts.yml").read_text(encoding="utf-8")


async def run(connection: Connection, pod: Pod | None, place: Place, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. A port that is taken is said and tried again: nothing else is to end for it."""
    service = _Service(connection, pod, place)

    async def patiently() -> None:
        while True:
            try:
                async with service.listening() as url:
                    log.info("metrics at %s", url)
                    await asyncio.Event().wait()
            except BadSettings as error:
                log.warning("no metrics for now: %s", error)
                await asyncio.sleep(_AGAIN)

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(patiently())
        try:
            await until_stopped(service.follow(), connection, stop)
        finally:
            serving.cancel()


async def serve(
    connection: Connection, pod: Pod | None, place: Place, stop: asyncio.Event, ready: Callable[[str], None]
) -> None:
    """Serve until ``stop`` is set; ``ready`` is told the URL. `BadSettings` where the port cannot be had, `Unreachable`
    when the server stays away."""
    service = _Service(connection, pod, place)
    async with service.listening() as url:
        ready(url)
        await until_stopped(service.follow(), connection, stop)


class _Service(Collector):
    """One endpoint. Prometheus collects from threads of its HTTP server; everything else happens in the loop."""

    def __init__(self, connection: Connection, pod: Pod | None, place: Place) -> None:
        # A gauge beside each counter is what nobody asked for.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._connection = connection
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(connection, pod, place.server, place.monitor)
        self._registry = CollectorRegistry()
        self._told = Told(self._registry)
        self._behind: int | None = None  # written by `follow`, read by scrapes
        self._registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: to be asked for it would read the server before anybody scrapes."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The server as it is. In a thread of the HTTP server."""
        asked = asyncio.run_coroutine_threadsafe(self._reader.latest(), self._loop)
        try:
            reading = asked.result(_LONGEST)
        except (TimeoutError, CancelledError):
            reading = Reading(up=False)
        yield from families(reading, self._reader.known, self._behind)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The endpoint's URL, while it is open."""
        host, port = self._place.host, self._place.port
        try:
            server, thread = prometheus_client.start_http_server(port, host, self._registry)
        except (OSError, OverflowError) as error:
            raise BadSettings(
                f"port {port} of {host} cannot be had ({error}); TIELINE_METRICS_PORT or --port names another"
            ) from None
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
        finally:
            await asyncio.to_thread(server.shutdown)  # elsewhere: a scrape may be waiting for this loop
            server.server_close()
            thread.join()

    async def follow(self) -> None:
        """Count facts, from now on. Raises `Unreachable` when the connection is closed."""
        await self._reader.latest()
        while True:
            try:
                async for delivery in Feed(self._connection, "CALL_AUDIT", ["call.audit.*"]):
                    await self._tell(delivery)
            except NotApplied as error:
                log.info("no facts to count: %s", error)
                await asyncio.sleep(_AGAIN)

    async def _tell(self, delivery: Delivery) -> None:
        fact = fact_in(delivery)
        self._behind = delivery.left
        if fact is None:
            self._connection.unreadable.skip("fact", delivery.subject, delivery.stream, delivery.seq)
            return
        by = fact.get("by")
        if isinstance(by, str) and by and not self._reader.known.knows(by):
            await self._reader.latest()  # somebody new, perhaps; at most once a second
        self._told.tell(fact, delivery.payload, self._reader.known)
