"""Delivery on a real server: who gets what, never more than fits, and slow is not dead."""

import asyncio
from typing import Any

import pytest
from support.messages import Book, Booked, Look, Turn
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings

from tieline import Conversation, Host, Limits, Pod, Stream, connect
from tieline.testing import Server, eventually
from tieline.wire import topology


async def idle(office: Office, stream: str, durable: str) -> dict[str, Any] | None:
    """The consumer, once it has nothing to deliver and nothing out."""
    info = await consumer_info(office.bus, stream, durable)
    return info if info["num_pending"] == info["num_ack_pending"] == 0 else None


async def test_a_typed_handler_gets_its_message(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[tuple[Book, str, str, int]] = []

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        assert call.started.tzinfo is not None
        got.append((intent, call.id, call.agent, call.attempt))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1", phone="1"))
        await eventually(lambda: got, what="the message")
        await eventually(lambda: idle(office, "CALL_INTENT", "booking"), what="its acknowledgement")
    assert got == [(Book(call_id="c1", phone="1"), "c1", "booking", 1)]


async def test_each_handler_of_an_agent_gets_its_own_and_no_agent_anothers(nats_server: Server) -> None:
    pod = Pod("office", streams=(Stream(name="TALK", subjects=("talk.turn.*",)),))
    got: list[tuple[str, str]] = []

    @pod.agent
    async def desk(intent: Book | Look, call: Conversation) -> None:
        got.append(("desk", f"{type(intent).__name__} {call.id}"))

    @desk.also
    async def turns(intent: Turn, call: Conversation) -> None:
        got.append(("turns", f"{intent.text} {call.id}"))

    @pod.agent
    async def other(_: Booked, call: Conversation) -> None:
        got.append(("other", call.id))

    async with at_work(pod, nats_server.url) as office:
        for message in (Book(call_id="c1"), Look(call_id="c2"), Turn(call_id="a.b", text="hi"), Booked(call_id="c3")):
            await office.bus.publish(message)
        await eventually(lambda: len(got) == 4, what="four messages")
    assert sorted(got) == [("desk", "Book c1"), ("desk", "Look c2"), ("other", "c3"), ("turns", "hi a.b")]


@pytest.mark.parametrize(
    ("payload", "headers", "conversation"),
    [
        (b'{"callId":"c1"}', None, "c1"),
        (b'{"callId":"a.b *"}', None, "a.b *"),
        (b'{"callId":"c1"}', {"Tieline-Conversation": "c2"}, "c2"),
        (b'{"callId":"c1"}', {"Tieline-Conversation": "c2", "Tieline-Conversation-Name": "somebody else"}, "c2"),
        (b'{"callId":"c1"}', {"Tieline-Conversation": "", "Tieline-Origin": "o1"}, "o-o1"),
        (b'{"call_id":"c1"}', {"Tieline-Origin": "o1"}, "o-o1"),
    ],
)
async def test_a_foreign_message_has_a_conversation_too(
    nats_server: Server, payload: bytes, headers: dict[str, str] | None, conversation: str
) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(call.id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.connection.request("call.intent.book", payload, headers)
        await eventually(lambda: got, what="the message")
    assert got == [conversation]


async def test_without_header_and_call_id_the_conversation_is_made_of_the_origin(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[tuple[str, str]] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append((call.id, call.origin))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.connection.request("call.intent.book", b'{"call_id":"c1"}')
        await office.bus.connection.request("call.intent.book", b'{"call_id":"c1"}')
        await eventually(lambda: len(got) == 2, what="both messages")
    assert [conversation for conversation, _ in got] == [f"o-{origin}" for _, origin in got]
    assert [origin.rsplit("-", 1)[0] for _, origin in got] == ["CALL_INTENT-1", "CALL_INTENT-2"]


@pytest.mark.parametrize("name", ["ä", "a.b", "x" * 300, "with space", "*", "b_", "日本" * 40, "\ud800", "a\nb: c"])
async def test_a_conversation_keeps_its_name_from_publish_to_publish(nats_server: Server, name: str) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(call.id)
        await call.publish(Booked(call_id="another"))

    @pod.agent
    async def after(_: Booked, call: Conversation) -> None:
        got.append(call.id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="another"), conversation=name)
        await eventually(lambda: len(got) == 2, what="both messages")
    assert got == [name, name]


async def test_never_more_held_than_slots_and_one_slow_message_stalls_nobody(nats_server: Server) -> None:
    pod = Pod("office")
    running: set[str] = set()
    most: list[int] = []
    done: list[str] = []
    release = asyncio.Event()

    @pod.agent(limits=Limits(concurrency=4))
    async def booking(intent: Book, _: Conversation) -> None:
        running.add(intent.call_id)
        most.append(len(running))
        await (release.wait() if intent.call_id == "slow" else asyncio.sleep(0.005))
        running.discard(intent.call_id)
        done.append(intent.call_id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="slow"))
        await eventually(lambda: "slow" in running, what="the slow one running")
        await asyncio.gather(*(office.bus.publish(Book(call_id=f"q{n}")) for n in range(60)))
        await eventually(lambda: len(done) == 60, what="all the others")
        assert running == {"slow"}
        release.set()
        await eventually(lambda: idle(office, "CALL_INTENT", "booking"), what="the slow one too")
    assert max(most) == 4
    assert len(done) == len(set(done)) == 61


async def test_a_full_agent_leaves_the_rest_to_others(nats_server: Server) -> None:
    pod = Pod("office")
    release = asyncio.Event()
    running: list[str] = []

    @pod.agent(limits=Limits(concurrency=2))
    async def booking(intent: Book, _: Conversation) -> None:
        running.append(intent.call_id)
        await release.wait()

    async with at_work(pod, nats_server.url) as office:
        for n in range(10):
            await office.bus.publish(Book(call_id=f"c{n}"))
        await eventually(lambda: len(running) == 2, what="two running")
        info = await consumer_info(office.bus, "CALL_INTENT", "booking")
        assert (info["num_ack_pending"], info["num_pending"], info["num_waiting"]) == (2, 8, 0)
        async with at_work(pod, nats_server.url):
            await eventually(lambda: len(running) == 4, what="two more in another process")
            release.set()
            await eventually(lambda: idle(office, "CALL_INTENT", "booking"), what="everything done")
    assert sorted(running) == [f"c{n}" for n in range(10)]


async def test_a_handler_of_three_ack_waits_is_delivered_once(nats_server: Server) -> None:
    pod = Pod("office")
    runs: list[float] = []
    done: list[int] = []
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    @pod.agent(limits=Limits(ack_wait=1.0))
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(loop.time())
        loop.call_later(3.0, over.set)  # three times as long as the server waits for a word
        await over.wait()
        done.append(call.attempt)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: done, what="the handler's end")
        info = await eventually(lambda: idle(office, "CALL_INTENT", "booking"), what="its acknowledgement")
        assert info["num_redelivered"] == 0
    assert done == [1]
    assert len(runs) == 1


