"""What permissions and signatures cost: messages of 256 bytes, published and handled, in turns on one server.

The server is in operator mode; every contender is the same pod with credentials. ``open`` may do everything, ``least``
what the agent declares, ``sign`` signs what it publishes, ``require`` checks what it gets as well. One process.

    .venv/bin/python bench/signing.py [--json] [--quick]
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import uvloop
from rounds import Contender, lines, median_of, ratio_of, show, turns

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, connect
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits as AccountLimits
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import client_grants, grants_of
from tieline.server import EmbeddedServer, ServerConfig
from tieline.settings import ConnectionSettings

SUBJECT = "call.intent.book"
AT_ONCE = 256

type Signatures = Literal["off", "sign", "require"]


class Book(Message, subject=SUBJECT):
    call_id: str
    note: str


@dataclass(frozen=True, slots=True)
class Rate:
    """One round: messages a second, published and handled."""

    published: float
    handled: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's medians, and as a share of those without permissions and signatures."""

    sync: str
    name: str
    published: float
    handled: float
    of_published: float
    of_handled: float


class Bench:
    """One server, and credentials for who publishes and who handles."""

    def __init__(self, server: EmbeddedServer, keys: Keys, messages: int) -> None:
        self._server = server
        self._keys = keys
        self._messages = messages
        self._numbers = count(1)

    async def round(self, least: bool, signatures: Signatures) -> Rate:
        """Publish, then handle, as a pod of its own."""
        left, done = self._messages, asyncio.Event()
        number = next(self._numbers)
        pod = Pod(f"bench-{number}")

        @pod.agent(name=f"book-{number}", publishes=(), limits=Limits(concurrency=AT_ONCE))
        async def book(_: Book, __: Conversation) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done.set()

        async with self._bus(pod, "operator", "off") as operator:
            await operator.apply()
            await operator.connection.api("STREAM.PURGE.CALL_INTENT")
            name = f"book-{number}" if least else "operator"
            who = "web" if least else "operator"
            async with self._bus(pod, who, signatures) as web, self._bus(pod, name, signatures) as agent:
                published = await self._published(web)
                host = Host(agent, [f"book-{number}"])
                began = time.perf_counter()
                work = asyncio.create_task(host.run())
                await done.wait()
                handled = self._messages / (time.perf_counter() - began)
                host.stop()
                await work
            await operator.connection.api(f"CONSUMER.DELETE.CALL_INTENT.book-{number}")
        return Rate(published, handled)

    async def _published(self, bus: Bus) -> float:
        async def some(numbers: range) -> None:
            for number in numbers:
                await bus.publish(Book(call_id=f"call-{number}", note="x" * 200))

        await bus.publish(Book(call_id="first", note=""))
        began = time.perf_counter()
        await asyncio.gather(*(some(range(start, self._messages - 1, AT_ONCE)) for start in range(AT_ONCE)))
        return self._messages / (time.perf_counter() - began)

    @asynccontextmanager
    async def _bus(self, pod: Pod, name: str, signatures: Signatures) -> AsyncIterator[Bus]:
        grants = client_grants(pod, name, [SUBJECT]) if name == "web" else grants_of(pod, [name])
        path = self._keys.folder / f"{name}.creds"
        self._keys.write_credentials(path, tenants.issue(self._keys, "bench", name, grants))
        connection = ConnectionSettings(servers=(self._server.url,), credentials=path)
        async with connect(pod, settings=Settings(connection=connection, audit=False, signatures=signatures)) as bus:
            yield bus


async def measured(sync: str, quick: bool) -> list[Row]:
    """The rows of one way to sync."""
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        keys = Keys(Path(folder) / "keys")
        tenants.create(keys, "bench", AccountLimits())
        config = ServerConfig(data=Path(folder) / "nats", sync=sync, operator=tenants.operator_mode(keys))
        async with EmbeddedServer(config) as server:
            bench = Bench(server, keys, 3_000 if quick else 15_000)
            contenders: list[Contender[Rate]] = [
                Contender("open", partial(bench.round, False, "off")),
                Contender("least", partial(bench.round, True, "off")),
                Contender("sign", partial(bench.round, True, "sign")),
                Contender("require", partial(bench.round, True, "require")),
            ]
            found = await turns(contenders, 1 if quick else 5)
    plain = found["open"]
    return [
        Row(
            sync,
            name,
            median_of(rates, lambda rate: rate.published),
            median_of(rates, lambda rate: rate.handled),
            ratio_of(rates, plain, lambda rate: rate.published),
            ratio_of(rates, plain, lambda rate: rate.handled),
        )
        for name, rates in found.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """One sync's rows as text."""
    head = ("256 bytes", "published/s*", "of open", "handled/s*", "of open")
    shown = [
        (row.name, f"{row.published:,.0f}", f"{row.of_published:.2f}", f"{row.handled:,.0f}", f"{row.of_handled:.2f}")
        for row in rows
    ]
    return lines(f"sync {rows[0].sync}", head, shown)


if __name__ == "__main__":
    uvloop.run(show(str(__doc__).partition("\n")[0], measured, table))
