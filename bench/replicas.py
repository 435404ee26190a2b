"""What three copies cost: a stream with R3 and one with R1 on a three-node cluster, beside a server of its own.

All servers run on this machine and share its disk and cores, which is hard on the cluster: on machines of their own
the three copies are written at the same time. Each round publishes with many at once, then one by one, then an agent
handles what was stored, with the audit off. A client knows the URLs of all servers and is on any of them.

    .venv/bin/python bench/replicas.py [--json] [--quick]
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import uvloop
from rounds import Contender, embedded_server, lines, median_of, ratio_of, show, turns

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, Stream, connect
from tieline.server import EmbeddedCluster, ServerConfig
from tieline.settings import ConnectionSettings

AT_ONCE = 256  # publishes under way, and slots of the agent
ALONE = "a server of its own"
PAYLOAD = "x" * 200


class Job(Message, subject="bench.job"):
    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One round: messages a second published and handled, and the median wait for an acknowledgement in seconds."""

    published: float
    ack: float
    handled: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's medians. Ratios are to the server of its own, round by round."""

    sync: str
    name: str
    published: float
    ack_ms: float
    handled: float
    published_ratio: float
    ack_ratio: float
    handled_ratio: float


@dataclass
class Bench:
    """A pod whose one stream has so many replicas, on its servers. One round at a time."""

    bus: Bus
    messages: int
    alone: int
    left: int = 0

    def __post_init__(self) -> None:
        self.numbers = count()
        self.done = asyncio.Event()

        @self.bus.pod.agent(limits=Limits(concurrency=AT_ONCE))
        async def worker(_job: Job, _: Conversation) -> None:
            self.left -= 1
            if self.left == 0:
                self.done.set()

    async def round(self) -> Sample:
        """Publish everything, then handle everything."""
        began = time.perf_counter()
        await asyncio.gather(*(self._lane(self.messages // AT_ONCE) for _ in range(AT_ONCE)))
        published = self.messages // AT_ONCE * AT_ONCE / (time.perf_counter() - began)
        waits = [await self._one() for _ in range(self.alone)]
        return Sample(published, statistics.median(waits), await self._handled())

    async def _lane(self, messages: int) -> None:
        for _ in range(messages):
            await self._one()

    async def _one(self) -> float:
        began = time.perf_counter()
        await self.bus.publish(Job(call_id=f"c{next(self.numbers)}", text=PAYLOAD))
        self.left += 1
        return time.perf_counter() - began

    async def _handled(self) -> float:
        self.done.clear()
        total, began = self.left, time.perf_counter()
        host = Host(self.bus, ["worker"])
        running = asyncio.create_task(host.run())
        await self.done.wait()
        rate = total / (time.perf_counter() - began)
        host.stop()
        await running
        return rate


@asynccontextmanager
async def bench(urls: tuple[str, ...], replicas: int, quick: bool) -> AsyncIterator[Bench]:
    name = f"BENCH-{replicas}"
    pod = Pod(f"bench-{replicas}", streams=(Stream(name=name, subjects=("bench.job",), replicas=replicas),))
    settings = Settings(connection=ConnectionSettings(servers=urls), audit=False)
    async with connect(pod, settings=settings) as bus:
        made = Bench(bus, 1_000 if quick else 5_000, 20 if quick else 100)
        await bus.apply()
        yield made
        await bus.connection.api(f"STREAM.DELETE.{name}")


async def one_round(urls: tuple[str, ...], replicas: int, quick: bool) -> Sample:
    """On a stream that is made for it: two streams of one cluster cannot have one subject."""
    async with bench(urls, replicas, quick) as made:
        return await made.round()


async def compare(sync: str, quick: bool) -> list[Row]:
    """One table."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_server(sync))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tieline-bench-")))
        cluster = await stack.enter_async_context(EmbeddedCluster(ServerConfig(data=folder, sync=sync)))
        places = {ALONE: ((url,), 1), "a cluster, R1": (cluster.urls, 1), "a cluster, R3": (cluster.urls, 3)}
        contenders = [Contender(name, partial(one_round, *place, quick)) for name, place in places.items()]
        measured = await turns(contenders, 2 if quick else 5)
    base = measured[ALONE]
    return [
        Row(
            sync,
            name,
            published=median_of(samples, _published),
            ack_ms=median_of(samples, _ack) * 1000,
            handled=median_of(samples, _handled),
            published_ratio=ratio_of(samples, base, _published),
            ack_ratio=ratio_of(samples, base, _ack),
            handled_ratio=ratio_of(samples, base, _handled),
        )
        for name, samples in measured.items()
    ]


def _published(sample: Sample) -> float:
    return sample.published


def _ack(sample: Sample) -> float:
    return sample.ack


def _handled(sample: Sample) -> float:
    return sample.handled


def table(rows: Sequence[Row]) -> str:
    head = ("", "published", "ack p50", "handled", "published/s *", "ack p50 ms *", "handled/s *")
    cells = [
        (
            row.name,
            f"{row.published_ratio:.2f}",
            f"{row.ack_ratio:.1f}",
            f"{row.handled_ratio:.2f}",
            f"{row.published:,.0f}",
            f"{row.ack_ms:.2f}",
            f"{row.handled:,.0f}",
        )
        for row in rows
    ]
    return lines(f'Three copies, servers with sync="{rows[0].sync}"; ratios to {ALONE}', head, cells)


if __name__ == "__main__":
    uvloop.run(show("A stream with three copies, beside one copy.", compare, table))
