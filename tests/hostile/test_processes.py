"""Processes that die: in mid-handler, between publish and acknowledgement, every time; or that are asked to end."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from support.crew import Job, crew, crowd
from support.office import consumer_info, dead_letters, settings, stored
from support.processes import agents, lines

from tieline import Bus, connect
from tieline.testing import Server, eventually
from tieline.wire import topology


@asynccontextmanager
async def applied(server: Server) -> AsyncIterator[Bus]:
    async with connect(crew, settings=settings(server.url)) as bus:
        await topology.apply(bus.connection, crew)
        yield bus


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


async def quiet(bus: Bus, durable: str = "worker") -> bool:
    info = await consumer_info(bus, "CALL_INTENT", durable)
    return bool(info["num_pending"] == info["num_ack_pending"] == 0)


async def test_kill_nine_in_mid_handler_loses_nothing_and_repeats_no_step(nats_server: Server, notes: Path) -> None:
    log = notes.with_suffix(".log")
    async with (
        applied(nats_server) as bus,
        agents(nats_server.url, log, "tools"),
        agents(nats_server.url, log, "worker") as first,
    ):
        await bus.publish(Job(call_id="s1", notes=str(notes), kind="steps"))
        for n in range(20):
            await bus.publish(Job(call_id=f"p{n}", notes=str(notes)))
        await eventually(lambda: "stamped s1" in lines(notes), what="the steps done")
        await first.kill()
        async with agents(nats_server.url, log, "worker"):
            await eventually(lambda: quiet(bus), what="everything handled elsewhere")
        told = Counter(lines(notes))
        assert await dead_letters(bus) == []
    assert {line for line in told if line.startswith("done")} == {"done s1", *(f"done p{n}" for n in range(20))}
    assert [told[f"stamp s1-{name}"] for name in "abc"] == [1, 1, 1]
    assert told["begin s1"] == 2


async def test_a_crash_between_publish_and_acknowledgement_publishes_once(nats_server: Server, notes: Path) -> None:
    log = notes.with_suffix(".log")
    async with applied(nats_server) as bus, agents(nats_server.url, log, "worker") as first:
        await bus.publish(Job(call_id="c1", notes=str(notes), kind="publish"))
        await eventually(first.dead, what="the crash")
        async with agents(nats_server.url, log, "worker", "after"):
            await eventually(lambda: "done c1" in lines(notes), what="the second run")
            await eventually(lambda: quiet(bus), what="its acknowledgement")
            await eventually(lambda: "finished c1" in lines(notes), what="what it published, handled")
            assert len(await stored(bus, "call.intent.finished")) == 1
    assert Counter(lines(notes)) == {"begin c1": 2, "done c1": 1, "finished c1": 1}


async def test_a_message_that_kills_its_process_takes_no_neighbour_along(nats_server: Server, notes: Path) -> None:
    innocents = {f"p{n}" for n in range(20)}
    async with applied(nats_server) as bus:
        for n, name in enumerate(sorted(innocents)):
            if n == 5:
                await bus.publish(Job(call_id="bad", notes=str(notes), kind="poison"))
            await bus.publish(Job(call_id=name, notes=str(notes)))
        deaths = 0
        async with agents(nats_server.url, notes.with_suffix(".log"), "worker") as killed:

            async def restarted_until_quiet() -> bool:
                nonlocal deaths
                if killed.dead():
                    deaths += 1
                    await killed.start()
                return await quiet(bus)

            await eventually(restarted_until_quiet, what="everything handled or dead", within=40)
        [letter] = await dead_letters(bus)
    assert (letter.told["cause"], letter.headers["Tieline-Conversation"]) == ("vanished", "bad")
    told = Counter(lines(notes))
    assert {line.split()[1] for line in told if line.startswith("done")} == innocents
    # Twice among all, then beside at most 4 and 2 suspects of 8 slots, then as often alone as the limit says.
    assert told["begin bad"] == deaths == 4 + crew.limits.attempts
    assert [attempt["end"] for attempt in letter.told["attempts"]] == ["vanished"] * deaths


async def test_a_process_that_is_asked_to_end_hands_back_at_once(nats_server: Server, notes: Path) -> None:
    """Two processes share the work. The one that ends finishes what it can and gives the rest to the other."""
    log = notes.with_suffix(".log")
    pod = crew
    async with applied(nats_server) as bus:
        # An ack wait that nobody waits for in this test.
        slow = {"ack_wait": 60_000_000_000}
        config = (await consumer_info(bus, "CALL_INTENT", "worker"))["config"] | slow
        body = {"stream_name": "CALL_INTENT", "config": config, "action": "update"}
        await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.worker", body)
        async with agents(nats_server.url, log, "worker") as first:
            many = pod.agents["worker"].limits.concurrency
            for n in range(many):
                await bus.publish(Job(call_id=f"f{n}", notes=str(notes), kind="forever"))
            await eventually(lambda: len(lines(notes)) == many, what="all running in the first")
            async with agents(nats_server.url, log, "worker"):
                await bus.publish(Job(call_id="p1", notes=str(notes)))
                await eventually(lambda: "done p1" in lines(notes), what="the second process at work")
                assert await first.kill(signal.SIGTERM) == 0
                await eventually(lambda: len(lines(notes)) == 2 * many + 2, what="all running in the second")
                Path(f"{notes}.release").touch()  # noqa: ASYNC240 - one local file
                await eventually(lambda: quiet(bus), what="everything handled")
        ends = await stored(bus, "step.worker.*.attempt.*")
    told = Counter(lines(notes))
    assert {told[f"begin f{n}"] for n in range(many)} == {2}
    assert {told[f"done f{n}"] for n in range(many)} == {1}
    assert sum(b"interrupted" in end.payload for end in ends) == many


async def test_a_process_without_its_server_ends_with_a_clear_error_and_does_not_spin(
    nats_server: Server, notes: Path
) -> None:
    log = notes.with_suffix(".log")
    async with applied(nats_server) as bus:
        await bus.publish(Job(call_id="f1", notes=str(notes), kind="forever"))
    async with agents(nats_server.url, log, "worker", TIELINE_RECONNECT="1.5s") as lost:
        await eventually(lambda: "begin f1" in lines(notes), what="work in progress")
        before = processor_time(lost.process.pid)
        nats_server.kill()
        spent = [before]

        async def ended() -> bool:
            if not lost.dead():
                spent.append(processor_time(lost.process.pid) or spent[-1])
            return lost.dead()

        await eventually(ended, what="the end of the process", within=20)
        assert lost.process.returncode == 1
        assert spent[-1] - before < 1.0
    assert "stayed away for 1.5 s" in lost.log
    assert nats_server.url in lost.log
    await nats_server.restart()


def processor_time(pid: int) -> float:
    """Seconds of CPU that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100