async def test_two_agents_of_one_message_do_not_share_their_fate(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=2, first_retry=0.05, longest_retry=0.5))
    got: list[str] = []

    @pod.agent
    async def good(_: Book, call: Conversation) -> None:
        got.append(call.id)

    @pod.agent
    async def bad(_: Book, call: Conversation) -> None:
        raise ValueError(call.id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        letters = await eventually(lambda: dead_letters(office.bus), what="a dead letter")
    assert got == ["c1"]
    assert [letter.told["agent"] for letter in letters] == ["bad"]


async def test_stop_lets_running_handlers_finish_and_takes_nothing_more(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    running, done = asyncio.Event(), asyncio.Event()
    release = asyncio.Event()

    @pod.agent(limits=Limits(concurrency=1))
    async def booking(_: Book, __: Conversation) -> None:
        running.set()
        await release.wait()
        done.set()

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await office.bus.publish(Book(call_id="c2"))
        await running.wait()
        office.host.stop()
        release.set()
        await office.work
        assert done.is_set()
        info = await consumer_info(office.bus, "CALL_INTENT", "booking")
        assert (info["num_ack_pending"], info["num_pending"]) == (0, 1)


async def test_a_stop_that_comes_before_the_first_turn_is_a_stop(nats_server: Server) -> None:
    pod = Pod("office")

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        host = Host(bus, ["booking"])
        work = asyncio.create_task(host.run())
        host.stop()
        await eventually(work.done, what="the host's end")


async def test_cancellation_hands_back_at_once(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(ack_wait=60.0, drain=60.0))
    attempts: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        attempts.append(call.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        work = asyncio.create_task(Host(bus, ["booking"]).run())
        await bus.publish(Book(call_id="c1"))
        await eventually(lambda: attempts, what="the first run")
        work.cancel()
        await eventually(work.done, what="the host's end")
        assert work.cancelled()
        async with at_work(pod, nats_server.url) as office:
            await eventually(lambda: len(attempts) == 2, what="the second run")
            await eventually(lambda: idle(office, "CALL_INTENT", "booking"), what="its acknowledgement")
    assert attempts == [1, 2]
