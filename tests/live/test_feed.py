"""Feeds: everything in order, without gaps, through the death of a server; and nothing settled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

import pytest
from support.messages import Book, Look
from support.office import consumer_info, settings, stored

from tieline import Bus, NotApplied, Pod, connect
from tieline.testing import Proxy, Server, eventually
from tieline.wire import topology
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed


@asynccontextmanager
async def applied(url: str) -> AsyncIterator[Bus]:
    pod = Pod("office")
    async with connect(pod, settings=settings(url)) as bus:
        await topology.apply(bus.connection, pod)
        yield bus


async def fill(bus: Bus, first: int, last: int) -> None:
    for n in range(first, last):
        await bus.publish(Book(call_id=f"c{n}"))


class Reader:
    """Reads a feed in a task of its own."""

    def __init__(self, feed: Feed) -> None:
        self.seen: list[Delivery] = []
        self.task = asyncio.create_task(self._read(feed))

    async def _read(self, feed: Feed) -> None:
        async with aclosing(aiter(feed)) as deliveries:  # type: ignore[type-var]
            async for delivery in deliveries:
                self.seen.append(delivery)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def sequences(self) -> list[int]:
        return [delivery.seq for delivery in self.seen]


async def test_to_the_end_and_no_further(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        assert await stored(bus, "call.intent.*") == []
        await fill(bus, 0, 600)  # more than one pull
        await bus.publish(Look(call_id="l"))
        books = await stored(bus, "call.intent.book")
        assert [delivery.seq for delivery in books] == list(range(1, 601))
        assert len(await stored(bus, "call.intent.*")) == 601


@pytest.mark.parametrize("left", [0, 1])
async def test_what_is_deleted_while_it_is_read_is_not_waited_for(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """It was counted when the reading began."""
    async with applied(nats_server.url) as bus:
        await fill(bus, 0, 3)
        fetch = PullConsumer.fetch

        async def late(consumer: PullConsumer, most: int) -> list[Delivery]:
            await bus.connection.api("STREAM.PURGE.CALL_INTENT", {"keep": left} if left else {})
            monkeypatch.setattr(PullConsumer, "fetch", fetch)
            return await consumer.fetch(most)

        monkeypatch.setattr(PullConsumer, "fetch", late)
        async with asyncio.timeout(20):
            assert len(await stored(bus, "call.intent.book")) == left


async def test_a_last_message_that_is_lost_on_the_way_is_read_again(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 0, 3)
        fetch = PullConsumer.fetch
        lost: list[Delivery] = []

        async def lossy(consumer: PullConsumer, most: int) -> list[Delivery]:
            found = await fetch(consumer, most)
            if not lost and found[-1].seq == 3:
                lost.append(found.pop())
                return found or await fetch(consumer, most)
            return found

        monkeypatch.setattr(PullConsumer, "fetch", lossy)
        async with asyncio.timeout(20):
            assert [one.seq for one in await stored(bus, "call.intent.book")] == [1, 2, 3]
        assert lost


async def test_from_a_sequence_or_a_time(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 0, 5)
        second = [d async for d in bus.feed("call.intent.book", start=4, to_end=True)]
        assert [delivery.seq for delivery in second] == [4, 5]
        since = datetime.fromtimestamp(second[0].stored - 1e-5, UTC)
        timed = [d async for d in bus.feed("call.intent.book", start=since, to_end=True)]
        assert [delivery.seq for delivery in timed][-2:] == [4, 5]


async def test_messages_are_typed_and_what_does_not_fit_is_passed_over(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await bus.connection.request("call.intent.book", b"not json")
        await bus.publish(Book(call_id="c1"))
        assert [m async for m in bus.messages(Book, start=1, to_end=True)] == [Book(call_id="c1")]


async def test_what_comes_from_now_on(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 0, 3)
        reader = Reader(bus.feed("call.intent.book"))
        await eventually(lambda: feeds(bus), what="the feed's consumer")
        await fill(bus, 3, 6)
        await eventually(lambda: len(reader.seen) == 3, what="three messages")
        await reader.stop()
        assert reader.sequences == [4, 5, 6]


async def feeds(bus: Bus) -> list[str]:
    """The feeds that the server holds on CALL_INTENT."""
    infos = await topology.consumer_infos(bus.connection, "CALL_INTENT")
    return [info["name"] for info in infos if info["name"].startswith("feed-")]


@pytest.mark.parametrize("read_before", [0, 40])
async def test_a_feed_has_no_gap_over_the_death_of_the_server(nats_server: Server, read_before: int) -> None:
    async with applied(nats_server.url) as bus:
        reader = Reader(bus.feed("call.intent.book"))
        await eventually(lambda: feeds(bus), what="the feed's consumer")
        await fill(bus, 0, read_before)
        await eventually(lambda: len(reader.seen) == read_before, what="what was there before")
        nats_server.kill()
        await nats_server.restart()
        await fill(bus, read_before, 100)
        await eventually(lambda: len(reader.seen) == 100, what="all messages")
        await reader.stop()
        assert reader.sequences == list(range(1, 101))


async def test_a_feed_over_a_lossy_wire_has_no_gap_and_no_repeat(nats_server: Server) -> None:
    async with applied(nats_server.url) as writer, Proxy(nats_server.url) as proxy, applied(proxy.url) as bus:
        reader = Reader(bus.feed("call.intent.book", start=1))
        for cut in range(3):
            await fill(writer, cut * 50, cut * 50 + 25)
            proxy.drop_replies()
            await fill(writer, cut * 50 + 25, cut * 50 + 50)
            proxy.heal()
        await eventually(lambda: len(reader.seen) >= 150, what="all messages", within=60)
        await reader.stop()
        assert reader.sequences == list(range(1, 151))


async def test_the_last_messages_are_not_lost_with_a_connection(nats_server: Server) -> None:
    """Nothing comes after them that would show the gap."""
    async with applied(nats_server.url) as writer, Proxy(nats_server.url) as proxy, applied(proxy.url) as bus:
        reader = Reader(bus.feed("call.intent.book", start=1))
        await fill(writer, 0, 25)
        await eventually(lambda: len(reader.seen) == 25, what="the first ones")
        proxy.drop_replies()
        await fill(writer, 25, 50)
        [consumer] = await names_of_consumers(writer)
        await eventually(lambda: all_sent(writer, consumer), what="all to be on their way")
        proxy.heal()
        await eventually(lambda: len(reader.seen) >= 50, what="the last ones")
        await reader.stop()
        assert reader.sequences == list(range(1, 51))


async def names_of_consumers(bus: Bus) -> list[str]:
    return list((await bus.connection.api("CONSUMER.NAMES.CALL_INTENT"))["consumers"])


async def all_sent(bus: Bus, consumer: str) -> bool:
    return not (await consumer_info(bus, "CALL_INTENT", consumer))["num_pending"]


async def test_a_feed_acknowledges_nothing_and_disturbs_no_agent(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        config = {"durable_name": "booking", "ack_policy": "explicit", "filter_subject": "call.intent.book"}
        await bus.connection.api(
            "CONSUMER.CREATE.CALL_INTENT.booking", {"stream_name": "CALL_INTENT", "config": config}
        )
        await fill(bus, 0, 3)
        assert len(await stored(bus, "call.intent.book")) == 3
        info = await consumer_info(bus, "CALL_INTENT", "booking")
        assert (info["num_pending"], info["num_ack_pending"]) == (3, 0)


async def test_a_stream_that_is_not_there_is_said_so(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        with pytest.raises(NotApplied, match="CALL_INTENT does not exist; `tieline apply`"):
            await stored(bus, "call.intent.book")


async def test_headers_alone(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 0, 1)
        feed = Feed(bus.connection, "CALL_INTENT", ["call.intent.*"], start=1, to_end=True, headers_only=True)
        [delivery] = [d async for d in feed]
        assert delivery.payload == b""
        assert delivery.headers["Nats-Msg-Size"] == str(len(b'{"callId":"c0","phone":""}'))
