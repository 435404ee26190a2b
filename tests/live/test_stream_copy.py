"""STEP of an old deployment denies deletes. `apply` makes it again without that, whatever interrupts it."""

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import started
from support.office import QUICK, at_work, settings
from support.old_deployment import old_deployment
from support.old_deployment_pod import old_pod

from tieline import Bus, ConsumerGone, Conversation, Host, Message, NotApplied, Pod, connect
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.connection import ApiError
from tieline.wire.consumer import PullConsumer
from tieline.wire.stream_copy import copy_name, is_denied, stages

STEP = "STEP"
STAGES = 6


class Job(Message, subject="call.intent.job"):
    call_id: str


def wanted(pod: Pod) -> dict[str, Any]:
    return topology.stream_config(pod.streams[STEP], 1, {})


async def info(bus: Bus, stream: str = STEP) -> dict[str, Any] | None:
    try:
        return await bus.connection.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        if error.code != 404:
            raise
        return None


async def records(bus: Bus, stream: str = STEP) -> list[tuple[int, str, bytes, str]]:
    """Everything a stream holds: sequence, subject, payload, time."""
    found = []
    state = (await bus.connection.api(f"STREAM.INFO.{stream}"))["state"]
    for seq in range(max(1, state["first_seq"]), state["last_seq"] + 1):
        message = (await bus.connection.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
        found.append((seq, message["subject"], message.get("data", "").encode(), message["time"]))
    return found


async def floors(bus: Bus) -> dict[str, int]:
    return {
        consumer["name"]: consumer["ack_floor"]["stream_seq"]
        for consumer in await topology.consumer_infos(bus.connection, STEP)
        if consumer["config"].get("durable_name")
    }


async def move_a_waker(bus: Bus) -> None:
    """So that one consumer of STEP is somewhere else than at its start."""
    await bus.journal.write("step.worker.plain-1.ask.extra", {"ok": True})
    consumer = PullConsumer(bus.connection, STEP, "worker-waker")
    [delivery] = await eventually(lambda: consumer.fetch(1), what="the record")
    await delivery.ack()
    await consumer.close()
    await eventually(lambda: _moved(bus), what="the acknowledgement")


async def _moved(bus: Bus) -> bool:
    return (await floors(bus))["worker-waker"] > 0


async def old_server_step(bus: Bus) -> None:
    """STEP as earlier versions made it, beside everything else that a pod has."""
    await topology.apply(bus.connection, bus.pod)
    consumers = await topology.consumer_infos(bus.connection, STEP)
    await bus.connection.api("STREAM.DELETE.STEP")
    config = wanted(bus.pod) | {"deny_delete": True, "deny_purge": True}
    await bus.connection.api("STREAM.CREATE.STEP", config)
    for consumer in consumers:
        body = {"stream_name": STEP, "config": consumer["config"], "action": "create"}
        await bus.connection.api(f"CONSUMER.CREATE.STEP.{consumer['name']}", body)


async def test_the_records_their_times_and_the_consumers_positions_stay(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        await move_a_waker(bus)
        before, positions = await records(bus), await floors(bus)
        assert is_denied((await info(bus) or {})["config"])
        planned = await topology.plan(bus.connection, old_pod)
        assert ("STEP", "update", "deny_delete") in [(c.name, c.action, c.field) for c in planned]
        done = await topology.apply(bus.connection, old_pod)
        assert ("STEP", "update", "deny_delete") in [(c.name, c.action, c.field) for c in done]
        assert await topology.plan(bus.connection, old_pod) == []
        after = await info(bus)
        assert after is not None
        assert not is_denied(after["config"])
        assert await records(bus) == before
        assert await floors(bus) == positions
        assert await info(bus, copy_name(STEP)) is None
        taken = before[0][1]
        assert not await bus.journal.write(taken, {"ok": True, "value": "another"})  # still written once
        await bus.connection.api("STREAM.MSG.DELETE.STEP", {"seq": before[0][0]})  # what it was made again for


@pytest.mark.parametrize("after", range(1, STAGES + 1))
async def test_whoever_applies_next_goes_on(tmp_path: Path, after: int) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        await move_a_waker(bus)
        before, positions = await records(bus), await floors(bus)
        going = stages(bus.connection, wanted(old_pod))
        for _ in range(after):
            await anext(going)
        await going.aclose()  # as if killed: its lease stays
        if after == STAGES // 2:
            server.kill()
            await server.restart()
        holders = [name for name in (STEP, copy_name(STEP)) if await info(bus, name) is not None]

        async def whole() -> list[str]:
            return [name for name in holders if await records(bus, name) == before]

        await eventually(whole, what=f"a stream with all records after {after} stages")
        await topology.apply(bus.connection, old_pod)
        assert await records(bus) == before
        assert await floors(bus) == positions
        assert await topology.plan(bus.connection, old_pod) == []
        assert await info(bus, copy_name(STEP)) is None


async def test_a_copy_that_an_older_version_left_behind_is_made_again(tmp_path: Path) -> None:
    """An old `apply` gives STEP its subjects back in the middle: what is recorded then must not be lost."""
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        going = stages(bus.connection, wanted(old_pod))
        await anext(going)
        await anext(going)
        await going.aclose()
        config = (await info(bus) or {})["config"]
        await bus.connection.api("STREAM.UPDATE.STEP", config | {"subjects": list(old_pod.streams[STEP].subjects)})
        assert await bus.journal.write("step.worker.late.step.one", {"ok": True})
        before = await records(bus)
        await topology.apply(bus.connection, old_pod)
        assert await records(bus) == before


async def test_several_at_once(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        before = await records(bus)
        answers = await asyncio.gather(
            *(topology.apply(bus.connection, old_pod) for _ in range(4)), return_exceptions=True
        )
        assert all(isinstance(answer, NotApplied | list) for answer in answers), answers
        await topology.apply(bus.connection, old_pod)
        assert await records(bus) == before
        assert await topology.plan(bus.connection, old_pod) == []


async def test_a_process_that_is_killed_while_it_applies(nats_server: Server, tmp_path: Path) -> None:
    """SIGKILL at arbitrary moments of a copy that takes a while, with agents at work all the time."""
    (tmp_path / "shop.py").write_text(
        "from tieline import Conversation, Message, Pod\n"
        "class Job(Message, subject='call.intent.job'):\n    call_id: str\n"
        "pod = Pod('shop')\n"
        "@pod.agent\nasync def worker(job: Job, call: Conversation) -> None: ...\n"
    )
    pod = Pod("shop")

    @pod.agent
    async def worker(_: Job, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await old_server_step(bus)
        wide = 20_000

        async def write(lane: int) -> None:
            for number in range(lane, wide, 100):
                await bus.journal.write(f"step.worker.c{number}.step.one", {"ok": True, "value": "x" * 500})

        await asyncio.gather(*(write(lane) for lane in range(100)))
        for moment in ("copying", "closed", "gone or made again"):
            async with started("apply", "shop", cwd=tmp_path, url=nats_server.url) as program:
                await eventually(lambda at=moment: _reached(bus, at), what=moment, every=0.002)
                if program.process.returncode is None:
                    os.kill(program.process.pid, signal.SIGKILL)
                await program.process.wait()
        await topology.apply(bus.connection, pod)
        state = (await info(bus) or {})["state"]
        assert (state["messages"], state["first_seq"], state["last_seq"]) == (wide, 1, wide)
        assert await topology.plan(bus.connection, pod) == []


async def _reached(bus: Bus, moment: str) -> bool:
    step, copy = await info(bus), await info(bus, copy_name(STEP))
    if step is not None and copy is None and not is_denied(step["config"]):
        return True  # it was faster than we looked
    match moment:
        case "copying":
            return copy is not None
        case "closed":
            return step is None or list(step["config"].get("subjects") or ()) != list(bus.pod.streams[STEP].subjects)
        case _:
            return step is None or bool(step["config"].get("mirror"))


async def test_work_goes_on_while_it_is_made_again(nats_server: Server) -> None:
    """Agents keep working on messages whose steps are recorded before, while and after STEP is made again."""
    pod = Pod("busy", limits=replace(QUICK, ack_wait=1.0))
    effects: list[str] = []
    begun: set[str] = set()
    done: set[str] = set()
    made_again = asyncio.Event()

    @pod.agent
    async def worker(job: Job, call: Conversation) -> None:
        async def effect(name: str) -> str:
            effects.append(f"{call.id} {name}")
            return name

        await call.step("before", effect, "before")
        begun.add(call.id)
        if int(call.id) < 4:
            await made_again.wait()
        await call.step("after", effect, "after")
        done.add(job.call_id)

    chosen = settings(nats_server.url)
    async with connect(pod, settings=chosen) as bus:
        await old_server_step(bus)
    calls = [f"{number}" for number in range(40)]
    async with connect(pod, settings=chosen) as bus, asyncio.TaskGroup() as group:
        going = stages(bus.connection, wanted(pod))
        await anext(going)  # one copy is made; STEP is as it was, for now
        host = Host(bus, ["worker"])
        work = group.create_task(_until_gone(host))
        for call in calls[:8]:
            await bus.publish(Job(call_id=call), id=call)
        await eventually(lambda: begun >= set(calls[:4]), what="handlers in the middle")
        for call in calls[8:20]:
            await bus.publish(Job(call_id=call), id=call)
        async for _ in going:
            pass
        made_again.set()
        for call in calls[20:]:
            await bus.publish(Job(call_id=call), id=call)
        await eventually(lambda: done >= set(calls) or work.done(), what="work, or its end with its consumer")
        host.stop()
    async with at_work(pod, chosen):
        await eventually(lambda: done >= set(calls), what="all of them", within=60)
    assert len(effects) == len(set(effects)) == 2 * len(calls)


async def _until_gone(host: Host) -> None:
    """The consumer that brings parked messages back goes with the stream: its process ends, to be started again."""
    with suppress(ConsumerGone):
        await host.run()
