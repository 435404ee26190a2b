"""What one tenant feels of another: acknowledgements of a quiet tenant while its neighbour floods, or is full.

One server in operator mode. The quiet tenant publishes one message at a time, 100 a second. Its neighbour, in a
process of its own, is ``still``, is at its storage limit and tries on (``full``), or publishes as fast as it can
(``flood``), with 64 at once.

    .venv/bin/python bench/tenants.py [--json] [--quick]
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvloop
from rounds import Contender, lines, median_of, ratio_of, show, turns

from tieline import Bus, Message, NotAccepted, Pod, Settings, Stream, connect
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import grants_of
from tieline.server import EmbeddedServer, ServerConfig
from tieline.settings import ConnectionSettings

_AT_ONCE = 64
_EVERY = 0.01  # seconds


class Book(Message, subject="bench.book"):
    call_id: str
    note: str


POD = Pod("bench", streams=(Stream(name="BENCH", subjects=("bench.*",), max_bytes=10**9),))


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that the quiet tenant waited."""

    median: float
    worst: float


@dataclass(frozen=True, slots=True)
class Row:
    """One neighbour: medians over the rounds, and as multiples of a still one's."""

    sync: str
    neighbour: str
    p50: float
    p99: float
    of_p50: float
    of_p99: float


@asynccontextmanager
async def bus_of(url: str, credentials: Path) -> AsyncIterator[Bus]:
    connection = ConnectionSettings(servers=(url,), credentials=credentials)
    async with connect(POD, settings=Settings(connection=connection, audit=False)) as bus:
        yield bus


class Bench:
    """One server, and an operator's credentials for each tenant."""

    def __init__(self, server: EmbeddedServer, credentials: dict[str, Path], messages: int) -> None:
        self._server = server
        self._credentials = credentials
        self._messages = messages

    async def round(self, neighbour: str) -> Waits:
        """What the quiet tenant waits for while its neighbour does that."""
        waits = []
        async with bus_of(self._server.url, self._credentials["quiet"]) as bus, self._beside(neighbour):
            await asyncio.sleep(1.0)
            for number in range(self._messages):
                began = time.perf_counter()
                await bus.publish(Book(call_id=f"c{number}", note="x" * 200))
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(_EVERY)
        waits.sort()
        return Waits(waits[len(waits) // 2], waits[int(len(waits) * 0.99)])

    @asynccontextmanager
    async def _beside(self, neighbour: str) -> AsyncIterator[None]:
        if neighbour == "still":
            yield
            return
        command = (sys.executable, __file__, "neighbour", self._server.url, str(self._credentials[neighbour]))
        process = await asyncio.create_subprocess_exec(*command)
        try:
            yield
        finally:
            process.kill()
            await process.wait()


async def flood(url: str, credentials: Path) -> None:
    """Publish until killed, whatever the answers are."""

    async def on(bus: Bus) -> None:
        while True:
            with contextlib.suppress(NotAccepted):
                await bus.publish(Book(call_id="c", note="x" * 200))

    async with bus_of(url, credentials) as bus:
        await asyncio.gather(*(on(bus) for _ in range(_AT_ONCE)))


async def measured(sync: str, quick: bool) -> list[Row]:
    """The rows of one way to sync."""
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        keys, credentials = Keys(Path(folder) / "keys"), {}
        for name in ("quiet", "flood", "full"):
            tenants.create(keys, name, Limits())
            credentials[name] = keys.folder / f"{name}.creds"
            keys.write_credentials(credentials[name], tenants.issue(keys, name, "op", grants_of(POD, ["operator"])))
        config = ServerConfig(data=Path(folder) / "nats", sync=sync, operator=tenants.operator_mode(keys))
        async with EmbeddedServer(config) as server:
            for path in credentials.values():
                async with bus_of(server.url, path) as bus:
                    await bus.apply()
            tenants.create(keys, "full", Limits(storage=1))  # beyond what it has: every publish is refused
            await tenants.push(keys, ConnectionSettings(servers=(server.url,)), ["full"])
            bench = Bench(server, credentials, 100 if quick else 400)
            names = ("still", "full", "flood")
            contenders = [Contender(name, partial(bench.round, name)) for name in names]
            found = await turns(contenders, 1 if quick else 5)
    return [
        Row(
            sync,
            name,
            median_of(waits, lambda one: one.median),
            median_of(waits, lambda one: one.worst),
            ratio_of(waits, found["still"], lambda one: one.median),
            ratio_of(waits, found["still"], lambda one: one.worst),
        )
        for name, waits in found.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """One sync's rows as text."""
    head = ("neighbour", "p50 ms*", "of still", "p99 ms*", "of still")
    shown = [
        (row.neighbour, f"{row.p50 * 1000:.2f}", f"{row.of_p50:.2f}", f"{row.p99 * 1000:.2f}", f"{row.of_p99:.2f}")
        for row in rows
    ]
    return lines(f"sync {rows[0].sync}", head, shown)


if __name__ == "__main__":
    if sys.argv[1:2] == ["neighbour"]:
        uvloop.run(flood(sys.argv[2], Path(sys.argv[3])))
    else:
        uvloop.run(show(str(__doc__).partition("\n")[0], measured, table))
