"""`tieline apply --prune`: what a pod no longer declares is shown, then removed, and nothing else is."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from command_line import started, tieline
from support.messages import Book, Look
from support.office import Office, at_work, dead_letters, settings, stored

from tieline import Bus, Conversation, Limits, Pod, Refuse, connect, subjects
from tieline.operations.prune import Leftover, find_leftovers, prune
from tieline.outcomes import Outcome
from tieline.testing import eventually
from tieline.wire import topology

_LIMITS = Limits(first_retry="50ms", longest_retry="500ms", drain="1s", ack_wait="5s", concurrency=16)
_REDRIVE = "redrive.call_intent.booking-agent"
_SHOP = """
from tieline import Conversation, Message, Pod

class Look(Message, subject="call.intent.look"):
    call_id: str

pod = Pod("office")

@pod.agent
async def looking(_: Look, __: Conversation) -> None: ...
"""


def pod_with(*, booking: bool, name: str = "office", version: str = "0") -> Pod:
    """Two agents and a tool, or what is left of them."""
    pod = Pod(name, version=version, limits=_LIMITS)
    if booking:

        @pod.tool
        async def crm(phone: str) -> str:
            return phone

        @pod.agent
        async def booking_agent(message: Book, call: Conversation) -> Outcome | None:
            await call.tool(crm, message.phone)
            if message.phone == "dead":
                return Refuse("we are closed")
            if message.phone == "ask":
                await call.ask_human("May we?", expects=bool, within=3600)
            return None

    @pod.agent
    async def looking(message: Look, call: Conversation) -> None:
        await call.step("look", looked, message.call_id)

    return pod


async def looked(call_id: str) -> str:
    return call_id


async def busy(office: Office) -> None:
    """The agent has something of everything: a journal, parked messages with wake-ups, and dead letters."""
    for phone, count in (("plain", 3), ("dead", 2), ("ask", 2)):
        for number in range(count):
            await office.bus.publish(Book(call_id=f"{phone}{number}", phone=phone))
    await office.bus.publish(Look(call_id="l1"))

    async def aside() -> bool:
        return (
            len(await stored(office.bus, "step.booking-agent.*.park.*")) == 2
            and len(await stored(office.bus, "schedule.*")) == 2
            and len(await dead_letters(office.bus)) == 2
            and len(await stored(office.bus, "step.looking.*.*.*")) > 0
        )

    await eventually(aside, what="two parked, two dead", within=30)


async def consumers(bus: Bus) -> set[str]:
    found: set[str] = set()
    for stream in ("CALL_INTENT", "TOOL_CALL", "STEP"):
        infos = await topology.consumer_infos(bus.connection, stream)
        found |= {f"{stream}/{info['name']}" for info in infos if info["config"].get("metadata", {}).get("tieline.pod")}
    return found


async def state(bus: Bus, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bus.connection.api(f"STREAM.INFO.{stream}"))["state"]
    return found


async def test_it_shows_what_it_will_remove_and_removes_it_and_nothing_else(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_SHOP)
    async with at_work(pod_with(booking=True), nats_url) as office:
        await busy(office)
    async with connect(Pod("eyes"), settings=settings(nats_url)) as bus:
        await bus.publisher.publish("call.intent.book", b'{"callId":"late"}', {})
        before = await state(bus, "CALL_INTENT")
        kept = [record.stored_as for record in await stored(bus, "step.looking.*.*.*")]

        refused = await tieline("apply", "shop", "--prune", cwd=tmp_path, url=nats_url)
        assert refused.code == 2
        assert "--yes" in refused.err
        assert "booking-agent" in refused.out
        told = await tieline("apply", "shop", "--prune", "--json", cwd=tmp_path, url=nats_url)
        assert told.code == 2
        [agent, tool] = told.json["prune"]["agents"]
        assert (agent["agent"], agent["pending"], agent["parked"], agent["deadLetters"]) == ("booking-agent", 1, 2, 2)
        assert agent["schedules"] == 2
        assert agent["journal"] >= 7, "the results of its tool calls and more"
        assert tool["agent"] == "tool-crm"
        assert told.json["prune"]["removed"] == []
        assert len(await stored(bus, "step.booking-agent.*.*.*")) == agent["journal"], (
            "nothing is removed before it is said"
        )

        done = await tieline("apply", "shop", "--prune", "--yes", "--json", cwd=tmp_path, url=nats_url)
        assert (done.code, done.json["prune"]["removed"]) == (0, ["booking-agent", "tool-crm"])
        assert {name.removesuffix("-resume") for name in await consumers(bus)} == {
            "CALL_INTENT/looking",
            "STEP/looking-waker",
        }
        for gone in ("step.booking-agent.*.*.*", "step.booking-agent-waker.*.*.*", "step.tool-crm.*.*.*", "schedule.*"):
            assert await stored(bus, gone) == [], gone
        assert [record.stored_as for record in await stored(bus, "step.looking.*.*.*")] == kept
        assert len(await dead_letters(bus)) == 2, "dead letters stay, for `tieline dlq`"
        assert (await state(bus, "CALL_INTENT"))["messages"] == before["messages"]
        again = await tieline("apply", "shop", "--prune", cwd=tmp_path, url=nats_url)
        assert (again.code, "nothing to prune" in again.out) == (0, True)


async def test_killed_halfway_it_is_finished_by_the_next(nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_SHOP)
    async with at_work(pod_with(booking=True), nats_url) as office:
        await busy(office)
    async with connect(Pod("eyes"), settings=settings(nats_url)) as bus:
        target = {"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": subjects.due(_REDRIVE)}
        wake_ups = (bus.publisher.publish(f"schedule.wake{number}", b"{}", target) for number in range(1500))
        await asyncio.gather(*wake_ups)
        command = ("apply", "shop", "--prune", "--yes")

        async def wakes() -> int:
            return int((await state(bus, "SCHEDULE"))["messages"])

        async with started(*command, cwd=tmp_path, url=nats_url) as program:
            before = await wakes()
            await eventually(lambda: fewer_than(wakes, before), what="the first is removed", every=0.001)
            program.process.kill()
            await program.process.wait()
        assert await wakes() > 0, "it was killed in the middle"
        assert "CALL_INTENT/booking-agent" in await consumers(bus), "what says that there is more goes last"
        finished = await tieline(*command, "--json", cwd=tmp_path, url=nats_url)
        assert (finished.code, finished.json["prune"]["removed"]) == (0, ["booking-agent", "tool-crm"])
        for gone in ("step.booking-agent.*.*.*", "step.booking-agent-waker.*.*.*", "step.tool-crm.*.*.*", "schedule.*"):
            assert await stored(bus, gone) == [], gone


async def fewer_than(count: Callable[[], Awaitable[int]], before: int) -> bool:
    return await count() < before


async def test_what_another_pod_a_newer_version_or_a_running_process_uses_is_kept(nats_url: str) -> None:
    left = pod_with(booking=False)
    async with at_work(pod_with(booking=True), nats_url) as office:
        await busy(office)
        found = await find_leftovers(office.bus.connection, left)
        assert [(one.agent, "still pulls" in one.kept_because) for one in found] == [
            ("booking-agent", True),
            ("tool-crm", True),
        ]
    async with connect(left, settings=settings(nats_url)) as bus:
        await bus.connection.api("STREAM.CREATE.THEIRS", {"name": "THEIRS", "subjects": ["theirs.*"]})
        theirs = {"durable_name": "booking-agent", "ack_policy": "explicit", "metadata": {"tieline.pod": "theirs"}}
        body = {"stream_name": "THEIRS", "config": theirs}
        await bus.connection.api("CONSUMER.CREATE.THEIRS.booking-agent", body)
        removed: list[Leftover] = []
        found = await find_leftovers(bus.connection, left)
        assert (found[0].agent, found[0].journals) == ("booking-agent", ())
        journal = len(await stored(bus, "step.booking-agent.*.*.*"))
        await prune(bus.connection, left, found, removed.append)
        assert [one.agent for one in removed] == ["booking-agent", "tool-crm"]
        assert len(await stored(bus, "step.booking-agent.*.*.*")) == journal, "it is the other pod's as well"
        infos = await topology.consumer_infos(bus.connection, "THEIRS")
        assert "booking-agent" in {info["name"] for info in infos}

        await topology.apply(bus.connection, pod_with(booking=True, version="2"))
        older = pod_with(booking=False, version="1.9")
        found = await find_leftovers(bus.connection, older)
        assert {one.kept_because for one in found} == {"version 2 of the pod made it; this is version 1.9"}
        before = await consumers(bus)
        await prune(bus.connection, older, found, removed.append)
        assert await consumers(bus) == before
        forced = await find_leftovers(bus.connection, older, force=True)
        assert {one.kept_because for one in forced} == {""}