async def test_work_goes_on_while_processes_are_killed_again_and_again(nats_server: Server, notes: Path) -> None:
    log = notes.with_suffix(".log")
    async with applied(nats_server) as bus, agents(nats_server.url, log, "worker") as first:
        await asyncio.gather(*(bus.publish(Job(call_id=f"p{n}", notes=str(notes))) for n in range(200)))
        for least in (60, 120):

            def some_done(least: int = least) -> bool:
                return len(lines(notes)) > least

            await eventually(some_done, what="some work done")
            await first.kill()
            await first.start()
        await eventually(lambda: quiet(bus), what="everything handled", within=20)
        assert await dead_letters(bus) == []
    assert {line for line in lines(notes) if line.startswith("done")} == {f"done p{n}" for n in range(200)}


def has_begun(notes: Path, count: int) -> bool:
    return len(lines(notes)) >= count


@pytest.mark.parametrize("poison", [False, True])
async def test_two_kills_do_not_make_suspects_wait_for_one_another(
    nats_server: Server, notes: Path, poison: bool
) -> None:
    """A hundred messages of two seconds on fifty slots. What was in flight at both kills runs 25 at a time, not alone.

    A message that kills its process is found all the same, among others that are handled meanwhile.
    """
    names = {f"m{number}" for number in range(100)}
    async with connect(crowd, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, crowd)
        await asyncio.gather(*(bus.publish(Job(call_id=n, notes=str(notes), kind="two seconds")) for n in names))
        if poison:
            await bus.publish(Job(call_id="bad", notes=str(notes), kind="poison"))
        async with agents(nats_server.url, notes.with_suffix(".log"), "worker", pod="crowd") as killed:
            for begun in (50, 100):
                await eventually(partial(has_begun, notes, begun), what="a full house")
                await killed.kill()
                await killed.start()

            async def handled() -> bool:
                if killed.dead():
                    await killed.start()
                return {f"done {n}" for n in names} <= set(lines(notes)) and (
                    not poison or bool(await dead_letters(bus))
                )

            await eventually(handled, what="all of them handled, or dead", within=200)
            letters = await dead_letters(bus)
        records = [json.loads(record.payload) for record in await stored(bus, "step.worker.*.attempt.*")]
    assert [letter.headers["Tieline-Conversation"] for letter in letters] == (["bad"] if poison else [])
    assert poison or not any(record.get("alone") for record in records)
