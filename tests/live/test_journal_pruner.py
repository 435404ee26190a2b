"""The journal of ended conversations is removed; that of a conversation that can still run is not."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.office import QUICK, Office, at_work, settings
from support.old_deployment import old_conversations, old_deployment
from support.old_deployment_pod import old_pod, ran

from tieline import Bus, Conversation, Message, Pod, Settings, Stream, connect
from tieline.errors import BadSettings
from tieline.services import accountant
from tieline.services.cancelling import cancel
from tieline.services.journal_pruner import JournalPruner
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.testing import Server, eventually
from tieline.wire import topology


class Job(Message, subject="call.intent.job"):
    call_id: str
    kind: str = "plain"


class Later(Message, subject="call.intent.later"):
    call_id: str


class Rare(Message, subject="call.intent.rare"):
    call_id: str


def office() -> tuple[Pod, Counter[str], set[str]]:
    """A pod, the effects of its steps, and the kinds of message that fail now."""
    pod = Pod("office", limits=replace(QUICK, attempts=2, first_retry=0.01))
    effects: Counter[str] = Counter()
    failing = {"fails"}

    @pod.tool(effect="once")
    async def stamp(name: str) -> str:
        effects[f"{name} stamp"] += 1
        return name

    @pod.agent
    async def worker(job: Job, call: Conversation) -> None:
        async def effect() -> str:
            effects[f"{call.id} step"] += 1
            return "done"

        await call.step("one", effect)
        await call.tool(stamp, call.id)
        if job.kind in failing:
            raise RuntimeError("not now")
        if job.kind == "asks":
            await call.ask_human("May we?")
        if job.kind == "delays":
            await call.publish(Later(call_id=call.id), after=86_400.0)
        if job.kind == "follows":
            await call.publish(Later(call_id=call.id))
        effects[f"{call.id} end"] += 1

    @pod.agent
    async def absent(_: Later, __: Conversation) -> None: ...

    @pod.agent
    async def seldom(_: Rare, __: Conversation) -> None: ...

    return pod, effects, failing


@asynccontextmanager
async def accounted(bus: Bus) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(accountant.run(bus, stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def records(bus: Bus) -> Counter[str]:
    """How many records of the journal each conversation has."""
    return Counter(subject.split(".")[2] for subject in await bus.journal.subjects("step.>"))


async def swept(bus: Bus, wanted: set[str], keep: float = 0.0) -> None:
    """Sweep until exactly these conversations have records left: the accountant may have to read them first."""
    pruner = JournalPruner(bus, keep)

    async def only_those() -> bool:
        await pruner.sweep()
        return set(await records(bus)) == wanted

    await eventually(only_those, what=f"only {sorted(wanted)} left", every=0.2)


def chosen(server: Server) -> Settings:
    return settings(server.url, audit=True)


async def publish(work: Office, kinds: dict[str, str], effects: Counter[str], ends: set[str]) -> None:
    for call, kind in kinds.items():
        await work.bus.publish(Job(call_id=call, kind=kind), id=call)
    await eventually(lambda: all(effects[f"{call} end"] for call in ends), what="the work")


async def test_only_what_can_not_run_again_is_removed(nats_server: Server) -> None:
    pod, effects, failing = office()
    kinds = {f"done-{n}": "plain" for n in range(20)}
    kinds |= {"dead": "fails", "parked": "asks", "delayed": "delays", "pending": "follows"}
    ends = {call for call, kind in kinds.items() if kind not in ("fails", "asks")}
    async with at_work(pod, chosen(nats_server), "worker", "tools", "seldom") as work, accounted(work.bus):
        bus = work.bus
        await bus.publish(
            Rare(call_id="rare"), id="rare"
        )  # an agent that has been idle since long ago holds up nothing
        await publish(work, kinds, effects, ends)
        await eventually(lambda: parked(bus), what="the question")
        await eventually(lambda: dead(bus), what="the dead letter")
        kept = {"dead", "parked", "delayed", "pending"}
        assert set(await records(bus)) >= set(kinds)
        await swept(bus, kept)
        for _ in range(3):
            await JournalPruner(bus, 0.0).sweep()  # and none of those later
        assert set(await records(bus)) == kept
        before = Counter(effects)
        failing.clear()
        await redrive(bus, letters(bus.connection, Selection()), Order(by="test"))
        [question] = [s for s in await bus.journal.subjects("step.>") if ".question." in s]
        await bus.journal.write(question.replace(".question.", ".human."), {"ok": True, "value": "yes"})
        await eventually(lambda: effects["dead end"] and effects["parked end"], what="what went on")
        # Their steps were found: nothing but the ends is new.
        assert effects - before == Counter({"dead end": 1, "parked end": 1})
        await swept(bus, {"delayed", "pending"})
        rows = await accountant.take_settled(bus)
        assert all(row.holds for row in rows), rows


async def parked(bus: Bus) -> bool:
    return any(".park." in subject for subject in await bus.journal.subjects("step.>"))


async def dead(bus: Bus) -> bool:
    return bool((await bus.connection.api("STREAM.INFO.DLQ"))["state"]["messages"])


async def test_young_records_stay(nats_server: Server) -> None:
    pod, effects, _ = office()
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work, accounted(work.bus):
        await publish(work, {"old": "plain"}, effects, {"old"})
        await swept(work.bus, set())
        await publish(work, {"young": "plain"}, effects, {"young"})
        pruner = JournalPruner(work.bus, 600.0)
        assert await pruner.sweep() == 0
        assert set(await records(work.bus)) == {"young"}
        # A conversation that goes on keeps its old records too.
        await swept(work.bus, set())


async def test_without_an_accountant_nothing_is_removed(nats_server: Server) -> None:
    pod, effects, _ = office()
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work:
        await publish(work, {"done": "plain"}, effects, {"done"})
        assert await JournalPruner(work.bus, 0.0).sweep() == 0
        assert set(await records(work.bus)) == {"done"}


async def test_a_cancelled_conversation_stays(nats_server: Server) -> None:
    pod, effects, _ = office()
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work, accounted(work.bus):
        await publish(work, {"done": "plain", "stopped": "plain"}, effects, {"done", "stopped"})
        await cancel(work.bus, "stopped")
        await swept(work.bus, {"stopped"})


async def test_work_that_runs_keeps_its_records_while_several_sweep(nats_server: Server) -> None:
    """Messages that fail, are redriven and go on all the time, and two pruners that keep nothing."""
    pod, effects, failing = office()
    calls = {f"c{n}": "fails" if n % 3 == 0 else "plain" for n in range(60)}
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work, accounted(work.bus):

        async def sweep() -> None:
            while True:
                await JournalPruner(work.bus, 0.0).sweep()
                await asyncio.sleep(0.01)

        sweeping = [asyncio.create_task(sweep()) for _ in range(2)]
        for call, kind in calls.items():
            await work.bus.publish(Job(call_id=call, kind=kind), id=call)
        await eventually(lambda: sum(effects[f"{c} end"] for c in calls) >= 40, what="what does not fail", within=60)
        await eventually(lambda: letters_stored(work.bus, 20), what="dead letters", within=60)
        failing.clear()
        await redrive(work.bus, letters(work.bus.connection, Selection()), Order(by="test"))
        await eventually(lambda: all(effects[f"{call} end"] for call in calls), what="all", within=60)
        for task in sweeping:
            task.cancel()
        await asyncio.wait(sweeping)
        assert not [task for task in sweeping if not task.cancelled() and task.exception()]
        await swept(work.bus, set())
    assert set(effects.values()) == {1}


async def letters_stored(bus: Bus, count: int) -> bool:
    return int((await bus.connection.api("STREAM.INFO.DLQ"))["state"]["messages"]) == count


async def test_a_pruner_that_is_killed_goes_on(nats_server: Server, tmp_path: Path) -> None:
    pod, effects, _ = office()
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work, accounted(work.bus):
        calls = {f"c{n}": "plain" for n in range(200)}
        await publish(work, calls, effects, set(calls))
        whole = await records(work.bus)
        script = tmp_path / "sweep.py"
        script.write_text(
            "import asyncio\nfrom tieline import Pod, Settings, connect\n"
            "from tieline.services.journal_pruner import JournalPruner\n"
            "from tieline.settings import ConnectionSettings\n"
            "async def main():\n"
            f"    settings = Settings(connection=ConnectionSettings(servers=('{nats_server.url}',)), audit=False)\n"
            "    async with connect(Pod('office'), settings=settings) as bus:\n"
            "        while True:\n            await JournalPruner(bus, 0.0).sweep()\n"
            "            await asyncio.sleep(0.05)\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, str(script))
        await eventually(lambda: fewer(work.bus, len(whole)), what="the first removal", every=0.001)
        process.kill()
        await process.wait()
        left = await records(work.bus)
        # Of each conversation everything is there, or nothing.
        assert all(left[call] in (0, whole[call]) for call in whole)
        await swept(work.bus, set())
        rows = await accountant.take_settled(work.bus)
        assert all(row.holds for row in rows), rows


async def fewer(bus: Bus, than: int) -> bool:
    return len(await records(bus)) < than


async def test_an_old_deployment(tmp_path: Path) -> None:
    ran.clear()
    async with old_deployment(tmp_path) as server:
        async with connect(old_pod, settings=chosen(server)) as bus:
            await topology.apply(bus.connection, old_pod)
            # Nothing runs but the accountant: what was on its way stays, with all its records.
            before = await records(bus)
            # Of the last one, the old version left a message that was due in SCHEDULE.
            ended = {*old_conversations("done", "redriven")} - {"delay", "delay-over", "delay-done"}
            async with accounted(bus):
                await eventually(lambda: gone(bus, ended), what="ended conversations without records", every=0.2)
            left = await records(bus)
            assert left == Counter({call: count for call, count in before.items() if call in left})
            going = old_conversations("parked", "dead", "held", "redrive-waits", "over", "cancelled")
            assert set(left) >= set(going) - {"invalid"}
        async with at_work(old_pod, replace(chosen(server), large=1024)):
            expected = {*old_conversations("held", "redrive-waits", "over"), "ask", "ask-within"} - {"human-late"}
            await eventually(lambda: {c for agent, c in ran if agent == "worker"} >= expected, what="work", within=60)
        assert not {call for agent, call in ran if agent == "stamp"} & expected  # found, not repeated


async def gone(bus: Bus, calls: set[str]) -> bool:
    await JournalPruner(bus, 0.0).sweep()
    return not calls & set(await records(bus))


def test_the_setting() -> None:
    assert Settings.from_environment({"TIELINE_JOURNAL_KEEP": "2h"}).journal_keep == 7200.0
    with pytest.raises(BadSettings, match="journal_keep must be at least 600"):
        Settings.from_environment({"TIELINE_JOURNAL_KEEP": "5m"})


async def test_a_long_backlog_is_not_read_whole(nats_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from tieline.services import journal_pruner

    monkeypatch.setattr(journal_pruner, "_MOST_READ", 10)
    told = Stream(name="TOLD", subjects=("told.*",))
    pod, effects, _ = office()
    pod.streams["TOLD"] = told
    async with at_work(pod, chosen(nats_server), "worker", "tools") as work, accounted(work.bus):
        await publish(work, {"done": "plain"}, effects, {"done"})
        for n in range(30):
            await work.bus.publish(Later(call_id=f"waits-{n}"), id=f"waits-{n}")
        await swept(work.bus, set())
