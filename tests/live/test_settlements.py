"""A delivery is acknowledged after its fact is stored, and a stream that takes no facts makes them wait."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.crew import Job, crew
from support.guarded import address, guarded_server
from support.messages import Book
from support.office import QUICK, at_work, consumer_info, dead_letters, settings, stored
from support.processes import agents, lines

from tieline import Bus, Conversation, Denied, Host, Limits, NotAccepted, Pod, connect
from tieline.records.settlements import Settlements
from tieline.testing import Server, eventually


async def fill_audit(bus: Bus) -> None:
    """Leave CALL_AUDIT no room: one message is in it, and it takes no second one."""
    await bus.connection.request("call.audit.filler", b"{}")
    await change_audit(bus, max_msgs=1)


async def free_audit(bus: Bus) -> None:
    await change_audit(bus, max_msgs=-1)


async def change_audit(bus: Bus, **fields: Any) -> None:
    config = (await bus.connection.api("STREAM.INFO.CALL_AUDIT"))["config"]
    await bus.connection.api("STREAM.UPDATE.CALL_AUDIT", config | fields)


async def facts(bus: Bus, kind: str) -> list[dict[str, Any]]:
    told = [json.loads(fact.payload) for fact in await stored(bus, "call.audit.*")]
    return [fact for fact in told if fact.get("fact") == kind]


async def settled_by_records(bus: Bus) -> list[int]:
    """The sequences that settlement records name as done."""
    records = [Settlements.decode(one.payload) for one in await stored(bus, "call.audit")]
    return [seq for record in records for first, last in record.done for seq in range(first, last + 1)]


@pytest.mark.parametrize("audit", [True, False])
async def test_slots_are_free_and_acknowledgements_wait_while_the_audit_is_full(
    nats_server: Server, audit: bool
) -> None:
    pod, handled = Pod("office", limits=Limits(concurrency=2, ack_wait=1)), []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        handled.append(intent.call_id)

    async with at_work(pod, settings(nats_server.url, audit=audit), "booking") as office:
        await eventually(lambda: office.host.pulling.get("CALL_INTENT/booking"), what="a host that pulls")
        await fill_audit(office.bus)
        async with connect(pod, settings=settings(nats_server.url)) as client:
            for number in range(20):
                await client.publish(Book(call_id=f"c{number}"))
        await eventually(lambda: len(handled) == 20, what="ten times as many handled as there are slots")
        info = await consumer_info(office.bus, "CALL_INTENT", "booking")
        assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (20, 0)
        await free_audit(office.bus)

        async def acknowledged() -> bool:
            return int((await consumer_info(office.bus, "CALL_INTENT", "booking"))["ack_floor"]["stream_seq"]) == 20

        await eventually(acknowledged, what="their acknowledgement")
        if audit:
            told = await facts(office.bus, "settled")
            assert sorted(fact["seq"] for fact in told if fact["outcome"] == "done") == list(range(1, 21))
        else:
            assert sorted(await settled_by_records(office.bus)) == list(range(1, 21))
        assert sorted(handled) == sorted(f"c{number}" for number in range(20))  # leases held: nothing came again


@pytest.mark.parametrize("audit", ["on", "off"])
async def test_a_kill_before_the_fact_is_stored_means_another_run(
    nats_server: Server, tmp_path: Path, audit: str
) -> None:
    notes = tmp_path / "notes"
    async with connect(crew, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await fill_audit(bus)
        async with agents(nats_server.url, tmp_path / "log", "worker", TIELINE_AUDIT=audit) as worker:
            await bus.publish(Job(call_id="c1", notes=str(notes)))
            await eventually(lambda: "done c1" in lines(notes), what="its handler's end")
            await worker.kill()
        assert int((await consumer_info(bus, "CALL_INTENT", "worker"))["num_ack_pending"]) == 1
        await free_audit(bus)
        assert not await facts(bus, "settled")
        assert not await stored(bus, "call.audit")
        async with agents(nats_server.url, tmp_path / "log", "worker", TIELINE_AUDIT=audit):

            async def acknowledged() -> bool:
                return int((await consumer_info(bus, "CALL_INTENT", "worker"))["ack_floor"]["stream_seq"]) == 1

            await eventually(acknowledged, what="the acknowledgement")
        assert lines(notes).count("done c1") == 2
        if audit == "on":
            assert [(fact["seq"], fact["outcome"]) for fact in await facts(bus, "settled")] == [(1, "done")]
        else:
            assert await settled_by_records(bus) == [1]


async def test_a_dead_letter_is_acknowledged_after_its_fact(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None:
        raise ValueError("never")

    async with at_work(pod, settings(nats_server.url, audit=True), "booking") as office:
        await eventually(lambda: office.host.pulling.get("CALL_INTENT/booking"), what="a host that pulls")
        await fill_audit(office.bus)
        async with connect(pod, settings=settings(nats_server.url)) as client:
            await client.publish(Book(call_id="c1"))
        await eventually(lambda: dead_letters(office.bus), what="the letter")
        assert int((await consumer_info(office.bus, "CALL_INTENT", "booking"))["num_ack_pending"]) == 1
        await free_audit(office.bus)

        async def acknowledged() -> bool:
            return int((await consumer_info(office.bus, "CALL_INTENT", "booking"))["num_ack_pending"]) == 0

        await eventually(acknowledged, what="the acknowledgement")
        assert (await facts(office.bus, "settled"))[-1]["outcome"] == "dead"


async def test_a_process_that_is_stopped_acknowledges_everything_first(nats_server: Server) -> None:
    pod, handled = Pod("office"), []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        handled.append(intent.call_id)

    async with at_work(pod, settings(nats_server.url, audit=True), "booking") as office:
        for number in range(50):
            await office.bus.publish(Book(call_id=f"c{number}"))
        await eventually(lambda: handled, what="the first")
    before = len(handled)
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        assert [fact["outcome"] for fact in await facts(bus, "settled")].count("done") == before
    async with at_work(pod, settings(nats_server.url), "booking"):
        await eventually(lambda: len(set(handled)) == 50, what="the others")
    assert len(handled) == 50  # none of those that had been handled came again


async def test_a_publisher_that_closes_while_the_audit_is_full_loses_no_fact(nats_server: Server) -> None:
    pod = Pod("office")
    async with connect(pod, settings=settings(nats_server.url)) as owner:
        await owner.apply()
        await fill_audit(owner)

        async def publish_and_close() -> None:
            async with connect(pod, settings=settings(nats_server.url, audit=True)) as client:
                await asyncio.gather(*(client.publish(Book(call_id=f"c{n}")) for n in range(700)))

        closing = asyncio.create_task(publish_and_close())

        async def published() -> bool:
            return int((await owner.connection.api("STREAM.INFO.CALL_INTENT"))["state"]["messages"]) == 700

        await eventually(published, what="all messages")
        await free_audit(owner)
        await closing
        assert len(await facts(owner, "published")) == 700


async def test_a_publisher_waits_while_too_many_facts_wait(nats_server: Server) -> None:
    pod = Pod("office")
    async with connect(pod, settings=settings(nats_server.url)) as owner:
        await owner.apply()
        await fill_audit(owner)
        accepted = 0
        async with connect(pod, settings=settings(nats_server.url, audit=True, patience=5.0)) as client:

            async def publish_until_refused(at: int) -> None:
                nonlocal accepted
                with suppress(NotAccepted):
                    for number in range(10_000):
                        await client.publish(Book(call_id=f"c{at}-{number}"))
                        accepted += 1

            await asyncio.gather(*(publish_until_refused(at) for at in range(100)))
            assert 20_000 <= accepted < 21_000
            await free_audit(owner)
            await client.publish(Book(call_id="later"))
        told = await owner.connection.api("STREAM.INFO.CALL_AUDIT")
        assert told["state"]["messages"] == accepted + 2  # and the filler


@pytest.mark.nats(max_buffered_msgs=40)
async def test_facts_that_do_not_fit_into_one_batch_are_split(nats_server: Server) -> None:
    pod = Pod("office")
    async with connect(pod, settings=settings(nats_server.url)) as owner:
        await owner.apply()
        async with connect(pod, settings=settings(nats_server.url, audit=True)) as client:
            for _ in range(4):
                await asyncio.gather(*(client.publish(Book(call_id=f"c{n}")) for n in range(200)))
        assert len(await facts(owner, "published")) == 800


async def test_an_agent_that_may_not_record_what_it_handles_fails_before_it_handles_anything(tmp_path: Path) -> None:
    users = """
        { user: admin, password: admin },
        { user: a1, password: "s3cret", permissions: {
            publish: { deny: ["call.audit", "call.audit.>"] }, subscribe: { allow: [">"] } } }
    """
    pod, handled = Pod("office"), []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        handled.append(intent.call_id)

    with guarded_server(tmp_path / "nats", users) as data:
        at = await eventually(lambda: address(data), what="the server")
        async with (
            connect(pod, settings=settings(f"nats://admin:admin@{at}")) as owner,
            connect(pod, settings=settings(f"nats://a1:s3cret@{at}", audit=True)) as bus,
        ):
            await owner.apply()
            await owner.publish(Book(call_id="c1"))
            with pytest.raises(Denied, match=r"call\.audit"):
                await Host(bus, ["booking"]).run()
            assert handled == []
