"""The pull loop: never more than asked for, never in silence, and with no more rights than it needs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.guarded import address, guarded_server
from support.messages import Book, Booked
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import Bus, ConsumerGone, Conversation, Host, Limits, Pod, Unreachable, connect
from tieline.testing import Proxy, Server, eventually
from tieline.wire import topology
from tieline.wire.consumer import PullConsumer


@asynccontextmanager
async def applied(url: str) -> AsyncIterator[Bus]:
    pod = Pod("office", limits=Limits(ack_wait=60))

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(url)) as bus:
        await topology.apply(bus.connection, pod)
        yield bus


async def waiting_pulls(bus: Bus) -> int:
    return int((await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["num_waiting"])


async def fill(bus: Bus, many: int) -> None:
    for n in range(many):
        await bus.publish(Book(call_id=f"c{n}"))


async def test_between_one_and_most(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 10)
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        seen = [delivery.seq for delivery in await consumer.fetch(4)]
        while len(seen) < 10:
            batch = await consumer.fetch(4)
            assert 1 <= len(batch) <= 4
            seen += [delivery.seq for delivery in batch]
        assert seen == list(range(1, 11))
        await consumer.close()


@pytest.mark.parametrize("most", [1, 2, 5, 16])
async def test_no_more_than_most_are_ever_on_their_way(nats_server: Server, most: int) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 40)
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        held = 0
        for _ in range(8):
            if held == most:
                break
            held += len(await consumer.fetch(most - held))
            info = await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking")
            assert info["num_ack_pending"] <= most
        assert held == most
        await consumer.close()


async def test_what_nobody_took_is_handed_back_at_once(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 10)
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        asking = asyncio.create_task(consumer.fetch(10))
        await eventually(asking.done, what="the first deliveries")
        taken = await asking
        await eventually(lambda: pending(bus, 0), what="the others on their way")
        await consumer.close()
        for delivery in taken:
            await delivery.nak()
        other = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        seen = [delivery.seq for delivery in await other.fetch(10)]
        while len(seen) < 10:
            seen += [delivery.seq for delivery in await other.fetch(10)]
        assert sorted(seen) == list(range(1, 11))
        await other.close()


async def pending(bus: Bus, many: int) -> bool:
    return bool((await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["num_pending"] == many)


async def test_an_idle_loop_keeps_one_pull_waiting_and_sends_nothing(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        fetching = asyncio.create_task(consumer.fetch(8))
        await eventually(lambda: waiting_pulls(bus), what="the pull at the server")
        assert await waiting_pulls(bus) == 1
        await bus.publish(Book(call_id="c1"))
        await eventually(fetching.done, what="the delivery")
        await consumer.close()


async def test_a_consumer_that_never_was_is_said_so(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "nobody")
        with pytest.raises(ConsumerGone, match=r"'nobody' of stream 'CALL_INTENT'.*tieline plan"):
            await consumer.fetch(1)
        await consumer.close()


async def test_deleted_while_it_pulls(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        fetching = asyncio.create_task(consumer.fetch(8))
        await eventually(lambda: waiting_pulls(bus), what="the pull at the server")
        await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
        await eventually(fetching.done, what="the end of the fetch", within=5.0)
        assert isinstance(fetching.exception(), ConsumerGone)
        await consumer.close()


async def test_deleted_while_it_does_not_pull(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 1)
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        [delivery] = await consumer.fetch(1)
        await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
        await delivery.ack()
        with pytest.raises(ConsumerGone):
            async with asyncio.timeout(5.0):
                await consumer.fetch(1)
        await consumer.close()


async def test_the_stream_deleted_with_it(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        fetching = asyncio.create_task(consumer.fetch(8))
        await eventually(lambda: waiting_pulls(bus), what="the pull at the server")
        await bus.connection.api("STREAM.DELETE.CALL_INTENT")
        await eventually(fetching.done, what="the end of the fetch", within=5.0)
        assert isinstance(fetching.exception(), ConsumerGone)
        await consumer.close()


async def test_a_host_ends_with_consumer_gone(nats_server: Server) -> None:
    pod = Pod("office")

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        work = asyncio.create_task(Host(bus, ["booking"]).run())
        await eventually(lambda: waiting_pulls(bus), what="the pull at the server")
        await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
        await eventually(work.done, what="the host's end", within=5.0)
        assert isinstance(work.exception(), ConsumerGone)


async def test_a_closed_connection_ends_a_fetch(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
    with pytest.raises(Unreachable):
        await consumer.fetch(1)
    await consumer.close()


@pytest.mark.parametrize("fault", ["cut", "drop"])
async def test_a_fetch_goes_on_after_a_lost_connection(nats_server: Server, fault: str) -> None:
    async with applied(nats_server.url) as direct, Proxy(nats_server.url) as proxy, applied(proxy.url) as bus:
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        fetching = asyncio.create_task(consumer.fetch(8))
        await eventually(lambda: waiting_pulls(direct), what="the pull at the server")
        if fault == "cut":
            proxy.cut()

            async def noticed() -> bool:
                return not await waiting_pulls(direct)

            await eventually(noticed, what="the server drops the pull of the connection that is cut")
        else:
            proxy.drop_replies()
        proxy.heal()
        await direct.publish(Book(call_id="c1"))
        await eventually(fetching.done, what="the delivery")
        assert [delivery.seq for delivery in await fetching] == [1]
        await consumer.close()


async def test_a_consumer_made_anew_is_pulled_from_by_a_new_host(nats_server: Server) -> None:
    async with applied(nats_server.url) as bus:
        await fill(bus, 1)
        await bus.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
        await topology.apply(bus.connection, bus.pod)
        consumer = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        assert [delivery.seq for delivery in await consumer.fetch(5)] == [1]
        await consumer.close()


USERS = """
    { user: admin, password: admin }
    { user: a1, password: "s3cret", permissions: {
        publish: { allow: ["call.intent.booked", "tool.call.crm", "step.booking.>", "DLQ.booking.>", "call.audit",
            "$JS.API.CONSUMER.MSG.NEXT.CALL_INTENT.booking", "$JS.ACK.CALL_INTENT.booking.>",
            "$JS.API.CONSUMER.MSG.NEXT.CALL_INTENT.booking-resume", "$JS.ACK.CALL_INTENT.booking-resume.>",
            "$JS.API.CONSUMER.MSG.NEXT.STEP.booking-waker", "$JS.API.DIRECT.GET.CANCELLED",
            "$JS.API.DIRECT.GET.STEP.step.booking.>"] }
        subscribe: { allow: ["_INBOX_a1.>", "nudge.step.booking.>", "nudge.step.all.*.cancel.*"] } } }
