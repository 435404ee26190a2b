"""A server that dies, freezes or stays away while there is work."""

import asyncio
import time

import pytest
from support.messages import Book, Booked
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings, stored

from tieline import Conversation, Host, Limits, Pod, Unreachable, connect
from tieline.runtime.history import Copy, History
from tieline.testing import Proxy, Server, eventually
from tieline.wire import topology
from tieline.wire.consumer import PullConsumer


async def quiet(office: Office, durable: str) -> bool:
    info = await consumer_info(office.bus, "CALL_INTENT", durable)
    return bool(info["num_pending"] == info["num_ack_pending"] == 0)


async def more_than(many: int, got: list[str]) -> None:
    await eventually(lambda: len(set(got)) > many, what=f"more than {many} handled")


def busy_pod() -> tuple[Pod, list[str], list[str]]:
    """Two agents in a row with a tool between them; what the first and what the second handled."""
    pod = Pod("office", limits=Limits(ack_wait=2.0, concurrency=16, first_retry=0.1, longest_retry=0.5))
    first: list[str] = []
    second: list[str] = []

    @pod.tool
    async def crm(phone: str) -> str:
        return f"lead-{phone}"

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        lead = await call.tool(crm, intent.phone)
        await call.publish(Booked(call_id=call.id, lead=lead))
        first.append(call.id)

    @pod.agent
    async def after(intent: Booked, _: Conversation) -> None:
        second.append(intent.call_id)

    return pod, first, second


async def publish_all(office: Office, many: int) -> list[str]:
    return await asyncio.gather(*(office.bus.publish(Book(call_id=f"c{n}", phone=str(n))) for n in range(many)))


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_all_messages_are_handled_through_the_death_or_a_freeze_of_the_server(
    nats_server: Server, fault: str
) -> None:
    pod, first, second = busy_pod()
    many = 150
    async with at_work(pod, settings(nats_server.url, patience=30.0)) as office:
        publishing = asyncio.create_task(publish_all(office, many))
        await eventually(lambda: len(second) > 10, what="some work done", every=0.001)
        if fault == "kill":
            nats_server.kill()
            await nats_server.restart()
        else:
            nats_server.pause()
            frozen = time.monotonic()
            await eventually(lambda: time.monotonic() - frozen > 6.0, what="six seconds", every=0.1)
            nats_server.resume()
        await publishing
        await eventually(lambda: len(set(second)) == many, what="everything handled", within=30)
        await eventually(lambda: quiet(office, "booking"), what="the first agent's acknowledgements", within=15)
        await eventually(lambda: quiet(office, "after"), what="the second agent's acknowledgements", within=15)
        assert await dead_letters(office.bus) == []
        booked = await stored(office.bus, "call.intent.booked")
        assert len(await stored(office.bus, "step.booking.*.tool.*")) == many
    assert len(booked) == many  # what was handled twice was published once
    assert {message.headers["Tieline-Conversation"] for message in booked} == {f"c{n}" for n in range(many)}
    assert set(first) == {f"c{n}" for n in range(many)}


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_server_that_stays_away_is_an_error_and_no_spin(nats_server: Server, fault: str) -> None:
    pod = Pod("office", limits=QUICK)
    handling = asyncio.Event()

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None:
        handling.set()
        await asyncio.Event().wait()

    chosen = settings(nats_server.url, reconnect=1.5, ping_interval=0.2, connect_timeout=0.5, request_timeout=0.5)
    async with connect(pod, settings=chosen) as bus:
        await topology.apply(bus.connection, pod)
        work = asyncio.create_task(Host(bus, ["booking"]).run())
        await bus.publish(Book(call_id="c1"))
        await handling.wait()
        spent = time.process_time()
        if fault == "kill":
            nats_server.kill()
        else:
            nats_server.pause()
        try:
            await eventually(work.done, what="the host's end", within=20)
        finally:
            if fault == "freeze":
                nats_server.resume()
        assert time.process_time() - spent < 1.5
        error = work.exception()
        assert isinstance(error, Unreachable)
        assert [part for part in (nats_server.url, "1.5 s", "TIELINE_RECONNECT") if part not in str(error)] == []


async def test_a_server_that_comes_back_in_time_is_no_error(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        got.append(intent.call_id)

    async with at_work(pod, settings(nats_server.url, reconnect=20.0)) as office:
        for n in range(3):
            nats_server.kill()
            await nats_server.restart()
            await office.bus.publish(Book(call_id=f"c{n}"))
            await more_than(n, got)
        assert not office.bus.connection.lost.done()
    # The server may be killed between the end of a handler and its acknowledgement: then the message comes again.
    assert list(dict.fromkeys(got)) == ["c0", "c1", "c2"]


async def test_a_wire_that_breaks_again_and_again_loses_nothing_and_holds_no_more_than_fits(
    nats_server: Server,
) -> None:
    pod = Pod("office", limits=Limits(concurrency=4, ack_wait=2.0))
    running: set[int] = set()
    most: list[int] = []
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        mark = len(most)
        running.add(mark)
        most.append(len(running))
        await asyncio.sleep(0.02)
        running.discard(mark)
        got.append(intent.call_id)

    async with Proxy(nats_server.url) as proxy, at_work(pod, proxy.url) as office:
        async with connect(pod, settings=settings(nats_server.url)) as direct:
            for n in range(120):
                await direct.publish(Book(call_id=f"c{n}"))
        for fault in (proxy.cut, proxy.drop_replies, proxy.cut):
            await more_than(len(set(got)) + 20, got)
            fault()
            proxy.heal()
        await eventually(lambda: len(set(got)) == 120, what="everything handled", within=20)
        await eventually(lambda: quiet(office, "booking"), what="everything acknowledged", within=10)
        assert await dead_letters(office.bus) == []
    assert max(most) <= 4


async def test_a_suspect_that_runs_alone_may_call_a_tool_of_the_same_process(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    attempts: list[int] = []
    got: list[str] = []

    @pod.tool
    async def crm(name: str) -> str:
        return name.upper()

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        attempts.append(call.attempt)
        got.append(await call.tool(crm, call.id))

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        await bus.publish(Book(call_id="c1"))
        # Somebody took it, died, was given it again, began, and died again.
        somebody = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        [taken] = await somebody.fetch(1)
        await taken.nak()
        await somebody.close()
        [message] = await stored(bus, "call.intent.book")
        history = History(bus.journal, "somebody:1", ("booking", "c1", message.origin, ""), Copy(message.seq))
        assert await history.begin(await history.past(), 2, alone=False)
    async with at_work(pod, nats_server.url):
        await eventually(lambda: got, what="the tool's result")
    assert got == ["C1"]
    assert attempts == [3]
