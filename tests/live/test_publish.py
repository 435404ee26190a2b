"""Accepted means kept: publish returns after the PubAck, tries again with the same id, and then raises."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import natsio
import pytest
from support.messages import Book
from support.office import settings, stored

from tieline import (
    BadDeclaration,
    Bus,
    Message,
    NotAccepted,
    Pod,
    Settings,
    Stream,
    Unconfirmed,
    Unreachable,
    connect,
)
from tieline.testing import Proxy, Server, eventually
from tieline.wire import topology
from tieline.wire.connection import NoAnswer


class Elsewhere(Message, subject="nowhere.at.all"):
    call_id: str


class Ping(Message, subject="ping.it", ttl="60s"):
    call_id: str


@asynccontextmanager
async def applied(at: str | Settings) -> AsyncIterator[Bus]:
    pod = Pod("office")
    async with connect(pod, settings=settings(at) if isinstance(at, str) else at) as bus:
        await topology.apply(bus.connection, pod)
        yield bus


async def test_what_is_stored_is_what_was_said(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        given = await bus.publish(Book(call_id="c1", phone="1"), id="mine")
        made = await bus.publish(Book(call_id="c2"), conversation="c9")
        first, second = await stored(bus, "call.intent.book")
    assert (given, len(made)) == ("mine", 32)
    assert json.loads(first.payload) == {"callId": "c1", "phone": "1"}
    assert dict(first.headers) == {"Nats-Msg-Id": "mine", "Tieline-Conversation": "c1"}
    assert second.headers["Tieline-Conversation"] == "c9"


async def test_the_same_id_is_stored_once(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        for _ in range(3):
            assert await bus.publish(Book(call_id="c1"), id="same") == "same"
        assert len(await stored(bus, "call.intent.book")) == 1


async def test_a_stream_that_is_made_late_is_waited_for(nats_server: Server) -> None:
    pod = Pod("office")
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        publishing = asyncio.create_task(bus.publish(Book(call_id="c1")))
        await eventually(lambda: bus.publisher.retries >= 2, what="two more tries")
        assert not publishing.done()
        await topology.apply(bus.connection, pod)
        await publishing
        assert len(await stored(bus, "call.intent.book")) == 1


async def test_nobody_answers_and_patience_ends(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url, patience=0.3)) as bus:
        with pytest.raises(Unconfirmed) as refused:
            await bus.publish(Book(call_id="c1"))
    assert refused.value.subject == "call.intent.book"
    assert refused.value.err_code == 0
    assert [part for part in ("call.intent.book", "0.3 s", "tieline plan") if part not in str(refused.value)] == []


async def test_a_subject_that_no_stream_of_the_pod_stores_is_refused_at_once(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        with pytest.raises(BadDeclaration, match=r"nowhere\.at\.all"):
            await bus.publish(Elsewhere(call_id="c1"))


@pytest.mark.nats(max_buffered_msgs=1, sync="always")
async def test_an_ingest_limit_is_waited_out(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        ids = await asyncio.gather(*(bus.publish(Book(call_id=f"c{n}")) for n in range(200)))
        assert bus.publisher.retries > 0  # the server did answer 429
        kept = await stored(bus, "call.intent.book")
    assert sorted(delivery.headers["Nats-Msg-Id"] for delivery in kept) == sorted(ids)


async def test_an_acknowledgement_that_got_lost_is_asked_for_again_and_the_message_stored_once(
    nats_server: Server,
) -> None:
    async with applied(nats_server.url) as direct, Proxy(nats_server.url) as proxy, applied(proxy.url) as bus:
        proxy.drop_replies()
        publishing = asyncio.create_task(bus.publish(Book(call_id="c1"), id="one"))
        await eventually(lambda: stored(direct, "call.intent.book"), what="the message stored")
        assert not publishing.done()
        proxy.heal()
        await publishing
        assert bus.publisher.retries > 0
        assert len(await stored(direct, "call.intent.book")) == 1


async def test_a_server_that_dies_under_publishes_loses_none_that_returned(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        publishing = [asyncio.create_task(bus.publish(Book(call_id=f"c{n}"), id=f"i{n}")) for n in range(300)]
        await eventually(lambda: any(task.done() for task in publishing), what="the first acknowledgement", every=0.001)
        nats_server.kill()
        await nats_server.restart()
        await asyncio.gather(*publishing)
        kept = await stored(bus, "call.intent.book")
    assert sorted(delivery.headers["Nats-Msg-Id"] for delivery in kept) == sorted(f"i{n}" for n in range(300))


@pytest.mark.nats(max_payload=64 * 1024)
@pytest.mark.parametrize("size", [65_500, 70_000])
async def test_a_payload_larger_than_the_server_takes_travels_beside_it(nats_server: Server, size: int) -> None:
    async with applied(nats_server.url) as bus:
        reconnects: list[int] = []
        bus.connection.on_reconnect.append(lambda: reconnects.append(1))
        await bus.publish(Book(call_id="c1", phone="x" * size))
        await bus.publish(Book(call_id="c2"))
        beside, plain = await stored(bus, "call.intent.book")
        assert "Tieline-Object" in beside.headers
        assert "Tieline-Object" not in plain.headers
        assert reconnects == []


async def test_the_largest_payload_that_fits_is_taken(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        headers = {"Nats-Msg-Id": "one", "X": "ä"}
        room = bus.connection.max_payload - len(b"NATS/1.0\r\nNats-Msg-Id: one\r\nX: \xc3\xa4\r\n\r\n")
        await bus.publisher.publish("call.intent.book", b"x" * room, headers)
        with pytest.raises(NotAccepted):
            await bus.publisher.publish("call.intent.book", b"x" * (room + 1), headers)
        assert bus.connection.connected


async def test_what_the_stream_refuses_is_raised_at_once_with_its_words(nats_server: Server) -> None:
    pod = Pod("office", streams=(Stream(name="PING", subjects=("ping.*",), ttls=False),))
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        with pytest.raises(NotAccepted, match="TTL") as refused:
            await bus.publish(Ping(call_id="c1"))
    assert refused.value.err_code == 10166


@pytest.mark.parametrize("odd", ["a\nb", "a\r\nNats-Rollup: all", "\ud800"])
async def test_an_id_that_no_header_can_hold_is_refused(nats_server: Server, odd: str) -> None:
    async with applied(nats_server.url) as bus:
        with pytest.raises(NotAccepted, match="cannot be sent"):
            await bus.publish(Book(call_id="c1"), id=odd)


@pytest.mark.parametrize("answer", [b"", b"hello", b"[]", b"7", b"{}", b'{"stream":"S"}', b'{"error":"no"}'])
async def test_an_answer_that_is_no_acknowledgement_is_not_taken_for_one(nats_server: Server, answer: bytes) -> None:
    client = await natsio.connect(nats_server.url)

    async def reply(received: natsio.Msg) -> None:
        assert received.reply is not None
        await client.publish(received.reply, answer)

    client.subscribe("call.intent.book", cb=reply)
    await client.flush()
    async with connect(Pod("office"), settings=settings(nats_server.url, patience=0.3)) as bus:
        with pytest.raises(NotAccepted):
            await bus.publish(Book(call_id="c1"))
    await client.close()


async def test_a_cancelled_publish_leaves_nothing_behind(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        publishing = asyncio.create_task(bus.publish(Book(call_id="c1")))
        await eventually(lambda: bus.publisher.retries, what="a try")
        publishing.cancel()
        await asyncio.wait([publishing])
        assert publishing.cancelled()


async def test_no_server_is_an_error_that_says_where(nats_server: Server) -> None:
    url = nats_server.url
    await nats_server.stop()
    with pytest.raises(Unreachable) as refused:
        async with connect(Pod("office"), settings=settings(url.replace("nats://", "nats://me:secret@"))):
            pass
    assert url in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "tieline up" in str(refused.value)


async def test_a_closed_bus_is_unreachable(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        pass
    with pytest.raises(Unreachable):
        await bus.publish(Book(call_id="c1"))


async def test_a_buffer_without_room_breaks_nothing_while_the_server_is_away(nats_server: Server) -> None:
    """An agent that goes on for minutes without its server has more to say than the connection keeps for it."""
    async with applied(nats_server.url) as bus:
        nats_server.kill()
        await eventually(lambda: not bus.connection.connected, what="the loss to be noticed")
        for _ in range(80):
            await bus.connection.send("nobody.listens", b"x" * 200_000)
        with pytest.raises(NoAnswer):
            await bus.connection.request_all("$JS.API.DIRECT.GET.STEP", b"{}")
        await nats_server.restart()
        assert await bus.publish(Book(call_id="c1"))


async def test_twenty_thousand_publishes_at_once_wait_for_their_turn(nats_server: Server) -> None:
    """Patience is shorter than all of them take together: it begins when a publish is sent, not while it waits."""
    pod = Pod("office")
    async with connect(pod, settings=settings(nats_server.url, patience=4.0)) as bus:
        await bus.apply()
        await asyncio.gather(*(bus.publish(Book(call_id=f"c{number}")) for number in range(20_000)))
        state = (await bus.connection.api("STREAM.INFO.CALL_INTENT"))["state"]
        assert state["messages"] == 20_000
