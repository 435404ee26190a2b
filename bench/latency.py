"""From publish to handler: how long a message is on its way through a stream, beside bare natsio.

One message every few milliseconds, the next only after the last one was handled. The clock starts before the publish
and stops where the handler (or natsio's loop) has the payload; publisher and consumer are in one process on uvloop,
over one connection. natsio is ``js.publish`` with its PubAck and a loop over its ``consume()``.

    .venv/bin/python bench/latency.py [--json] [--quick]
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import natsio
import uvloop
from natsio.jetstream import ConsumerConfig
from rounds import Contender, embedded_server, lines, median_of, ratio_of, show, turns

from tieline import Conversation, Host, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings

EVERY = 0.005  # seconds: 200 messages a second
WARM_UP = 20  # messages
SUBJECT = "call.intent.ping"
BARE = "natsio"


class Ping(Message, subject=SUBJECT):
    call_id: str
    sent: float
    note: str


@dataclass(frozen=True, slots=True)
class Delays:
    """One round, in milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's medians over the rounds; ratios are to bare natsio."""

    sync: str
    name: str
    p50_of_natsio: float
    p99_of_natsio: float
    p50_ms: float
    p99_ms: float


class Line:
    """Sends a message, waits until it is handled, and keeps the time between."""

    def __init__(self, publish: Callable[[], Awaitable[object]]) -> None:
        self._publish = publish
        self._heard = asyncio.Event()
        self._at = 0.0

    def heard(self) -> None:
        """The message is with its handler."""
        self._at = time.perf_counter()
        self._heard.set()

    async def measure(self, messages: int) -> Delays:
        """``messages`` one after the other."""
        delays = []
        for _ in range(messages):
            self._heard.clear()
            began = time.perf_counter()
            await asyncio.gather(self._publish(), self._heard.wait())
            delays.append((self._at - began) * 1e3)
            await asyncio.sleep(EVERY)
        return Delays(statistics.median(delays), statistics.quantiles(delays, n=100)[98])


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[Line]:
    """natsio's own publish and loop."""
    async with await natsio.connect(url) as client:
        jetstream = client.jetstream()
        stream = await jetstream.stream("CALL_INTENT")
        consumer = await stream.create_consumer(ConsumerConfig(durable_name="bare", filter_subject=SUBJECT))
        payload = b'{"callId":"call-1","sent":1.5,"note":"as long as the other"}'
        line = Line(partial(jetstream.publish, SUBJECT, payload))

        async def loop() -> None:
            async with consumer.consume() as messages:
                async for message in messages:
                    line.heard()
                    await message.ack()

        looping = asyncio.create_task(loop())
        yield line
        looping.cancel()
        await asyncio.wait([looping])
        await consumer.delete()


@asynccontextmanager
async def tieline(url: str, audit: bool) -> AsyncIterator[Line]:
    """An agent in a host, and its bus's publish."""
    pod = Pod("bench")

    @pod.agent
    async def ping(message: Ping, call: Conversation) -> None:  # noqa: ARG001 - a handler takes both
        line.heard()

    async with connect(pod, settings=settings(url, audit)) as bus:
        line = Line(lambda: bus.publish(Ping(call_id="call-1", sent=1.5, note="as long as the other")))
        await bus.apply()
        host = Host(bus, ["ping"])
        running = asyncio.create_task(host.run())
        yield line
        host.stop()
        await running
        await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.ping")


def settings(url: str, audit: bool) -> Settings:
    return Settings(connection=ConnectionSettings(servers=(url,)), audit=audit)


async def one_round(open_line: Callable[[], AbstractAsyncContextManager[Line]], url: str, messages: int) -> Delays:
    """A line of its own on an empty stream; its first messages warm it up."""
    async with await natsio.connect(url) as client:
        await (await client.jetstream().stream("CALL_INTENT")).purge()
    async with open_line() as line:
        await line.measure(WARM_UP)
        return await line.measure(messages)


async def compare(sync: str, quick: bool) -> list[Row]:
    """One table."""
    async with embedded_server(sync) as url:
        async with connect(Pod("bench"), settings=settings(url, audit=False)) as bus:
            await bus.apply()
        lines_of = {
            BARE: partial(bare, url),
            "Tieline, audit off": partial(tieline, url, False),
            "Tieline, audit on": partial(tieline, url, True),
        }
        messages = 50 if quick else 300
        contenders = [Contender(name, partial(one_round, line, url, messages)) for name, line in lines_of.items()]
        measured = await turns(contenders, 3 if quick else 5)
    return [
        Row(
            sync,
            name,
            p50_of_natsio=ratio_of(delays, measured[BARE], _p50),
            p99_of_natsio=ratio_of(delays, measured[BARE], _p99),
            p50_ms=median_of(delays, _p50),
            p99_ms=median_of(delays, _p99),
        )
        for name, delays in measured.items()
    ]


def _p50(delays: Delays) -> float:
    return delays.p50


def _p99(delays: Delays) -> float:
    return delays.p99


def table(rows: Sequence[Row]) -> str:
    head = ("", "p50 of natsio", "p99 of natsio", "p50 ms *", "p99 ms *")
    cells = [
        (row.name, f"{row.p50_of_natsio:.2f}", f"{row.p99_of_natsio:.2f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
        for row in rows
    ]
    return lines(f'From publish to handler, server with sync="{rows[0].sync}"', head, cells)


if __name__ == "__main__":
    uvloop.run(show("Time from publish to handler, beside bare natsio.", compare, table))
