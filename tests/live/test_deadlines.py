"""A deadline travels with the work, ends what runs, and outlives no retry. Long retries hold nothing meanwhile."""

import asyncio
import json
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from support.messages import Book, Booked, Look
from support.office import QUICK, at_work, consumer_info, dead_letters, stored

from tieline import Bus, Conversation, Limits, Message, Pod, ToolRun
from tieline.testing import Server, eventually
from tieline.wire.delivery import Delivery


class Quote(Message, subject="call.intent.quote", ttl="1h"):
    call_id: str


async def test_a_deadline_travels_over_every_hop(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[datetime | None] = []

    @pod.tool
    async def crm(run: ToolRun) -> str:
        told.append(run.deadline)
        return "lead"

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        told.append(call.deadline)
        await call.tool(crm)
        await call.publish(Booked(call_id=message.call_id))
        await call.ask(Quote(call_id=message.call_id), expects=Booked)

    @pod.agent
    async def quoter(message: Quote, call: Conversation) -> None:
        told.append(call.deadline)
        await call.reply(Booked(call_id=message.call_id))
        told.append(call.deadline)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"), deadline=timedelta(seconds=30))
        await eventually(lambda: len(told) == 4, what="the reply")
        hops = [
            (await stored(office.bus, subject))[0].headers
            for subject in ("call.intent.book", "tool.call.crm", "call.intent.booked", "call.intent.quote")
        ]
    assert len({headers["Tieline-Deadline"] for headers in hops}) == 1
    assert {deadline.isoformat(timespec="milliseconds") for deadline in told if deadline} == {
        hops[0]["Tieline-Deadline"]
    }
    assert 25 <= int(hops[3]["Nats-TTL"]) <= 30, "an hour, but for the deadline"


async def test_running_work_ends_at_the_deadline(nats_server: Server) -> None:
    """The handler and the tool that it waits for are cancelled; both say why."""
    pod = Pod("office", limits=QUICK)
    cancelled: list[str] = []

    async def endless(who: str) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(who)
            raise

    @pod.tool
    async def crm() -> None:
        await endless("tool")

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call.tool(crm))
            group.create_task(call.step("endless", endless, "step"))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"), deadline=0.4)

        async def letters() -> list[Any]:
            found = await dead_letters(office.bus)
            return found if len(found) == 2 else []

        found = await eventually(letters, what="the dead letters of the message and of the tool's call")
        [record] = await stored(office.bus, "step.booking.*.tool.*")
    assert sorted(cancelled) == ["step", "tool"]
    assert {letter.told["agent"]: letter.told["cause"] for letter in found} == {
        "booking": "deadline",
        "tool-crm": "deadline",
    }
    assert json.loads(record.payload)["cause"] == "deadline"


async def test_no_retry_outlives_the_deadline(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(first_retry=0.1, longest_retry=10.0, attempts=50))
    runs: list[float] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        assert call.due is not None
        runs.append(call.due - time.time())
        raise ConnectionError("the CRM is away")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"), deadline=0.8)
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert letter.told["cause"] == "expired"
    assert "the CRM is away" in letter.told["reason"]
    assert len(letter.told["attempts"]) == len(runs) < 5
    assert min(runs) > 0


async def test_a_parked_message_ends_at_its_deadline(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.ask_human("Shall we?")

    @pod.agent
    async def looking(_: Look, call: Conversation) -> None:
        await call.sleep(60)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"), deadline=0.7)
        await office.bus.publish(Look(call_id="c2"), deadline=0.7)

        async def letters() -> list[Any]:
            found = await dead_letters(office.bus)
            return found if len(found) == 2 else []

        found = await eventually(letters, what="the dead letters")
    assert {letter.told["cause"] for letter in found} == {"deadline"}
    assert {letter.told["agent"] for letter in found} == {"booking", "looking"}


async def test_what_is_late_before_it_runs_does_not_run(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)

    async with at_work(pod, nats_server.url, "booking") as office:
        headers = {"Tieline-Deadline": "2020-01-01T00:00:00+00:00"}
        await office.bus.connection.request("call.intent.book", b'{"callId": "c1"}', headers)
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await office.bus.connection.request("call.intent.book", b'{"callId": "c2"}', {"Tieline-Deadline": "soon"})
        await eventually(lambda: runs, what="the one whose deadline nobody can read")
    assert letter.told["cause"] == "deadline"


async def scheduled(bus: Bus) -> Delivery | None:
    found = await stored(bus, "schedule.*")
    return found[0] if found else None


async def idle(bus: Bus) -> bool:
    info = await consumer_info(bus, "CALL_INTENT", "booking")
    return bool(info["num_pending"] == info["num_ack_pending"] == 0)


@pytest.mark.parametrize("ttl", [None, "300"])
async def test_a_long_retry_holds_nothing_and_comes_back(nats_server: Server, ttl: str | None) -> None:
    """Its time is the server's to keep; here it is brought forward, as the server would bring it."""
    pod = Pod("office", limits=Limits(first_retry=100.0, longest_retry=100.0))
    runs: list[tuple[int, str]] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        await call.publish(Booked(call_id=message.call_id))
        runs.append((call.attempt, call.origin))
        if call.attempt == 1:
            raise ConnectionError("the CRM is away")

    async with at_work(pod, nats_server.url) as office:
        bus = office.bus
        await bus.connection.request("call.intent.book", b'{"callId": "c1"}', {} if ttl is None else {"Nats-TTL": ttl})
        schedule = await eventually(lambda: scheduled(bus), what="the schedule")
        await eventually(lambda: idle(bus), what="an acknowledged delivery")
        at = datetime.fromisoformat(schedule.headers["Nats-Schedule"].removeprefix("@at "))
        assert 70 <= at.timestamp() - time.time() <= 101

        target = schedule.headers["Nats-Schedule-Target"]
        early = {k: v for k, v in schedule.headers.items() if not k.startswith("Nats-")}
        if ttl is not None:
            assert 190 <= int(schedule.headers["Nats-Schedule-TTL"]) <= 235, "what is left of it then"
        early |= {"Nats-Scheduler": schedule.subject, "Nats-Schedule-Next": "purge"}
        await bus.connection.request(target, schedule.payload, early)
        await eventually(lambda: len(runs) == 2, what="the second run")
        await eventually(lambda: idle(bus), what="its end")
        assert await scheduled(bus) is None
        assert len(await stored(bus, "call.intent.booked")) == 1
        assert not await dead_letters(bus)
    assert [attempt for attempt, _ in runs] == [1, 2]
    assert len({origin for _, origin in runs}) == 1
