"""Delayed messages leave SCHEDULE once they are delivered, and never before."""

import asyncio
from pathlib import Path

from support.messages import Book
from support.office import settings
from support.old_deployment import old_deployment
from support.old_deployment_pod import old_pod

from tieline import Bus, Conversation, Pod, connect
from tieline.services.due_messages import DueMessages
from tieline.testing import Server, eventually

pod = Pod("office")


@pod.agent
async def booking(intent: Book, call: Conversation) -> None:
    call.log("booked %s", intent.call_id)


async def count(bus: Bus, stream: str, pattern: str = ">") -> int:
    info = await bus.connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
    return sum((info["state"].get("subjects") or {}).values())


async def delivered(bus: Bus, many: int) -> None:
    async def all_there() -> bool:
        return await count(bus, "CALL_INTENT") == many

    await eventually(all_there, what=f"{many} delayed messages in their stream", within=30.0)


async def test_a_delivered_message_is_removed_and_a_waiting_one_stays(nats_server: Server) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for number in range(5):
            await bus.publish(Book(call_id=f"c{number}"), after=0.2)
        await bus.publish(Book(call_id="tomorrow"), after=86_400)
        await delivered(bus, 5)
        due = DueMessages(bus.connection)
        assert await due.remove() == 5
        assert (await count(bus, "SCHEDULE", "due.>"), await count(bus, "SCHEDULE", "schedule.*")) == (0, 1)
        assert await due.remove() == 0
    nats_server.kill()
    await nats_server.start()
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.publish(Book(call_id="next"), after=0.1)
        await delivered(bus, 6)  # the next one, and none of the others again


async def test_what_a_full_stream_has_not_stored_stays_until_it_has(nats_server: Server) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await bus.publish(Book(call_id="first"), after=0.1)
        await delivered(bus, 1)
        info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
        full = info["config"] | {"max_bytes": info["state"]["bytes"] + 10}
        await bus.connection.api("STREAM.UPDATE.CALL_INTENT", full)
        for number in range(3):
            await bus.publish(Book(call_id=f"c{number}"), after=0.1)

        async def all_due() -> bool:
            return await count(bus, "SCHEDULE", "due.>") == 4

        await eventually(all_due, what="the messages to be due")
        removals = await asyncio.gather(*(DueMessages(bus.connection).remove() for _ in range(2)))  # two at once
        assert sum(removals) == 1
        assert await count(bus, "SCHEDULE", "due.>") == 3
        await bus.connection.api("STREAM.UPDATE.CALL_INTENT", info["config"])
        await delivered(bus, 4)
        assert await DueMessages(bus.connection).remove() == 3


async def test_a_stream_that_is_missing_gets_what_is_due_when_it_is_made(nats_server: Server) -> None:
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await bus.publish(Book(call_id="c1"), after=0.2)
        await bus.connection.api("STREAM.DELETE.CALL_INTENT")

        async def is_due() -> bool:
            return await count(bus, "SCHEDULE", "due.>") == 1

        await eventually(is_due, what="the message to be due")
        assert await DueMessages(bus.connection).remove() == 0
        await bus.apply()
        assert await DueMessages(bus.connection).remove() in (0, 1)
        await delivered(bus, 1)


async def test_what_an_earlier_version_left_is_removed(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        left = await count(bus, "SCHEDULE", "due.>")
        assert left
        waiting = await count(bus, "SCHEDULE", "schedule.*")
        stored = await count(bus, "CALL_INTENT")
        await bus.apply()
        due = DueMessages(bus.connection)

        async def none_left() -> bool:
            await due.remove()
            return not await count(bus, "SCHEDULE", "due.>")

        await eventually(none_left, what="what the old deployment left", within=30.0)
        # Some timers of the recording end now. Each message is delivered once, and none is delivered again.
        fired = waiting - await count(bus, "SCHEDULE", "schedule.*")
        assert await count(bus, "CALL_INTENT") == stored + fired
