"""A handler may run more than once; a recorded step does not. The tool round trip on a real server."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import natsio
import pytest
from support.messages import Book, Booked
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings, stored

from tieline import BadPayload, Conversation, Host, Limits, Pod, Stream, ToolFailed, ToolRun, connect
from tieline.testing import Proxy, Server, eventually


async def asked(office: Office, tool: str, payload: object, headers: dict[str, str] | None = None) -> None:
    await office.bus.connection.request(f"tool.call.{tool}", json.dumps(payload).encode(), headers)


async def test_the_round_trip_of_a_tool(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[dict[str, datetime]] = []
    runs: list[ToolRun] = []

    @pod.tool(effect="once")
    async def crm(run: ToolRun, phone_number: str, slots: list[datetime]) -> dict[str, datetime]:
        runs.append(run)
        return {phone_number: slots[0]}

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm, "1", slots=[datetime(2026, 1, 2, tzinfo=UTC)]))

    client = await natsio.connect(nats_server.url)
    heard: list[natsio.Msg] = []
    client.subscribe("tool.result.c1", cb=heard.append)
    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: got, what="the tool's result")
        [step] = await stored(office.bus, "step.booking.c1.tool.*")
        [result] = await eventually(lambda: stored(office.bus, "tool.result.c1"), what="the result by conversation")
        [call] = await stored(office.bus, "tool.call.crm")
    await client.close()

    assert got == [{"1": datetime(2026, 1, 2, tzinfo=UTC)}]
    assert json.loads(call.payload) == {
        "callId": "c1",
        "tool": "crm",
        "args": {"phoneNumber": "1", "slots": ["2026-01-02T00:00:00Z"]},
    }
    assert call.headers["Tieline-Step"] == step.subject
    record = json.loads(step.payload)
    assert (record["ok"], record["value"], record["tool"]) == (True, {"1": "2026-01-02T00:00:00Z"}, "crm")
    assert result.payload == step.payload
    assert [(run.conversation, run.attempt) for run in runs] == [("c1", 1)]


async def test_a_plain_listener_hears_results_by_conversation(nats_server: Server) -> None:
    pod = Pod("office")

    @pod.tool
    async def web(query: str) -> str:
        return query.upper()

    client = await natsio.connect(nats_server.url)
    async with at_work(pod, nats_server.url) as office:
        await asked(office, "web", {"callId": "c1", "args": {"query": "a"}})
        await asked(office, "web", {"args": {"query": "b"}}, {"Tieline-Conversation": "c1"})
        results = await eventually(lambda: two(office, "tool.result.c1"), what="both results")
    await client.close()
    assert [json.loads(result.payload)["value"] for result in results] == ["A", "B"]


async def two(office: Office, subject: str) -> list[Any] | None:
    found = await stored(office.bus, subject)
    return found if len(found) == 2 else None


async def test_a_recorded_result_is_found_by_the_second_run_without_running_the_tool(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[str] = []
    got: list[tuple[int, str, str]] = []

    @pod.tool
    async def crm(note: str) -> str:
        runs.append(note)
        return f"{note} {len(runs)}"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        first, second = await call.tool(crm, "a"), await call.tool(crm, "b")
        got.append((call.attempt, first, second))
        if call.attempt < 3:
            raise ValueError("after both tools")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(got) == 3, what="three runs")
        assert len(await stored(office.bus, "tool.call.crm")) == 2
    assert got == [(n, "a 1", "b 2") for n in (1, 2, 3)]
    assert runs == ["a", "b"]


async def test_a_recorded_result_is_found_also_after_the_duplicate_window(nats_server: Server) -> None:
    """The server has forgotten that the tool was called; the journal has not."""
    short = Stream(
        name="TOOL_CALL", subjects=("tool.call.*", "redrive.tool_call.*"), delays=False, ttls=False, duplicates=0.1
    )
    pod = Pod("office", limits=Limits(first_retry=0.5), streams=(short,))
    runs: list[str] = []
    got: list[str] = []

    @pod.tool(effect="read")
    async def crm() -> str:
        runs.append("run")
        return f"lead {len(runs)}"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm))
        if call.attempt == 1:
            raise ValueError

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(got) == 2, what="the second run")
        assert len(await stored(office.bus, "tool.call.crm")) == 1
    assert got == ["lead 1", "lead 1"]
    assert runs == ["run"]


async def test_a_crash_between_steps_costs_only_what_was_not_recorded(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[str] = []
    done: list[int] = []

    @pod.tool
    async def crm(note: str) -> None:
        runs.append(note)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        for note in "abcde":
            if note == "d" and call.attempt == 1:
                raise ValueError("between the third and the fourth")
            await call.tool(crm, note)
        done.append(call.attempt)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: done, what="the second run's end")
    assert runs == list("abcde")


async def test_steps_of_one_handler_run_side_by_side(nats_server: Server) -> None:
    pod = Pod("office")
    inside: list[int] = []
    got: list[list[int]] = []
    everyone = asyncio.Event()

    @pod.tool
    async def web(number: int) -> int:
        inside.append(number)
        if len(inside) == 4:
            everyone.set()
        await everyone.wait()
        return number * number

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await asyncio.gather(*(call.tool(web, number) for number in range(4))))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: got, what="the results")
    assert got == [[0, 1, 4, 9]]


async def test_two_agents_of_one_message_have_two_journals(nats_server: Server) -> None:
    pod = Pod("office")
    runs: list[str] = []
    got: list[str] = []

    @pod.tool
    async def crm(who: str) -> str:
        runs.append(who)
        return who

    @pod.agent
    async def one(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm, "one"))

    @pod.agent
    async def other(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm, "other"))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(got) == 2, what="both")
    assert sorted(got) == sorted(runs) == ["one", "other"]


async def test_arguments_that_do_not_fit_never_leave(nats_server: Server) -> None:
    pod = Pod("office")
    caught: list[str] = []

    @pod.tool
    async def crm(number: int) -> int:
        return number

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await call.tool(crm, "many")  # type: ignore[arg-type]
        except BadPayload as error:
            caught.append(str(error))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: caught, what="the error")
        assert await stored(office.bus, "tool.call.crm") == []
    assert "tool crm: number" in caught[0]


async def test_what_an_executor_cannot_take_is_a_typed_failure_for_its_caller(nats_server: Server) -> None:
    """Two versions of a pod: the caller's tool takes a text, the executor's a number."""
    caller, executor = Pod("office"), Pod("office")
    caught: list[ToolFailed] = []
    runs: list[int] = []

    @caller.tool(name="crm")
    async def crm(number: str) -> int:
        return len(number)

    @executor.tool(name="crm")
    async def newer_crm(number: int) -> int:
        runs.append(number)
        return number

    @caller.agent
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await call.tool(crm, "many")
        except ToolFailed as error:
            caught.append(error)

    async with (
        at_work(caller, nats_server.url, "booking") as office,
        connect(executor, settings=settings(nats_server.url)) as bus,
    ):
        host = Host(bus, ["tools"])
        work = asyncio.create_task(host.run())
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: caught, what="the failure")
        host.stop()
        await work
    assert (caught[0].tool, caught[0].cause) == ("crm", "invalid")
    assert "number" in str(caught[0])
    assert runs == []


async def test_a_tool_that_always_raises_is_a_failure_and_a_dead_letter(nats_server: Server) -> None:
    pod = Pod("office")
    runs: list[int] = []
    caught: list[ToolFailed] = []

    @pod.tool(limits=Limits(attempts=3, first_retry=0.02, longest_retry=0.05))
    async def crm(run: ToolRun) -> None:
        runs.append(run.attempt)
        raise ConnectionError("the CRM is away")

    @pod.agent(limits=QUICK)
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await call.tool(crm)
        except ToolFailed as error:
            caught.append(error)
        if call.attempt == 1:
            raise ValueError("once more, to find the failure recorded")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(caught) == 2, what="the failure, twice")
        [letter] = await dead_letters(office.bus)
    assert runs == [1, 2, 3]
    assert {(error.tool, error.cause) for error in caught} == {("crm", "raised")}
    assert "ConnectionError: the CRM is away" in str(caught[0])
    assert str(caught[0]) == str(caught[1])
    assert (letter.subject, letter.told["agent"]) == ("DLQ.tool.call.crm", "tool-crm")
    assert len(letter.told["attempts"]) == 3


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_nudge_costs_about_a_second_and_no_hang(nats_server: Server, lost: str) -> None:
    """The record is there, and nobody said so: written before anybody listened, or the news swallowed."""
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.tool
    async def crm() -> str:
        return "lead"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm))

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        if lost == "after":
            config = (await office.bus.connection.api("STREAM.INFO.STEP"))["config"]
            await office.bus.connection.api("STREAM.UPDATE.STEP", {k: v for k, v in config.items() if k != "republish"})
        await office.bus.publish(Book(call_id="c1"))
        [call] = await eventually(lambda: stored(office.bus, "tool.call.crm"), what="the tool call")
        if lost == "before":
            config = (await office.bus.connection.api("STREAM.INFO.STEP"))["config"]
            await office.bus.connection.api("STREAM.UPDATE.STEP", {k: v for k, v in config.items() if k != "republish"})
        began = asyncio.get_running_loop().time()
        record = {"ok": True, "value": "lead"}
        await office.bus.connection.request(call.headers["Tieline-Step"], json.dumps(record).encode())
        await eventually(lambda: got, what="the result", within=5.0)
        assert asyncio.get_running_loop().time() - began < 4.0
    assert got == ["lead"]


async def test_two_results_of_one_step_are_one(nats_server: Server) -> None:
    """The server refuses a second writer; who was first is what everybody reads."""
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.tool
    async def crm() -> str:
        return "second"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm))
        if call.attempt == 1:
            raise ValueError

    async with at_work(pod, nats_server.url, "booking") as office:
        await office.bus.publish(Book(call_id="c1"))
        [call] = await eventually(lambda: stored(office.bus, "tool.call.crm"), what="the tool call")
        await office.bus.journal.write(call.headers["Tieline-Step"], {"ok": True, "value": "first"})
        assert not await office.bus.journal.write(call.headers["Tieline-Step"], {"ok": True, "value": "third"})
        async with at_work(pod, nats_server.url, "tools") as executor:
            await eventually(lambda: len(got) == 2, what="both runs")

            async def settled() -> bool:
                info = await consumer_info(executor.bus, "TOOL_CALL", "tool-crm")
                return bool(info["num_pending"] == info["num_ack_pending"] == 0)

            await eventually(settled, what="the tool call acknowledged")
    assert got == ["first", "first"]


async def test_a_publish_from_a_handler_is_not_repeated_by_its_second_run(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.publish(Booked(call_id="c1", lead="a"))
        await call.publish(Booked(call_id="c1", lead="b"))
        runs.append(call.attempt)
        if call.attempt == 1:
            raise ValueError("between publish and acknowledgement")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await office.bus.publish(Book(call_id="c2"))
        await eventually(lambda: sorted(runs) == [1, 1, 2, 2], what="two runs of each")
        booked = await stored(office.bus, "call.intent.booked")
        [cause, _] = await stored(office.bus, "call.intent.book")
    assert sorted(json.loads(delivery.payload)["lead"] for delivery in booked) == ["a", "a", "b", "b"]
    assert len({delivery.headers["Nats-Msg-Id"] for delivery in booked}) == 4
    assert cause.headers["Nats-Msg-Id"] in {delivery.headers["Tieline-Cause"] for delivery in booked}


async def test_an_agent_without_its_tools_waits_and_its_timeout_ends_that(nats_server: Server) -> None:
    pod = Pod("office")
    runs: list[int] = []

    @pod.tool
    async def crm() -> str:
        return "lead"

    @pod.agent(limits=Limits(timeout=0.2, attempts=2, first_retry=0.02))
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        await call.tool(crm)

    async with at_work(pod, nats_server.url, "booking") as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert len(await stored(office.bus, "tool.call.crm")) == 1
    assert letter.told["cause"] == "timeout"
    assert runs == [1, 2]


async def test_a_caller_behind_a_silent_wire_gets_its_result_when_it_heals(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.tool
    async def crm() -> str:
        return "lead"

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        got.append(await call.tool(crm))

    async with Proxy(nats_server.url) as proxy, at_work(pod, proxy.url, "booking") as office:
        await office.bus.publish(Book(call_id="c1"))
        async with at_work(pod, nats_server.url, "tools") as executor:
            await eventually(lambda: stored(executor.bus, "tool.call.crm"), what="the call")
            proxy.cut()
            await eventually(lambda: stored(executor.bus, "step.booking.*.tool.*"), what="the record")
            proxy.heal()
        await eventually(lambda: got, what="the result")
    assert got == ["lead"]
