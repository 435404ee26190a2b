"""A tool that cannot do its work: a typed failure for its caller, recorded like any result; nobody waits for ever."""

import asyncio

from support.messages import Book
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import BadPayload, Conversation, Host, Limits, Pod, ToolFailed, ToolRun, connect
from tieline.testing import Server, eventually


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
    assert (letter.subject, letter.told["agent"]) == ("DLQ.tool-crm.raised.tool.call.crm", "tool-crm")
    assert len(letter.told["attempts"]) == 3


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