"""


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    with guarded_server(tmp_path / "nats", USERS) as data:
        yield await eventually(lambda: address(data), what="the server's address")


async def test_an_agent_with_least_privilege_and_an_inbox_of_its_own(guarded: str) -> None:
    pod = Pod("office", limits=QUICK)
    got: list[tuple[int, str]] = []

    @pod.tool
    async def crm(phone: str) -> str:
        return f"lead-{phone}"

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        lead = await call.tool(crm, intent.phone)
        await call.publish(Booked(call_id=call.id, lead=lead))
        got.append((call.attempt, lead))
        if intent.call_id == "again" and call.attempt == 1:
            raise ValueError("to be delivered again")
        if intent.call_id == "dead":
            raise ValueError("until it is dead")

    async with (
        at_work(pod, f"nats://admin:admin@{guarded}", "tools") as office,
        connect(pod, settings=settings(f"nats://a1:s3cret@{guarded}", inbox_prefix="_INBOX_a1")) as bus,
    ):
        host = Host(bus, ["booking"])
        work = asyncio.create_task(host.run())
        await office.bus.publish(Book(call_id="c1", phone="1"))
        await eventually(lambda: got == [(1, "lead-1")], what="the first message")
        await office.bus.publish(Book(call_id="again", phone="2"))
        await eventually(lambda: got[1:] == [(1, "lead-2"), (2, "lead-2")], what="a second run", within=20)
        assert len(await stored(office.bus, "call.intent.booked")) == 2
        await office.bus.publish(Book(call_id="dead", phone="3"))
        await eventually(lambda: dead_letters(office.bus), what="a dead letter")
        assert not work.done()
        host.stop()
        await work


async def test_an_agent_that_may_not_ask_hears_of_the_deletion_all_the_same(guarded: str) -> None:
    async with (
        applied(f"nats://admin:admin@{guarded}") as direct,
        connect(direct.pod, settings=settings(f"nats://a1:s3cret@{guarded}", inbox_prefix="_INBOX_a1")) as bus,
    ):
        work = asyncio.create_task(Host(bus, ["booking"]).run())
        await eventually(lambda: waiting_pulls(direct), what="the pull at the server")
        await direct.connection.api("CONSUMER.DELETE.CALL_INTENT.booking")
        await eventually(work.done, what="the host's end", within=4.0)
        assert isinstance(work.exception(), ConsumerGone)
