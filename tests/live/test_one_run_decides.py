"""A message that is in its stream several times, or held by a process that lost its lease: one run decides about it."""

import asyncio
import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from support.crew import Job, crew, note
from support.messages import Book, Booked
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings, stored
from support.processes import agents, lines

from tieline import Bus, Conversation, Limits, Message, NoReply, Pod, Stream, connect
from tieline.outcomes import Cause
from tieline.runtime.history import NO_PAST, Copy, History
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery


class Quote(Message, subject="call.intent.quote"):
    call_id: str


class Price(Message, subject="call.intent.price"):
    call_id: str
    usd: int


async def idle(office: Office) -> bool:
    """Whether the agent has nothing to do: every copy of its message was answered for."""
    consumers = [("CALL_INTENT", "booking"), ("CALL_INTENT", "booking-resume"), ("STEP", "booking-waker")]
    infos = [await consumer_info(office.bus, *consumer) for consumer in consumers]
    return not any(info[field] for info in infos for field in ("num_pending", "num_ack_pending"))


async def endings(bus: Bus) -> list[str]:
    """How the deliveries of the agent's messages ended, as its facts tell it."""
    told = [json.loads(fact.payload) for fact in await stored(bus, "call.audit.*")]
    return [one["outcome"] for one in told if one["fact"] == "settled" and one["by"] == "booking"]


async def endings_of(bus: Bus, deliveries: int) -> list[str]:
    found = await endings(bus)
    return found if len(found) >= deliveries else []


def len_is(told: list[str], length: int) -> bool:
    return len(told) == length


@pytest.mark.parametrize("whom", ["agent", "person"])
async def test_a_wait_that_times_out_goes_on_once(nats_server: Server, whom: str) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[int] = []
    effects: list[str] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        try:
            if whom == "agent":
                await call.ask(Quote(call_id=message.call_id), expects=Price, within=1.3)
            else:
                await call.ask_human("Shall we?", within=0.3)
        except NoReply:
            effects.append(f"after {message.call_id}")
        await asyncio.sleep(0.2)  # long enough for another wake-up to arrive beside this run
        await call.ask_human("Really not?", within=0.3) if message.phone == "again" else None

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        messages = [Book(call_id=f"c{number}") for number in range(5)]
        await asyncio.gather(*(office.bus.publish(message) for message in messages))
        await eventually(lambda: len(effects) == 5, what="what follows the timeouts")

        async def settled() -> bool:
            return (await endings(office.bus)).count("done") == 5 and await idle(office)

        await eventually(settled, what="all messages to be done")
        assert not await dead_letters(office.bus)
    assert sorted(runs) == [1] * 5 + [2] * 5
    assert sorted(effects) == [f"after c{number}" for number in range(5)]


async def test_the_second_timeout_of_a_handler_wakes_it_once_too(nats_server: Server) -> None:
    """The first wait's record is written when the message has parked again: it is nobody's news."""
    pod = Pod("office", limits=QUICK)
    runs: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        for _number in range(3):
            with pytest.raises(NoReply):
                await call.ask_human("Shall we?", within=0.4)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(runs) >= 4, what="the run after three timeouts")
        await eventually(lambda: stored(office.bus, "step.booking.*.over.*"), what="its end")
        await eventually(lambda: idle(office), what="every copy answered for")
    assert runs == [1, 2, 3, 4]


