"""Waiting for an agent, a person, a time: short waits wait, long ones park, and whoever answers wakes the message."""

import asyncio
import json
import random
from collections import Counter

import pytest
from support.messages import Book, Booked, Look
from support.office import QUICK, at_work, consumer_info, stored

from tieline import Bus, Conversation, Limits, Message, NoReply, Pod, Refuse, Stream
from tieline.runtime import waits
from tieline.testing import Server, eventually
from tieline.wire.delivery import Delivery


class Quote(Message, subject="call.intent.quote"):
    call_id: str


class Price(Message, subject="call.intent.price"):
    call_id: str
    usd: int


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits park after a moment rather than a second."""
    monkeypatch.setattr(waits, "_FOR_AGENTS", 0.05)
    monkeypatch.setattr(waits, "_SHORT", 0.05)


async def question(bus: Bus, conversation: str = "*") -> Delivery:
    """The one that a handler asks a person, once it is stored."""
    [asked] = await eventually(lambda: stored(bus, f"step.*.{conversation}.question.*"), what="the question")
    return asked


async def answered(bus: Bus, asked: Delivery, value: object) -> bool:
    """Answer as `tieline calls answer` does. Whether this answer was the first."""
    subject = asked.subject.replace(".question.", ".human.")
    return await bus.journal.write(subject, {"ok": True, "value": value})


async def parked(bus: Bus, kind: str = "*") -> list[Delivery]:
    """The messages that are put aside, once there are any and their deliveries are acknowledged."""

    async def aside() -> list[Delivery]:
        info = await consumer_info(bus, "CALL_INTENT", "booking")
        found = await stored(bus, f"step.booking.*.park.{kind}")
        return [] if info["num_ack_pending"] or info["num_pending"] else found

    return await eventually(aside, what="a parked message")


async def test_an_answer_at_once_comes_without_parking(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[tuple[int, int]] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        price = await call.ask(Quote(call_id=message.call_id), expects=Price)
        told.append((price.usd, call.attempt))

    @pod.agent
    async def quoter(message: Quote, call: Conversation) -> None:
        await call.reply(Price(call_id=message.call_id, usd=42))
        await call.reply(Price(call_id=message.call_id, usd=43))  # the first reply counts

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: told, what="the answer")
        assert not await stored(office.bus, "step.booking.*.park.*")
    assert told == [(42, 1)]


async def test_a_late_answer_finds_the_slot_free_meanwhile(nats_server: Server, impatient: None) -> None:  # noqa: ARG001
    pod = Pod("office", limits=Limits(concurrency=1))
    told: list[tuple[str, int]] = []
    may_answer = asyncio.Event()

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        if message.phone != "asks":
            told.append((message.call_id, 0))
            return
        price = await call.ask(Quote(call_id=message.call_id), expects=Price)
        told.append((message.call_id, price.usd))

    @pod.agent
    async def quoter(message: Quote, call: Conversation) -> None:
        await may_answer.wait()
        await call.reply(Price(call_id=message.call_id, usd=42))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1", phone="asks"))
        await parked(office.bus)
        for number in range(3):
            await office.bus.publish(Book(call_id=f"other-{number}"))
        await eventually(lambda: len(told) == 3, what="the others, while one waits")
        may_answer.set()
        await eventually(lambda: len(told) == 4, what="the one that waited")
        assert len(await stored(office.bus, "call.intent.quote")) == 1
    assert told[3] == ("c1", 42)


async def test_no_answer_in_time_is_recorded(nats_server: Server, impatient: None) -> None:  # noqa: ARG001
    pod = Pod("office", limits=QUICK)
    told: list[str] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        try:
            await call.ask(Quote(call_id=message.call_id), expects=Price, within=0.5)
        except NoReply as error:
            told.append(error.cause)
        if len(told) == 1:
            raise ValueError("once more")

    @pod.agent
    async def quoter(_: Quote, call: Conversation) -> None:
        await call.ask_human("Will somebody say a price?")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await parked(office.bus)
        await eventually(lambda: len(told) >= 2, what="the error, twice")
        [record] = await stored(office.bus, "step.booking.*.ask.*")
        assert json.loads(record.payload)["cause"] == "timeout"
    assert set(told) == {"timeout"}


async def test_an_asked_agent_that_gives_up_is_an_answer(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[NoReply] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        try:
            await call.ask(Quote(call_id=message.call_id), expects=Price)
        except NoReply as error:
            told.append(error)

    @pod.agent
    async def quoter(_: Quote, call: Conversation) -> Refuse:  # noqa: ARG001
        return Refuse("no prices on Sundays")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: told, what="the refusal")
    assert told[0].cause == "refused"
    assert "no prices on Sundays" in str(told[0])


async def test_an_answer_that_comes_while_the_message_parks_is_never_missed(nats_server: Server) -> None:
    """The answer races the park record; the loser of that race has to see the winner."""
    pod = Pod("office", limits=Limits(concurrency=50))
    told: list[str] = []
    calls = 40

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        told.append(message.call_id + await call.ask_human("Shall we?"))

    async with at_work(pod, nats_server.url) as office:
        chance = random.Random(7)
        waiting: set[asyncio.Task[bool]] = set()

        async def answer(asked: Delivery, wait: float) -> bool:
            await asyncio.sleep(wait)
            return await answered(office.bus, asked, " yes")

        await asyncio.gather(*(office.bus.publish(Book(call_id=f"c{number}")) for number in range(calls)))
        async for asked in office.bus.feed("step.booking.*.question.*", start=1):
            waiting.add(asyncio.create_task(answer(asked, chance.uniform(0.0, 0.12))))
            if len(waiting) == calls:
                break
        await eventually(lambda: len(set(told)) == calls, what="every answer")
        await asyncio.gather(*waiting)
    assert set(told) == {f"c{number} yes" for number in range(calls)}


async def test_two_people_answer_and_the_first_one_counts(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append(await call.ask_human("Who is it?"))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        asked = await question(office.bus)
        people = ["Ann", "Bob"]
        first = await asyncio.gather(*(answered(office.bus, asked, person) for person in people))
        await eventually(lambda: told, what="the answer")
    assert sorted(first) == [False, True]
    assert set(told) == {people[first.index(True)]}


async def test_a_parked_message_survives_the_restart_of_everything(
    nats_server: Server,
    impatient: None,  # noqa: ARG001
) -> None:
    """An answer and a time that come while nobody is there."""
    pod = Pod("office", limits=QUICK)
    told: list[str] = []
    asleep = asyncio.Event()

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append(await call.ask_human("Shall we?"))
        asleep.set()
        await call.sleep(1.0)
        told.append("slept")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        asked = await question(office.bus)
        await parked(office.bus)
    nats_server.kill()
    await nats_server.restart()
    async with at_work(pod, nats_server.url, "booking") as office:
        assert await answered(office.bus, asked, "yes")
        await asleep.wait()
        began = asyncio.get_running_loop().time()
    nats_server.kill()
    await nats_server.restart()
    async with at_work(pod, nats_server.url, "booking"):
        await eventually(lambda: "slept" in told, what="the end of the sleep")
        assert asyncio.get_running_loop().time() - began < 5.0
    assert set(told) == {"yes", "slept"}


async def test_a_timer_of_a_finished_message_does_nothing(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[int] = []
    told: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        told.append(await call.ask_human("Shall we?", within=0.6))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        asked = await question(office.bus)
        await parked(office.bus)
        assert await answered(office.bus, asked, "yes")
        await eventually(lambda: told, what="the answer")
        await eventually(lambda: returns(office.bus, 2), what="the timer, too")
        await parked(office.bus)  # that is: nothing is pending
        assert not await stored(office.bus, "DLQ.>")
    assert runs == [1, 2]
    assert told == ["yes"]


async def returns(bus: Bus, at_least: int) -> list[Delivery]:
    """The messages that were brought back to the agent, once there are so many."""
    found = await stored(bus, "redrive.call_intent.booking")
    return found if len(found) >= at_least else []


async def test_what_was_published_before_a_park_is_not_repeated_after_the_server_forgot(nats_server: Server) -> None:
    """A park may last longer than the stream remembers ids: the journal remembers them."""
    forgetful = Stream(name="CALL_INTENT", subjects=("call.intent.*", "redrive.call_intent.*"), duplicates=0.2)
    pod = Pod("office", limits=QUICK, streams=(forgetful,))
    told: list[str] = []

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        await call.publish(Booked(call_id=message.call_id, lead="before"))
        told.append(await call.ask_human("Shall we?"))
        await call.publish(Booked(call_id=message.call_id, lead="between"))
        told.append(await call.ask_human("Really?"))
        await call.publish(Booked(call_id=message.call_id, lead="after"))
        told.append("end")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        for number in (1, 2):

            async def asked(number: int = number) -> Delivery | None:
                found = await stored(office.bus, "step.booking.*.question.*")
                return found[-1] if len(found) == number else None

            latest = await eventually(asked, what="the question")
            await parked(office.bus)
            await asyncio.sleep(0.3)  # longer than the stream remembers
            assert await answered(office.bus, latest, str(number))
        await eventually(lambda: "end" in told, what="the end")
        leads = [json.loads(booked.payload)["lead"] for booked in await stored(office.bus, "call.intent.booked")]
    assert leads == ["before", "between", "after"]


async def test_a_branch_with_work_keeps_the_others_from_parking(nats_server: Server, impatient: None) -> None:  # noqa: ARG001
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []
    told: list[list[str]] = []
    may_end = asyncio.Event()

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        async def work() -> str:
            ran.append("work")
            await may_end.wait()
            return "worked"

        told.append(list(await asyncio.gather(call.ask_human("Shall we?"), call.step("work", work))))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        asked = await question(office.bus)
        await asyncio.sleep(0.2)  # longer than a person is waited for
        assert not await stored(office.bus, "step.booking.*.park.*")
        may_end.set()
        await parked(office.bus)
        assert await answered(office.bus, asked, "yes")
        await eventually(lambda: told, what="both")
    assert told == [["yes", "worked"]]
    assert ran == ["work"]


@pytest.mark.parametrize("how", ["gather", "gather with exceptions", "task group"])
async def test_branches_that_all_wait_park_together(nats_server: Server, how: str) -> None:
    """Whichever answer is the last, and however the handler gathers them: it goes on when it has both."""
    pod = Pod("office", limits=QUICK)
    told: list[list[str]] = []

    async def both(call: Conversation) -> list[str]:
        waiting = [call.ask_human("One?"), call.ask_human("Two?")]
        if how == "task group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in waiting]
            return [task.result() for task in tasks]
        if how == "gather":
            return list(await asyncio.gather(*waiting))
        return [str(answer) for answer in await asyncio.gather(*waiting, return_exceptions=True)]

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        answers = await both(call)
        await call.publish(Booked(call_id="c1", lead=" ".join(answers)))
        told.append(answers)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))

        async def asked() -> list[Delivery]:
            found = await stored(office.bus, "step.booking.*.question.*")
            return found if len(found) == 2 else []

        questions = await eventually(asked, what="two questions")
        await parked(office.bus)
        for one in reversed(questions):
            question_text = json.loads(one.payload)["question"]
            assert await answered(office.bus, one, f"yes to {question_text}")
            await parked(office.bus)
        await eventually(lambda: told, what="both answers")
        booked = await stored(office.bus, "call.intent.booked")
    assert told[-1] == ["yes to One?", "yes to Two?"]
    assert [json.loads(one.payload)["lead"] for one in booked] == ["yes to One? yes to Two?"]


async def test_a_handler_that_races_a_person_goes_on_with_what_came_first(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[str] = []
    may_end = asyncio.Event()

    @pod.tool
    async def crm() -> str:
        await may_end.wait()
        return "lead"

    async def long() -> str:
        await asyncio.sleep(0.2)
        return "long"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        person, lead = asyncio.create_task(call.ask_human("Shall we?")), asyncio.create_task(call.tool(crm))
        await asyncio.wait([person, lead], return_when=asyncio.FIRST_COMPLETED)
        told.append(lead.result())
        told.append(await call.step("long", long))  # the person is still waited for
        person.cancel()
        told.append(await call.step("end", long))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await question(office.bus)
        await asyncio.sleep(0.2)  # longer than a person is waited for
        may_end.set()
        await eventually(lambda: len(told) == 3, what="the end")
        assert not await stored(office.bus, "step.booking.*.park.*")
    assert told == ["lead", "long", "long"]


async def test_the_answer_of_another_type_is_an_error(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=1))
    told: list[bool] = []

    @pod.agent
    async def looking(_: Look, call: Conversation) -> None:
        told.append(await call.ask_human("Shall we?", expects=bool))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Look(call_id="c1"))
        asked = await question(office.bus)
        assert json.loads(asked.payload)["schema"] == {"type": "boolean"}
        assert await answered(office.bus, asked, "perhaps")
        await eventually(lambda: stored(office.bus, "DLQ.>"), what="the dead letter")
    assert told == []


class Insure(Message, subject="call.intent.insure"):
    call_id: str


async def test_tools_that_retry_hold_no_slots(nats_server: Server) -> None:
    """A full house of calls to a tool that fails and fails: others run meanwhile, and all of them come to their end.

    Answers are found by the waker alone, also by one of another process: the one that parked has been stopped.
    """
    limits = Limits(concurrency=4, first_retry=0.5, longest_retry=2.0, drain=0.2)
    pod = Pod("office", limits=limits)
    failed: Counter[str] = Counter()
    told: list[str] = []
    runs: Counter[str] = Counter()

    works = asyncio.Event()

    @pod.tool(limits=Limits(concurrency=20, attempts=1_000, first_retry=0.3, longest_retry=0.3))
    async def insurance(customer: str) -> str:
        if not works.is_set():
            failed[customer] += 1
            raise ConnectionError("busy")
        return f"policy of {customer}"

    @pod.agent
    async def booking(message: Insure | Book, call: Conversation) -> None:
        if isinstance(message, Book):
            told.append(message.call_id)
            return
        runs[message.call_id] += 1
        told.append(" ".join(await asyncio.gather(call.tool(insurance, call.id), call.step("now", at_once))))

    async def at_once() -> str:
        return "now"

    async with at_work(pod, nats_server.url, "tools") as office:
        async with at_work(pod, nats_server.url, "booking"):
            await asyncio.gather(*(office.bus.publish(Insure(call_id=f"c{number}")) for number in range(8)))
            await eventually(lambda: len(runs) == 4, what="a full house")
            await office.bus.publish(Book(call_id="quick"))
            await eventually(lambda: "quick" in told, what="another message, while the tools retry")
            assert told == ["quick"]
            await eventually(lambda: all_parked(office.bus, 8), what="all of them to be parked")
        works.set()
        async with at_work(pod, nats_server.url, "booking"):
            await eventually(lambda: len(told) == 9, what="all of them")
            await eventually(lambda: idle(office.bus), what="every copy answered for")
        calls = await stored(office.bus, "tool.call.insurance")
        over = await stored(office.bus, "step.booking.*.over.*")
    assert sorted(told) == sorted(["quick", *(f"policy of c{number} now" for number in range(8))])
    assert min(failed.values()) >= 3
    assert len(calls) == 8
    assert len(over) == 8


async def all_parked(bus: Bus, count: int) -> bool:
    return len(await stored(bus, "step.booking.*.park.*")) == count and await idle(bus)


async def idle(bus: Bus) -> bool:
    infos = [
        await consumer_info(bus, *where)
        for where in (("CALL_INTENT", "booking"), ("CALL_INTENT", "booking-resume"), ("STEP", "booking-waker"))
    ]
    return not any(info[field] for info in infos for field in ("num_pending", "num_ack_pending"))
