"""Delayed messages: kept by the server, safe from its death."""

import json
from datetime import timedelta

import pytest
from support.messages import Book, Booked, Brief
from support.office import QUICK, at_work, settings, stored

from tieline import BadDeclaration, Conversation, Message, Pod, Stream, connect
from tieline.testing import Server, eventually
from tieline.wire import topology


class Ping(Message, subject="ping.it"):
    call_id: str


async def test_a_delayed_message_arrives_when_it_is_due_with_its_conversation(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[tuple[str, str]] = []

    @pod.agent
    async def booking(intent: Book | Brief, call: Conversation) -> None:
        got.append((intent.call_id, call.id))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="later"), conversation="a b", after=1.0)
        await office.bus.publish(Brief(call_id="brief"), after=timedelta(seconds=1))
        await office.bus.publish(Book(call_id="now"))
        await eventually(lambda: got, what="the one that is due")
        assert got == [("now", "now")]
        await eventually(lambda: len(got) == 3, what="all")
        [brief] = await stored(office.bus, "call.intent.brief")
        assert brief.headers.get("Nats-TTL") == "20"
    assert sorted(got) == [("brief", "brief"), ("later", "a b"), ("now", "now")]


async def test_the_same_id_is_delayed_once(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        got.append(intent.call_id)

    async with at_work(pod, nats_server.url) as office:
        for _ in range(3):
            await office.bus.publish(Book(call_id="c1"), id="one", after=1.0)
        await office.bus.publish(Book(call_id="c2"), id="two", after=1.2)
        await eventually(lambda: "c2" in got, what="the later one")
    assert got == ["c1", "c2"]


async def test_a_handlers_delayed_publish_is_not_repeated_by_its_second_run(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    got: list[str] = []
    runs: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.publish(Booked(call_id="c1"), after=1.0)
        runs.append(call.attempt)
        if call.attempt == 1:
            raise ValueError

    @pod.agent
    async def after(intent: Booked, _: Conversation) -> None:
        got.append(intent.call_id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: got, what="what was delayed")
        assert len(await stored(office.bus, "due.>")) == len(await stored(office.bus, "call.intent.booked")) == 1
    assert runs == [1, 2]


async def test_a_delayed_message_survives_the_death_of_the_server(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        got.append(f"{intent.call_id} {call.id}")

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        await bus.publish(Book(call_id="c1"), after=1.0)
        await bus.publish(Book(call_id="c2"), after=2.5)
    nats_server.kill()
    await nats_server.restart()
    async with at_work(pod, nats_server.url) as office:
        await eventually(lambda: len(got) == 2, what="both")
        assert [json.loads(d.payload)["callId"] for d in await stored(office.bus, "call.intent.book")] == ["c1", "c2"]
    assert got == ["c1 c1", "c2 c2"]


async def test_a_delay_that_no_stream_would_deliver_is_refused(nats_server: Server) -> None:
    pod = Pod("office", streams=(Stream(name="PING", subjects=("ping.*",), delays=False),))
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        with pytest.raises(BadDeclaration, match="delays"):
            await bus.publish(Ping(call_id="c1"), after=1.0)
        await bus.publish(Ping(call_id="c1"))
        assert len(await stored(bus, "ping.it")) == 1


async def test_a_new_server_delivers_the_first_delayed_message_at_once(nats_server: Server) -> None:
    """SCHEDULE is made first: the server would look for a missing source only ten seconds later."""
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
        assert [source.get("error") for source in info["sources"]] == [None, None]