async def test_two_answers_at_once_are_one_run_and_none_is_missed(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    running = 0
    overlaps: list[str] = []
    told: list[str] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        nonlocal running
        running += 1
        if running > 1:
            overlaps.append(message.call_id)
        try:
            await asyncio.sleep(0.05)  # the other answer comes while this run has looked already, or has not
            both = await asyncio.gather(call.ask_human("One?"), call.ask_human("Two?"))
            told.append(" ".join(both))
        finally:
            running -= 1

    async with at_work(pod, nats_server.url) as office:
        for number in range(12):
            conversation = f"c{number}"
            await office.bus.publish(Book(call_id=conversation))

            async def asked(conversation: str = conversation) -> list[str]:
                found = await stored(office.bus, f"step.booking.{conversation}.question.*")
                parks = await stored(office.bus, f"step.booking.{conversation}.park.*")
                return [one.subject for one in found] if len(found) == len(parks) == 2 else []

            for late, question in enumerate(await eventually(asked, what="two questions of a parked message")):
                await asyncio.sleep(late * number * 0.012)
                human = question.replace(".question.", ".human.")
                assert await office.bus.journal.write(human, {"ok": True, "value": "yes"})
            await eventually(partial(len_is, told, number + 1), what="both answers")
    assert told == ["yes yes"] * 12
    assert overlaps == []


async def test_a_stale_copy_is_superseded_and_no_second_done(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append(await call.ask_human("Shall we?", within=0.8))

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await office.bus.publish(Book(call_id="c1"))
        [asked] = await eventually(lambda: stored(office.bus, "step.booking.*.question.*"), what="the question")
        await eventually(lambda: stored(office.bus, "step.booking.*.park.*"), what="the message to be parked")
        human = asked.subject.replace(".question.", ".human.")
        assert await office.bus.journal.write(human, {"ok": True, "value": "yes"})

        async def timer_came() -> bool:
            return len(await stored(office.bus, "redrive.call_intent.booking")) == 2 and await idle(office)

        await eventually(timer_came, what="the timer of the answered wait")
        ended = await eventually(partial(endings_of, office.bus, 3), what="the facts of three deliveries")
        assert ended == ["parked", "done", "superseded"]
    assert told == ["yes"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.mark.parametrize("kind", ["raises", "refuses", "asks"])
async def test_a_process_that_wakes_up_after_its_lease_decides_nothing(
    nats_server: Server, notes: Path, kind: str
) -> None:
    """Frozen in its handler for longer than the ack wait; meanwhile another process handles the message."""
    log = notes.with_suffix(".log")
    async with connect(crew, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, crew)
        async with agents(nats_server.url, log, "worker") as frozen:
            await bus.publish(Job(call_id="j", notes=str(notes), kind=f"frozen-{kind}"))
            await eventually(lambda: "begin j" in lines(notes), what="the first run")
            frozen.process.send_signal(signal.SIGSTOP)
            async with agents(nats_server.url, log, "worker"):
                await eventually(lambda: "done j" in lines(notes), what="the run of the other process")
                await eventually(lambda: stored(bus, "step.worker.*.over.*"), what="its end")
                note(f"{notes}.release", "")
                frozen.process.send_signal(signal.SIGCONT)
                await eventually(lambda: "woke j" in lines(notes), what="the frozen run to end")
                await bus.publish(Job(call_id="after", notes=str(notes)))
                await eventually(lambda: "done after" in lines(notes), what="a later message")
                await eventually(lambda: "lost its lease" in frozen.log, what="word of it")
        records = [json.loads(one.payload) for one in await stored(bus, "step.worker.j.attempt.*")]
        assert not await dead_letters(bus)
        assert not await stored(bus, "step.worker.j.park.*")
    assert sorted(record.get("end", "start") for record in records) == ["done", "start", "vanished"]


async def test_what_is_published_before_a_kill_is_found_however_late(nats_server: Server) -> None:
    """Three runs, each long after the stream has forgotten the ids of the one before."""
    forgetful = Stream(name="CALL_INTENT", subjects=("call.intent.*", "redrive.call_intent.*"), duplicates=0.2)
    pod = Pod("office", limits=QUICK, streams=(forgetful,))
    runs: list[int] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        await call.publish(Booked(call_id=message.call_id, lead="one"))
        await call.publish(Booked(call_id=message.call_id, lead="later"), after=0.3)
        await asyncio.sleep(0.25)
        if call.attempt < 3:
            raise ValueError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(runs) == 3, what="three runs")
        await eventually(lambda: stored(office.bus, "step.booking.*.over.*"), what="its end")

        async def both() -> list[Delivery]:
            found = await stored(office.bus, "call.intent.booked")
            return found if len(found) > 1 and not await stored(office.bus, "schedule.*") else []

        booked = await eventually(both, what="what it published")
    assert sorted(json.loads(one.payload)["lead"] for one in booked) == ["later", "one"]


async def test_a_retry_whose_nak_was_lost_waits_for_its_time(nats_server: Server) -> None:
    """Somebody recorded when the next attempt is due, and died before the server heard of it."""
    pod = Pod("office", limits=Limits(ack_wait=1.0))
    ran: list[tuple[float, int]] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        ran.append((time.time(), call.attempt))

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        await bus.publish(Book(call_id="c1"))
        somebody = PullConsumer(bus.connection, "CALL_INTENT", "booking")
        [taken] = await somebody.fetch(1)
        history = History(bus.journal, "somebody:1", ("booking", "c1", taken.origin, ""), Copy(taken.seq))
        due = time.time() + 2.5
        assert await history.end(NO_PAST, "raised", Cause("raised", "busy"), due=due)
        await somebody.close()
    async with at_work(pod, nats_server.url):
        await eventually(lambda: ran, what="the second attempt")
    [(at, attempt)] = ran
    assert attempt == 2
    assert at > due - 0.1
