"""A handler that forgets an ``await`` never counts as done, and tasks that it leaves behind are waited for."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from support.messages import Book, Booked
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import Conversation, Pod
from tieline.testing import Server, eventually

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


class Tally(BaseModel):
    count: int = 0


pod = Pod("office", limits=QUICK)


@pod.tool
async def crm(phone: str) -> str:
    return phone


async def elsewhere() -> None: ...


async def plain(call: Conversation) -> str:
    return call.id


def forget_publish(call: Conversation) -> object:
    return call.publish(Booked(call_id="c1"))


FORGETTING: dict[str, Callable[[Conversation], object]] = {
    "call.publish(Booked)": forget_publish,
    "call.tool(crm)": lambda call: call.tool(crm, "1"),
    "call.step()": lambda call: call.step("look", plain, call),
    "call.model()": lambda call: call.model(None, "hello"),
    "call.ask(Book)": lambda call: call.ask(Book(call_id="c1"), expects=Booked),
    "call.reply(Booked)": lambda call: call.reply(Booked(call_id="c1")),
    "call.ask_human()": lambda call: call.ask_human("Shall we?"),
    "call.sleep()": lambda call: call.sleep(1),
    "call.end()": lambda call: call.end(),
    "call.state().get()": lambda call: call.state(Tally).get(),
    "call.state().update(<lambda>)": lambda call: call.state(Tally).update(lambda tally: tally or Tally()),
    "elsewhere()": lambda _: elsewhere(),
}


async def run(url: str, handler: Callable[[Conversation], Awaitable[None]]) -> dict[str, Any]:
    """What a message came to that is handled so: its dead letter, or nothing, once it is acknowledged."""
    office_pod = Pod("office", limits=QUICK)
    office_pod.add_tool(crm)

    @office_pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await handler(call)

    async with at_work(office_pod, settings(url), "booking") as office:
        await office.bus.publish(Book(call_id="c1"))

        async def over() -> bool:
            info = await office.bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking")
            return int(info["ack_floor"]["stream_seq"]) == 1

        await eventually(over, what="its end")
        letters = await dead_letters(office.bus)
        return letters[0].told if letters else {"booked": len(await stored(office.bus, "call.intent.booked"))}


@pytest.mark.parametrize("named", FORGETTING)
async def test_a_forgotten_await_is_a_dead_letter_that_names_the_call(nats_server: Server, named: str) -> None:
    kept = []

    async def handler(call: Conversation) -> None:
        made = FORGETTING[named](call)
        if named != "elsewhere()":  # a call of the conversation is found also where something holds it
            kept.append(made)
        del made
        await asyncio.sleep(0)

    told = await run(nats_server.url, handler)
    assert (told["cause"], told["error"]) == ("raised", "NotAwaited")
    assert told["reason"].startswith(f"NotAwaited: {named} was not awaited")
    assert len(told["attempts"]) == 1
    kept.clear()
    gc.collect()


async def test_calls_in_tasks_and_groups_work_as_before(nats_server: Server) -> None:
    async def handler(call: Conversation) -> None:
        await asyncio.create_task(call.publish(Booked(call_id="c1", lead="task")))
        await asyncio.gather(*(call.publish(Booked(call_id="c1", lead=f"g{number}")) for number in range(3)))
        async with asyncio.TaskGroup() as group:
            group.create_task(call.publish(Booked(call_id="c1", lead="group")))
        await asyncio.wait_for(call.publish(Booked(call_id="c1", lead="timed")), 10)
        assert asyncio.iscoroutinefunction(call.publish)

    assert await run(nats_server.url, handler) == {"booked": 6}


async def test_a_task_that_the_handler_left_is_waited_for(nats_server: Server) -> None:
    tasks = []

    async def handler(call: Conversation) -> None:
        async def later() -> None:
            await call.publish(Booked(call_id="c1", lead="at once"))
            await asyncio.sleep(0.05)
            await call.publish(Booked(call_id="c1", lead="later"))

        tasks.append(asyncio.create_task(later()))
        tasks.append(asyncio.create_task(call.publish(Booked(call_id="c1", lead="not begun"))))

    assert await run(nats_server.url, handler) == {"booked": 3}


async def test_a_task_that_fails_after_the_handler_returned_fails_the_run(nats_server: Server) -> None:
    tasks = []

    async def handler(call: Conversation) -> None:
        async def later() -> None:
            await call.publish(Booked(call_id="c1"))
            raise ValueError("too late")

        tasks.append(asyncio.create_task(later()))
        await asyncio.sleep(0)  # it has begun

    told = await run(nats_server.url, handler)
    assert (told["cause"], told["error"]) == ("raised", "ValueError")
