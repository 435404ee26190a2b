"""A consumer that somebody deleted comes back where nothing is repeated and nothing is lost, or not at all."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import started, tieline
from support.messages import Book
from support.office import at_work, consumer_info, settings

from tieline import Bus, ConsumerGone, Conversation, Limits, NotApplied, Pod, connect
from tieline.operations.recreate import plan_recreations, recreate
from tieline.services import accountant
from tieline.testing import eventually
from tieline.wire import topology

_LIMITS = Limits(first_retry="50ms", longest_retry="500ms", drain="1s", ack_wait="5s", concurrency=4)
_SHOP = """
import asyncio
from pathlib import Path
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.agent
async def booking(intent: Book, call: Conversation) -> None:
    with Path("handled").open("a") as handled:
        handled.write(f"{intent.call_id}\\n")
"""


class Desk:
    """A booking agent; messages whose phone is ``hold`` wait until they are let go."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.go = asyncio.Event()
        self.pod = Pod("office", limits=_LIMITS)

        async def charge(call_id: str) -> int:
            self.effects[call_id] += 1
            return 1

        @self.pod.agent
        async def booking(message: Book, call: Conversation) -> None:
            await call.step("charge", charge, message.call_id)
            if message.phone == "hold":
                await self.go.wait()
            self.runs[message.call_id] += 1


async def booked(bus: Bus, phone: str, *calls: str) -> None:
    for call in calls:
        await bus.publish(Book(call_id=call, phone=phone))


async def delete(bus: Bus, name: str = "CALL_INTENT.booking") -> None:
    await bus.connection.api(f"CONSUMER.DELETE.{name}")


def calls(first: int, last: int) -> list[str]:
    return [f"c{number}" for number in range(first, last + 1)]


async def test_it_begins_behind_what_was_handled_and_what_was_not_is_brought_back(nats_url: str) -> None:
    desk = Desk()
    stop = asyncio.Event()
    facts = settings(nats_url, audit=True)
    async with connect(desk.pod, settings=facts) as eyes:
        await topology.apply(eyes.connection, desk.pod)
        accounting = asyncio.create_task(accountant.run(eyes, stop))
        with suppress(ConsumerGone):
            async with at_work(desk.pod, facts) as office:
                await booked(office.bus, "", *calls(1, 10))
                await booked(office.bus, "hold", "c11", "c12")
                await booked(office.bus, "", *calls(13, 20))
                await eventually(lambda: len(desk.runs) == 18 and len(desk.effects) == 20, what="all but two")
                await office.bus.written()
                await delete(office.bus)
                await booked(office.bus, "", *calls(21, 25))  # the backlog of an agent without a consumer
                await office.work

        async def has_checkpoint() -> bool:
            return bool((await eyes.connection.api("STREAM.INFO.ACCOUNTING"))["state"]["messages"])

        await eventually(has_checkpoint, what="the accountant's first checkpoint")
        stop.set()
        await accounting

        [found] = await plan_recreations(eyes, {})
        assert (found.begin, found.bring_back) == (21, (11, 12))
        for _ in range(2):  # killed between the two, and run again
            await recreate(eyes, found)
        info = await consumer_info(eyes, "CALL_INTENT", "booking")
        assert info["num_pending"] == 5 + (0 if "-resume" in await names(eyes) else 2)
        desk.go.set()
        async with at_work(desk.pod, facts) as office:
            await eventually(lambda: len(desk.runs) == 25, what="the rest")
            await office.bus.written()
            rows = await accountant.take_settled(office.bus)
    assert {call: count for call, count in desk.runs.items() if count > 1} == {}
    assert {call: count for call, count in desk.effects.items() if count > 1} == {}, "recorded steps are found"
    [row] = [row for row in rows if row.agent == "booking"]
    assert (row.published, row.done, row.pending, row.unaccounted) == (25, 25, 0, 0)


async def names(bus: Bus) -> str:
    return " ".join(info["name"] for info in await topology.consumer_infos(bus.connection, "CALL_INTENT"))


async def test_without_a_known_position_it_is_refused_with_the_command_that_decides(
    nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(_SHOP.replace('Pod("shop")', 'Pod("office")'))
    desk = Desk()
    async with at_work(desk.pod, nats_url) as office:  # no accountant ever ran
        await booked(office.bus, "", *calls(1, 5))
        await eventually(lambda: len(desk.runs) == 5, what="all are handled")
    async with connect(desk.pod, settings=settings(nats_url)) as bus:
        await delete(bus)
        with pytest.raises(NotApplied, match="--begin booking=new"):
            await plan_recreations(bus, {})
        for command in ("plan", "apply"):
            refused = await tieline(command, "shop", cwd=tmp_path, url=nats_url)
            assert (refused.code, "tieline apply POD --begin booking=new` (behind sequence 5)" in refused.err) == (
                1,
                True,
            )
        assert "booking" not in (await names(bus)).split()
        assert (await tieline("apply", "shop", "--begin", "booking", cwd=tmp_path, url=nats_url)).code == 2
        done = await tieline("apply", "shop", "--begin", "booking=4", cwd=tmp_path, url=nats_url)
        assert (done.code, "created again at sequence 4" in done.err) == (0, True), done
        assert (await consumer_info(bus, "CALL_INTENT", "booking"))["num_pending"] == 2


async def test_an_agent_that_is_new_is_not_taken_for_a_deleted_one(nats_url: str) -> None:
    desk = Desk()
    async with connect(desk.pod, settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, Pod("office"))
        await bus.publish(Book(call_id="c1"))
        assert await plan_recreations(bus, {}) == []


async def test_up_creates_a_deleted_consumer_again_and_nothing_is_handled_twice(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_SHOP)

    def handled() -> list[str]:
        path = tmp_path / "handled"
        return path.read_text().split() if path.exists() else []

    async with started("up", "shop", "--port", "0", "--data", "data", "--json", cwd=tmp_path) as program:
        ready = await program.line()
        async with connect(Pod("eyes"), settings=settings(ready["url"])) as bus:
            for call in calls(1, 30):
                await bus.publisher.publish("call.intent.book", json.dumps({"callId": call}).encode(), {})
            await eventually(lambda: len(handled()) == 30, what="all are handled")
            await eventually(lambda: checkpoint(bus), what="the accountant's checkpoint")
            await delete(bus)
            told = await program.line(event="log", name="up")
            assert told["text"].startswith(
                "consumer CALL_INTENT/booking was deleted; it is created again at sequence 31"
            )
            assert (await program.line(event="restarted"))["name"] == "booking"
            for call in calls(31, 40):
                await bus.publisher.publish("call.intent.book", json.dumps({"callId": call}).encode(), {})
            await eventually(lambda: len(handled()) >= 40, what="what came since")
    assert sorted(handled()) == sorted(calls(1, 40))


async def checkpoint(bus: Bus) -> bool:
    state = (await bus.connection.api("STREAM.INFO.ACCOUNTING"))["state"]
    return bool(state["messages"])
