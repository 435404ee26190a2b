"""How many small messages an agent handles, beside a bare natsio loop and FastStream on the same server.

Every contender reads the same stored messages, as `Bus.publish` stored them, through a durable pull consumer of its
own and acknowledges each. Counted is from the first message handled to the last; with the audit, until its last fact
is stored. natsio is a loop over its ``consume()``, FastStream its documented pull subscriber with a pydantic model
and its default ack policy, with its log switched off. All in one process on uvloop, each with a connection of its own.

    .venv/bin/python bench/throughput.py [--json] [--quick]
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count

import natsio
import uvloop
from faststream.nats import JStream, NatsBroker, PullSub
from natsio.jetstream import ConsumerConfig
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from rounds import Contender, embedded_server, lines, median_of, ratio_of, show, turns

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, connect
from tieline.settings import ConnectionSettings

STREAM = "CALL_INTENT"
SUBJECT = "call.intent.book"
SLOTS = 256  # messages at once: our slots, FastStream's batch; natsio's consume() asks for its default of 500
AT_ONCE = 500  # publishes under way while loading
BARE = "natsio, json.loads"
FASTSTREAM = "FastStream, batches of 256"


class Book(Message, subject=SUBJECT):
    call_id: str
    phone: str
    slot: datetime


class BookModel(BaseModel):
    """The same for FastStream."""

    model_config = ConfigDict(alias_generator=to_camel)

    call_id: str
    phone: str
    slot: datetime


@dataclass(frozen=True, slots=True)
class Load:
    """The stored messages, and how many of them one round handles."""

    url: str
    messages: int
    for_slow: int
    numbers: Iterator[int]

    def durable(self) -> str:
        """A name for the consumer of one round."""
        return f"round-{next(self.numbers)}"


@dataclass(frozen=True, slots=True)
class Rate:
    """One round: messages a second of the clock, and microseconds of this process's CPU for a message."""

    per_second: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's medians. Ratios are of messages a second."""

    sync: str
    name: str
    per_second: float
    cpu_us: float
    of_natsio: float
    of_faststream: float


class Meter:
    """Counts handled messages; done after ``total``. The first one starts the clock."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._total = total
        self.done = asyncio.Event()
        self._began = (0.0, 0.0)

    def handled(self) -> None:
        """One more."""
        if self._left == self._total:
            self._began = (time.perf_counter(), time.process_time())
        self._left -= 1
        if self._left == 0:
            self.done.set()

    def rate(self) -> Rate:
        """From the first message until now."""
        clock, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        return Rate(self._total / clock, cpu / self._total * 1e6)


async def preload(bus: Bus, messages: int) -> None:
    """Store ``messages`` bookings."""

    async def some(numbers: range) -> None:
        for number in numbers:
            await bus.publish(Book(call_id=f"call-{number}", phone="+12065550123", slot=datetime.now(UTC)))

    await asyncio.gather(*(some(range(start, messages, AT_ONCE)) for start in range(AT_ONCE)))


async def bare(load: Load, read: Callable[[bytes], object]) -> Rate:
    """natsio's own loop."""
    async with await natsio.connect(load.url) as client:
        stream = await client.jetstream().stream(STREAM)
        config = ConsumerConfig(durable_name=load.durable(), filter_subject=SUBJECT, max_ack_pending=10_000)
        consumer = await stream.create_consumer(config)
        meter = Meter(load.messages)
        async with consumer.consume() as messages:
            async for message in messages:
                read(message.payload)
                await message.ack()
                meter.handled()
                if meter.done.is_set():
                    break
        await client.flush()
        rate = meter.rate()
        await consumer.delete()
        return rate


async def tieline(load: Load, slots: int, audit: bool) -> Rate:
    """An agent in a host."""
    meter = Meter(load.messages if slots == SLOTS else load.for_slow)
    pod = Pod("bench")
    name = load.durable()

    async def book(intent: Book, call: Conversation) -> None:  # noqa: ARG001 - a handler takes both
        meter.handled()

    pod.agent(name=name, limits=Limits(concurrency=slots))(book)
    async with connect(pod, settings=settings(load.url, audit)) as bus:
        await bus.apply()
        host = Host(bus, [name])
        running = asyncio.create_task(host.run())
        await meter.done.wait()
        rate = meter.rate()
        host.stop()
        await running
        await bus.connection.api(f"CONSUMER.DELETE.{STREAM}.{name}")
    return meter.rate() if audit else rate  # leaving it stored the last facts


async def faststream(load: Load, batch: int) -> Rate:
    """FastStream's pull subscriber."""
    meter = Meter(load.for_slow)
    broker = NatsBroker(load.url, logger=None)
    durable = load.durable()
    stream = JStream(STREAM, declare=False)

    @broker.subscriber(SUBJECT, stream=stream, durable=durable, pull_sub=PullSub(batch_size=batch))
    async def book(intent: BookModel) -> None:  # noqa: ARG001 - validating it is the work
        meter.handled()

    async with broker:
        await broker.start()
        await meter.done.wait()
        rate = meter.rate()
    async with await natsio.connect(load.url) as client:
        await (await client.jetstream().stream(STREAM)).delete_consumer(durable)
    return rate


def settings(url: str, audit: bool) -> Settings:
    return Settings(connection=ConnectionSettings(servers=(url,)), audit=audit)


def contenders(load: Load) -> list[Contender[Rate]]:
    def contender(name: str, run: Callable[..., Awaitable[Rate]], *given: object) -> Contender[Rate]:
        return Contender(name, partial(run, load, *given))

    return [
        contender("natsio, payload unread", bare, len),
        contender(BARE, bare, json.loads),
        contender(f"Tieline, {SLOTS} slots, audit off", tieline, SLOTS, False),
        contender(f"Tieline, {SLOTS} slots, audit on", tieline, SLOTS, True),
        contender("Tieline, default 8 slots, audit on", tieline, Limits().concurrency, True),
        contender(FASTSTREAM, faststream, SLOTS),
        contender("FastStream, default PullSub()", faststream, 1),
    ]


async def compare(sync: str, quick: bool) -> list[Row]:
    """One table."""
    async with embedded_server(sync) as url:
        load = Load(url, 5_000 if quick else 20_000, 1_000 if quick else 4_000, count(1))
        async with connect(Pod("bench"), settings=settings(url, audit=False)) as bus:
            await bus.apply()
            await preload(bus, load.messages + SLOTS)
        measured = await turns(contenders(load), 2 if quick else 4)
    return [
        Row(
            sync,
            name,
            per_second=median_of(rates, _per_second),
            cpu_us=median_of(rates, lambda rate: rate.cpu),
            of_natsio=ratio_of(rates, measured[BARE], _per_second),
            of_faststream=ratio_of(rates, measured[FASTSTREAM], _per_second),
        )
        for name, rates in measured.items()
    ]


def _per_second(rate: Rate) -> float:
    return rate.per_second


def table(rows: Sequence[Row]) -> str:
    head = ("", "of natsio", "of FastStream", "messages/s *", "CPU us/message *")
    cells = [
        (row.name, f"{row.of_natsio:.2f}", f"{row.of_faststream:.1f}", f"{row.per_second:,.0f}", f"{row.cpu_us:.1f}")
        for row in rows
    ]
    return lines(f'Handling stored messages, server with sync="{rows[0].sync}"', head, cells)


if __name__ == "__main__":
    uvloop.run(show("Messages an agent handles, beside bare natsio and FastStream.", compare, table))
