"""Steps of every kind, run again: what was recorded comes back, and what is wrong is said."""

import asyncio
import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel
from support.messages import Book, Booked
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import BadPayload, Conversation, Limits, Pod, Tool, ToolFailed, ToolRun
from tieline.testing import Server, eventually


class Offer(BaseModel):
    price: int
    homes: list[str] = []


async def test_the_second_run_finds_what_the_first_one_recorded(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []
    told: list[object] = []

    async def offer(price: int) -> Offer:
        ran.append("offer")
        return Offer(price=price, homes=["a"])

    @pod.tool
    async def crm(run: ToolRun) -> str:
        ran.append("crm")
        return run.key

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append((await call.step("offer", offer, call.attempt), await call.tool(crm)))
        if call.attempt < 3:
            raise ValueError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(told) == 3, what="three runs")
    assert ran == ["offer", "crm"]
    assert told[0] == told[1] == told[2]
    assert isinstance(told[0], tuple)
    assert told[0][0] == Offer(price=1, homes=["a"])


async def test_a_name_used_in_a_loop_is_a_step_each_time(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[int] = []
    told: list[list[int]] = []

    async def double(number: int) -> int:
        ran.append(number)
        return number * 2

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append([await call.step("double", double, number) for number in range(2 + call.attempt)])
        if call.attempt == 1:
            raise ValueError("once more, and one number more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(told) == 2, what="two runs")
    assert ran == [0, 1, 2, 3]
    assert told == [[0, 2, 4], [0, 2, 4, 6]]


async def test_branches_that_overtake_each_other_keep_their_own_results(nats_server: Server) -> None:
    """Fan-out and fan-in: in each run another branch is the first to go on, and one dies in the middle."""
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []
    told: list[list[str]] = []
    numbers = range(5)

    @pod.tool
    async def price(home: str) -> str:
        return f"price of {home}"

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        async def look(number: int) -> int:
            ran.append(f"look {number}")
            return number

        async def judge(home: int) -> str:
            ran.append(f"judge {home}")
            return f"home {home}"

        async def branch(number: int) -> str:
            home = await call.step("look", look, number)
            await asyncio.sleep(0.02 * (number if call.attempt == 1 else 5 - number))
            if call.attempt == 1 and number == 3:
                raise ValueError("dies in the middle")
            judged = await call.step("judge", judge, home)
            await call.publish(Booked(call_id=message.call_id, lead=judged))
            return await call.tool(price, judged)

        told.append(await asyncio.gather(*(branch(number) for number in numbers)))
        if call.attempt == 2:
            raise ValueError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(told) == 2, what="two whole runs")
        leads = sorted(json.loads(booked.payload)["lead"] for booked in await stored(office.bus, "call.intent.booked"))
    assert told == [[f"price of home {number}" for number in numbers]] * 2
    assert sorted(ran) == sorted(f"{what} {number}" for what in ("look", "judge") for number in numbers)
    assert leads == [f"home {number}" for number in numbers]


async def test_what_a_failed_run_began_does_not_go_on_beside_the_next(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ended: list[str] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        async def slow() -> None:
            try:
                await asyncio.sleep(30 if call.attempt == 1 else 0)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            ended.append("done")

        async def fails() -> None:
            await asyncio.sleep(0.05)
            if call.attempt == 1:
                raise ValueError("the other branch still works")

        await asyncio.gather(call.step("slow", slow), call.step("fails", fails))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: "done" in ended, what="the second run")
    assert ended == ["cancelled", "done"]


async def test_a_result_that_is_no_json_is_an_error_and_leaves_no_record(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=1))
    caught: list[str] = []

    async def handle() -> Any:
        return object()

    async def number() -> int:
        return "four"  # type: ignore[return-value]

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        for function in (handle, number):
            try:
                await call.step("handle", function)
            except BadPayload as error:
                caught.append(str(error))
        await call.step("handle", handle)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert not await stored(office.bus, "step.booking.*.step.*")
    assert len(caught) == 2
    assert all("step handle: its result cannot be recorded as JSON" in text for text in caught)
    assert letter.told["error"] == "BadPayload"


async def test_a_tool_that_no_executor_of_the_pod_has_is_an_error_at_once(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=1))

    async def ghost() -> str:
        return "never"

    stray: Tool[[], str] = Tool(ghost, "ghost", "repeat", Limits())

    @pod.tool
    async def crm() -> str:
        return "lead"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.tool(stray)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert not await stored(office.bus, "tool.call.*")
    assert "no tool 'ghost'" in letter.told["reason"]
    assert "it has crm" in letter.told["reason"]


async def test_arguments_that_do_not_fit_are_an_error_before_anything_is_sent(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    caught: list[str] = []

    @pod.tool
    async def crm(phone: str, age: int) -> str:
        return f"{phone} {age}"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        for arguments in (("1", "old"), ("1",), ("1", 2, 3)):
            try:
                await call.tool(crm, *arguments)
            except BadPayload as error:
                caught.append(str(error))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(caught) == 3, what="three errors")
        assert not await stored(office.bus, "tool.call.*")
    assert all("tool crm" in text for text in caught)
    assert "old" not in caught[0], "an argument may be somebody's phone number"


async def test_arguments_that_changed_since_the_recording_are_told(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[tuple[int, int]] = []

    async def double(number: int) -> int:
        return number * 2

    @pod.tool
    async def triple(number: int) -> int:
        return number * 3

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        told.append((await call.step("double", double, call.attempt), await call.tool(triple, call.attempt)))
        if call.attempt == 1:
            raise ValueError("once more")

    with caplog.at_level(logging.WARNING, "tieline.steps"):
        async with at_work(pod, settings(nats_server.url, audit=True)) as office:
            await office.bus.publish(Book(call_id="c1"))
            await eventually(lambda: len(told) == 2, what="two runs")

            async def facts() -> list[dict[str, Any]]:
                found = [json.loads(fact.payload) for fact in await stored(office.bus, "call.audit.*")]
                told_of = [fact for fact in found if fact["fact"] == "stepped" and fact["changed"]]
                return told_of if len(told_of) == 2 else []

            changed = await eventually(facts, what="both facts")
    assert told == [(2, 3), (2, 3)], "what is on record stands"
    assert [(fact["kind"], fact["name"]) for fact in changed] == [("step", "double"), ("tool", "triple")]
    assert caplog.text.count("was recorded for other arguments") == 2


async def test_arguments_that_no_json_knows_are_compared_all_the_same(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A step's arguments need not be JSON: objects, sets, keys without an order."""
    pod = Pod("office", limits=QUICK)
    ran: list[int] = []

    class Line:
        pass

    async def dial(line: Line, tags: set[str], table: dict[object, int]) -> int:
        ran.append(len(tags))
        return len(table) + isinstance(line, Line)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.step("dial", dial, Line(), {"x", "y"}, {1: 1, "b": 2, (3, 4): 3})
        if call.attempt == 1:
            raise ValueError("once more")
        ran.append(0)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: 0 in ran, what="the second run")
    assert ran == [2, 0]
    assert "other arguments" not in caplog.text


async def test_a_tools_failure_is_one_a_handler_can_catch_in_every_run(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[str] = []

    @pod.tool
    async def crm() -> str:
        return "\ud800"  # no UTF-8 has it

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await call.tool(crm)
        except ToolFailed as failed:
            told.append(failed.cause)
        if call.attempt == 1:
            raise ValueError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(told) == 2, what="the failure, twice")
    assert told[0] == told[1]
