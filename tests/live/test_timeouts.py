"""A timeout of the handler's own around a wait is honored: the wait does not park inside it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from support.messages import Book
from support.office import QUICK, at_work, settings, stored

from tieline import Conversation, Pod
from tieline.testing import Server, eventually


async def in_timeout(call: Conversation) -> None:
    async with asyncio.timeout(0.4):
        await call.ask_human("Shall we?")


async def in_wait_for(call: Conversation) -> None:
    await asyncio.wait_for(call.ask_human("Shall we?"), 0.4)


async def in_a_timeout_of_a_helper(call: Conversation) -> None:
    async def helper() -> None:
        await call.sleep(timedelta(hours=1))

    async with asyncio.timeout(0.4), asyncio.TaskGroup() as group:
        group.create_task(helper())


async def in_gather(call: Conversation) -> None:
    await asyncio.wait_for(asyncio.gather(call.ask_human("Shall we?"), call.ask_human("Or not?")), 0.4)


@pytest.mark.parametrize("wait", [in_timeout, in_wait_for, in_a_timeout_of_a_helper, in_gather])
async def test_a_timeout_around_a_wait_ends_it(
    nats_server: Server, wait: Callable[[Conversation], Awaitable[None]]
) -> None:
    pod, ended = Pod("office", limits=QUICK), []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await wait(call)
        except TimeoutError:
            ended.append(call.attempt)

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: ended, what="the end of the timeout", within=10)
        assert ended == [1]
        assert not await stored(office.bus, "step.*.*.park.*")


async def test_without_a_timeout_the_same_wait_parks(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        async with asyncio.timeout(30):
            await call.publish(Book(call_id="c2")) if call.id == "none" else None
        await call.ask_human("Shall we?")

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: stored(office.bus, "step.*.*.park.*"), what="its park record")
