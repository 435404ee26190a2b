"""Work in progress comes first: what is brought back does not wait behind new messages, and takes no slot too many."""

import asyncio
from pathlib import Path
from typing import Any

from support.messages import Book, Look
from support.office import at_work, consumer_info, settings, stored
from support.old_deployment import old_conversations, old_deployment
from support.old_deployment_pod import old_pod, ran

from tieline import Bus, Conversation, Host, Limits, Pod, connect
from tieline.runtime.host import names_of
from tieline.testing import Server, eventually
from tieline.wire.topology import consumers_of


async def answer(bus: Bus, conversations: int) -> None:
    """Answer the question of each conversation, as soon as it is parked."""

    async def parked() -> list[Any]:
        found = await stored(bus, "step.*.*.park.*")
        return found if len(found) == conversations else []

    await eventually(parked, what="their park records")
    for asked in await stored(bus, "step.*.*.question.*"):
        await bus.journal.write(asked.subject.replace(".question.", ".human."), {"ok": True, "value": "yes"})


async def fill(bus: Bus, messages: int) -> None:
    await asyncio.gather(*(bus.publish(Book(call_id=f"b{number}")) for number in range(messages)))


async def test_parked_messages_that_were_answered_run_before_the_backlog(nats_server: Server) -> None:
    pod, order = Pod("office", limits=Limits(concurrency=2, ack_wait=5)), list[str]()

    @pod.agent
    async def booking(message: Book | Look, call: Conversation) -> None:
        if isinstance(message, Look):
            await call.ask_human("Shall we?")
        else:
            await asyncio.sleep(0.01)
        order.append(message.call_id)

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        for number in range(8):
            await office.bus.publish(Look(call_id=f"parked{number}"))
        await fill(office.bus, 800)
        await answer(office.bus, 8)
        answered_at = len(order)
        await eventually(lambda: len([one for one in order if one.startswith("parked")]) == 8, what="all eight")
        assert len(order) - answered_at < 200  # of the 800 that were there before
        await eventually(lambda: len(order) == 808, what="the backlog", within=60)
        assert len(set(order)) == 808


async def test_one_slot_is_never_given_twice_and_goes_to_what_is_brought_back_first(nats_server: Server) -> None:
    pod, order, running = Pod("office", limits=Limits(concurrency=1, ack_wait=5)), list[str](), set[str]()
    go_on = asyncio.Event()

    @pod.agent
    async def booking(message: Book | Look, call: Conversation) -> None:
        assert not running
        if isinstance(message, Look):
            await call.ask_human("Shall we?")
            assert not running
        else:
            running.add(call.id)
            await go_on.wait()
            running.discard(call.id)
        order.append(message.call_id)

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        await office.bus.publish(Look(call_id="parked"))

        async def parks() -> list[Any]:
            return await stored(office.bus, "step.*.*.park.*")

        await eventually(parks, what="its park record")
        await fill(office.bus, 50)
        await eventually(lambda: running, what="a new message that takes the one slot")
        await answer(office.bus, 1)

        async def came_and_went() -> bool:
            """It was delivered and handed back: it waits at the server, for whoever has a slot."""
            info = await consumer_info(office.bus, "CALL_INTENT", "booking-resume")
            return bool(info["delivered"]["consumer_seq"]) and not info["num_waiting"]

        await eventually(came_and_went, what="the message that was brought back")
        assert order == []
        go_on.set()
        await eventually(lambda: "parked" in order, what="its end")
        assert order.index("parked") <= 3
        await eventually(lambda: len(order) == 51, what="the others")


async def test_new_messages_may_have_every_slot(nats_server: Server) -> None:
    pod, inside = Pod("office", limits=Limits(concurrency=3)), asyncio.Barrier(3)

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None:
        await inside.wait()

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        await fill(office.bus, 30)

        async def all_handled() -> bool:
            info = await consumer_info(office.bus, "CALL_INTENT", "booking")
            return (info["num_pending"], info["num_ack_pending"]) == (0, 0)

        await eventually(all_handled, what="thirty messages, three at a time")


async def test_an_old_deployment_gets_the_second_consumer(tmp_path: Path) -> None:
    """Also where `apply` was killed between its two steps; and what the old one left is brought back and handled."""
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        before = await consumer_info(bus, "CALL_INTENT", "worker")
        floor = before["ack_floor"]["stream_seq"]
        assert "redrive.call_intent.worker" in before["config"]["filter_subjects"]
        await bus.apply()
        resume = (await consumer_info(bus, "CALL_INTENT", "worker-resume"))["config"]
        assert resume["opt_start_seq"] == floor + 1
        main = (await consumer_info(bus, "CALL_INTENT", "worker"))["config"]
        assert not [one for one in filters_of(main) if one.startswith("redrive.")]

        # A kill after the first step: both consumers take what is brought back.
        body = {"stream_name": "CALL_INTENT", "config": before["config"], "action": "update"}
        await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.worker", body)
        await bus.apply()
        assert not [change for change in await bus.plan() if change.kind == "consumer"]
        assert resume == (await consumer_info(bus, "CALL_INTENT", "worker-resume"))["config"]

        ran.clear()
        waiting = [name for name in old_conversations("redrive-waits", "over") if name != "human-late"]  # gives up
        host = Host(bus, names_of(old_pod))
        work = asyncio.create_task(host.run())
        await eventually(
            lambda: {name for who, name in ran if who == "worker"} >= set(waiting), what="what had been brought back"
        )
        host.stop()
        await work
        assert sorted(name for who, name in ran if who == "worker" and name in waiting) == sorted(waiting)


def filters_of(config: dict[str, Any]) -> list[str]:
    return config.get("filter_subjects") or [config.get("filter_subject", "")]


def test_every_agent_and_tool_has_one_for_each_stream() -> None:
    pod = Pod("office")

    @pod.tool
    async def crm(phone: str) -> str:
        return phone

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    kinds = {consumer.durable: (consumer.kind, consumer.owner) for consumer in consumers_of(pod)}
    assert kinds == {
        "booking": ("main", "booking"),
        "booking-resume": ("resume", "booking"),
        "tool-crm": ("main", "tool-crm"),
        "tool-crm-resume": ("resume", "tool-crm"),
        "booking-waker": ("waker", "booking"),
    }
