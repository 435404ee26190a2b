"""A full journal makes the pod wait, and nothing else: no attempt counts, no effect is repeated, and it goes on by
itself once there is room."""

import asyncio
import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import tieline
from support.office import QUICK, Office, at_work, settings

from tieline import Bus, Conversation, Limits, Message, Pod, Refuse
from tieline.services import accountant, health
from tieline.testing import Server, eventually
from tieline.wire import topology

ROOM = 256 * 1024


class Job(Message, subject="call.intent.job"):
    call_id: str


def office(limits: Limits) -> tuple[Pod, Counter[str]]:
    pod = Pod("office", limits=limits)
    pod.streams["STEP"] = replace(pod.streams["STEP"], max_bytes=ROOM)
    effects: Counter[str] = Counter()

    @pod.tool(effect="once")
    async def stamp(name: str) -> str:
        effects[f"{name} stamp"] += 1
        return name

    @pod.agent
    async def worker(_: Job, call: Conversation) -> None:
        async def effect(name: str) -> str:
            effects[f"{call.id} {name}"] += 1
            return "x" * 3000

        await call.step("one", effect, "one")
        await call.tool(stamp, call.id)
        await call.step("two", effect, "two")
        effects[f"{call.id} end"] += 1

    return pod, effects


async def enlarge(bus: Bus, pod: Pod, stream: str = "STEP") -> None:
    pod.streams[stream] = replace(pod.streams[stream], max_bytes=64 * 1024 * 1024)
    await topology.apply(bus.connection, pod)


async def full(bus: Bus, stream: str = "STEP") -> bool:
    info = await bus.connection.api(f"STREAM.INFO.{stream}")
    return int(info["state"]["bytes"]) > 0.9 * int(info["config"]["max_bytes"])


def ended(effects: Counter[str]) -> int:
    return sum(count for name, count in effects.items() if name.endswith(" end"))


async def test_a_full_journal_makes_the_pod_wait_and_it_goes_on_by_itself(
    nats_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    calls = [f"c{number}" for number in range(100)]
    # A handler that waits for room does not run into its timeout, and its lease does not end.
    pod, effects = office(replace(QUICK, ack_wait=2.5, timeout=1.5, attempts=2))
    async with at_work(pod, settings(nats_server.url, audit=True, patience=1.0)) as work:
        for call in calls:
            await work.bus.publish(Job(call_id=call), id=call)
        await eventually(lambda: bool(work.bus.stands_still), what="a full journal", within=60)
        await eventually(lambda: full(work.bus), what="a full stream")
        await eventually(lambda: stable(effects), what="a pod that stands still", within=60)
        finished = ended(effects)
        assert 0 < finished < len(calls)
        told = health.told(work.bus, work.host)
        assert told["ready"] is False
        assert "STEP has no room" in told["waits"]
        assert "tieline apply" in told["waits"]
        lines = [record.getMessage() for record in caplog.records if record.name == "tieline.standstill"]
        assert len(lines) == 1, lines  # once a minute, however many wait
        assert "stream STEP is full" in lines[0]
        report = await tieline("report", "--json", cwd=tmp_path, url=nats_server.url)
        assert "STEP" in str(json.loads(report.out)["alarms"])
        assert ended(effects) == finished
        await enlarge(work.bus, pod)
        await eventually(lambda: ended(effects) >= len(calls), what="everything finished", within=60)
        assert work.bus.stands_still == ""
        # A handler may run again, such as after its tool made it park; what it recorded does not.
        repeated = {name: count for name, count in effects.items() if count > 1 and not name.endswith(" end")}
        assert repeated == {}
        assert not (await work.bus.connection.api("STREAM.INFO.DLQ"))["state"]["messages"]
        ends = [s for s in await work.bus.journal.subjects("step.*.*.attempt.*") if s.endswith("-end")]
        how = Counter(record["end"] for record in (await work.bus.journal.read(ends)).values())
        assert not how["raised"]  # no attempt failed; a run may have parked for its tool
        await eventually(lambda: holds(work), what="the sum", within=60)


async def stable(effects: Counter[str]) -> bool:
    """Whether nothing happens any more: for longer than a handler's timeout, and than an ack wait."""
    for _ in range(12):
        before = Counter(effects)
        await asyncio.sleep(0.25)
        if effects != before:
            return False
    return True


async def holds(work: Office) -> bool:
    rows = await accountant.take_settled(work.bus)
    assert all(row.holds for row in rows), rows
    return all(row.pending == 0 for row in rows)


async def test_a_process_that_stops_while_it_waits_hands_everything_back(nats_server: Server) -> None:
    pod, effects = office(replace(QUICK, ack_wait=1.0, drain=0.1))
    calls = [f"c{number}" for number in range(60)]
    chosen = settings(nats_server.url, audit=True, patience=1.0)
    async with at_work(pod, chosen) as work:
        for call in calls:
            await work.bus.publish(Job(call_id=call), id=call)
        await eventually(lambda: bool(work.bus.stands_still), what="a full journal", within=60)
    async with at_work(pod, chosen) as work:
        await enlarge(work.bus, pod)
        await eventually(lambda: all(effects[f"{call} end"] for call in calls), what="everything", within=60)
        assert not (await work.bus.connection.api("STREAM.INFO.DLQ"))["state"]["messages"]


async def test_a_full_dead_letter_stream_runs_no_handler_twice(nats_server: Server) -> None:
    runs: Counter[str] = Counter()
    pod = Pod("office", limits=replace(QUICK, ack_wait=1.0))
    pod.streams["DLQ"] = replace(pod.streams["DLQ"], max_bytes=16 * 1024)

    @pod.agent
    async def worker(job: Job, _: Conversation) -> Refuse:
        runs[job.call_id] += 1
        return Refuse("nobody of that name lives here")

    async with at_work(pod, settings(nats_server.url, patience=1.0)) as work:
        calls = [f"c{number}" for number in range(40)]
        for call in calls:
            await work.bus.publish(Job(call_id=call), id=call)
        await eventually(lambda: "DLQ has no room" in work.bus.stands_still, what="full dead letters")
        await enlarge(work.bus, pod, "DLQ")
        await eventually(lambda: letters(work.bus, len(calls)), what="all dead letters", within=60)
    assert set(runs.values()) == {1}


async def letters(bus: Bus, count: int) -> bool:
    return int((await bus.connection.api("STREAM.INFO.DLQ"))["state"]["messages"]) == count


async def test_a_full_audit_makes_the_pod_wait_and_it_goes_on_by_itself(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    pod.streams["CALL_AUDIT"] = replace(pod.streams["CALL_AUDIT"], max_bytes=64 * 1024)
    done: set[str] = set()

    @pod.agent
    async def worker(job: Job, _: Conversation) -> None:
        done.add(job.call_id)

    async with at_work(pod, settings(nats_server.url, audit=True, patience=1.0)) as work:
        calls = [f"c{number}" for number in range(3000)]

        async def publish() -> None:
            for call in calls:
                await work.bus.connection.request(
                    "call.intent.job", json.dumps({"callId": call}).encode(), {"Nats-Msg-Id": call}
                )

        publishing = asyncio.create_task(publish())
        await eventually(lambda: "CALL_AUDIT" in work.bus.stands_still, what="a full audit", within=60)
        assert health.told(work.bus, work.host)["ready"] is False
        await enlarge(work.bus, pod, "CALL_AUDIT")
        await publishing
        await eventually(lambda: len(done) == len(calls), what="all of them", within=60)
        await eventually(lambda: holds(work), what="the sum", within=60)
