"""A handler whose code changed between two runs: it goes on where its version runs, or the difference is named."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.drafts import Draft, drafts
from support.messages import Book
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import Conversation, Limits, Message, Pod, connect
from tieline.testing import Server, eventually


class Ask(Message, subject="call.intent.ask"):
    call_id: str


class Answer(Message, subject="call.intent.answer"):
    call_id: str


class Office:
    """One version of a pod. Its handler runs ``script``: steps by name and argument; then it ends, or raises once."""

    def __init__(self, version: str, script: list[tuple[str, int]], *, fails: bool = False) -> None:
        self.pod = Pod("office", version=version, limits=QUICK)
        self.ran: list[tuple[str, int]] = []
        self.runs = 0
        self.done = 0

        @self.pod.agent
        async def booking(_: Book, call: Conversation) -> None:
            self.runs += 1

            async def effect(name: str, argument: int) -> int:
                self.ran.append((name, argument))
                return argument

            for name, argument in script:
                await call.step(name, effect, name, argument)
            if fails:
                raise ConnectionError("of the first version")
            self.done += 1


async def after_a_failure(url: str, old: Office, new: Office) -> list[Any]:
    """``old`` runs its script and fails; its process goes away, and ``new`` gets the message: the dead letters."""
    async with at_work(old.pod, url) as working:
        await working.bus.publish(Book(call_id="c1"))
        await eventually(lambda: old.runs, what="a run of the first version")
    async with at_work(new.pod, url) as working:
        await eventually(lambda: settled(working.bus, new), what="the second version's word")
        return await dead_letters(working.bus)


async def settled(bus: Any, new: Office) -> bool:
    return bool(new.done) or bool(await dead_letters(bus))


async def test_the_same_steps_go_on_in_the_new_version(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1), ("b", 2)], fails=True), Office("2", [("a", 1), ("b", 2), ("c", 3)])
    assert await after_a_failure(nats_server.url, old, new) == []
    assert old.ran == [("a", 1), ("b", 2)]
    assert new.ran == [("c", 3)]


async def test_a_step_that_is_never_asked_for_is_named(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1), ("b", 2)], fails=True), Office("2", [("b", 2)])
    [letter] = await after_a_failure(nats_server.url, old, new)
    assert (letter.told["cause"], letter.told["version"]) == ("changed", "2")
    assert letter.told["reason"] == "version 1 recorded step a-1, which version 2 never asked for"


async def test_other_arguments_are_named_before_anything_else_runs(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1)], fails=True), Office("2", [("a", 7), ("b", 2)])
    [letter] = await after_a_failure(nats_server.url, old, new)
    assert letter.told["cause"] == "changed"
    assert letter.told["reason"] == "step a was recorded by version 1 for other arguments than 2 has"
    assert new.ran == []


async def test_a_run_that_did_not_come_to_its_end_says_nothing_of_steps(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1), ("b", 2)], fails=True), Office("2", [("a", 1)], fails=True)
    new.pod.agents["booking"].limits = Limits(attempts=2, first_retry=0.02, longest_retry=0.02)
    [letter] = await after_a_failure(nats_server.url, old, new)
    assert letter.told["cause"] == "raised"


@pytest.mark.parametrize("version", ["1", "0"])
async def test_without_another_version_arguments_may_change(nats_server: Server, version: str) -> None:
    old, new = Office(version, [("a", 1), ("b", 2)], fails=True), Office(version, [("a", 7)])
    assert await after_a_failure(nats_server.url, old, new) == []
    assert new.done == 1


async def test_it_goes_on_where_its_version_still_runs(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1)], fails=True), Office("2", [("b", 2)])
    old.pod.agents["booking"].limits = Limits(attempts=2, first_retry=0.02, longest_retry=0.02, drain=2.0)
    async with at_work(old.pod, nats_server.url) as working:
        await working.bus.publish(Book(call_id="c1"))
        await eventually(lambda: old.runs, what="a run of the first version")
        async with at_work(new.pod, nats_server.url) as other:
            for number in range(2, 5):
                await working.bus.publish(Book(call_id=f"c{number}"))
            letters = await eventually(lambda: ended(other.bus, new), what="the end of all four", within=60.0)
    assert {letter.told["version"] for letter in letters} == {"1"}
    assert not [letter for letter in letters if letter.told["cause"] == "changed"]
    assert len(old.ran) + new.done == 4  # each message began in one version and stayed there


async def ended(bus: Any, new: Office) -> list[Any] | None:
    """The dead letters, once each of four messages is one or done."""
    letters = await dead_letters(bus)
    return letters if len(letters) + new.done == 4 else None


async def test_one_that_is_stopping_is_not_waited_for(nats_server: Server) -> None:
    old, new = Office("1", [("a", 1)], fails=True), Office("2", [("b", 2)])
    release = asyncio.Event()

    @old.pod.agent(limits=Limits(drain=60.0))
    async def busy(_: Ask, call: Conversation) -> None:
        call.log("holds the first version's process while it stops")
        old.done += 1
        await release.wait()

    async with at_work(old.pod, nats_server.url) as working:
        await working.bus.publish(Ask(call_id="c9"))
        await working.bus.publish(Book(call_id="c1"))
        await eventually(lambda: old.runs and old.done, what="both handlers of the first version")
        working.host.stop()
        async with at_work(new.pod, nats_server.url) as other:
            [letter] = await eventually(lambda: dead_letters(other.bus), what="the second version's word")
            assert not working.work.done()
            release.set()
    assert letter.told["cause"] == "changed"


async def test_who_asked_counts_and_not_who_answered(nats_server: Server) -> None:
    """Tools and asked agents of another version record for the version that asked."""
    helpers = Pod("office", version="9", limits=QUICK)  # the newer deployment of the same pod
    old, runs = Pod("office", version="1", limits=QUICK), list[int]()

    @helpers.agent
    async def quoter(message: Ask, call: Conversation) -> None:
        await call.reply(Answer(call_id=message.call_id))

    @helpers.tool
    async def crm(note: str) -> str:
        return note

    old.add_tool(crm)

    @old.agent
    async def booking(message: Book, call: Conversation) -> None:
        await call.tool(crm, "a")
        await call.ask(Ask(call_id=message.call_id), expects=Answer)
        runs.append(call.attempt)
        if len(runs) < 3:
            raise ConnectionError("after both")

    async with (
        at_work(helpers, nats_server.url, "quoter", "tools") as answering,
        connect(old, settings=settings(nats_server.url)) as bus,
    ):
        del answering
        async with at_work(old, nats_server.url, "booking") as working:
            await working.bus.publish(Book(call_id="c1"))
            await eventually(lambda: len(runs) == 3, what="three runs of the same version")
        records = [
            *await stored(bus, "step.booking.c1.tool.*"),
            *await stored(bus, "step.booking.c1.ask.*"),
        ]
        letters = await dead_letters(bus)
    assert all(b'"version":"1"' in record.payload for record in records)
    assert len(records) == 2
    assert letters == []


@asynccontextmanager
async def process(url: str, version: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The drafts' writer in one version, killed at the end."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tieline.services.process", "--server", url, "support.drafts:drafts", "writer"),
        cwd=Path(__file__).parents[1],
        env={"DRAFTS_VERSION": version, "TIELINE_AUDIT": "off", "PYTHONPATH": ":".join(sys.path)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


async def test_a_killed_process_of_the_old_version_and_a_killed_server(nats_server: Server, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with connect(drafts, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        async with process(nats_server.url, "1") as first:
            await bus.publish(Draft(call_id="c1", notes=str(notes)))
            await eventually(lambda: "1 chapter" in lines(notes), what="two steps of the first version", within=20.0)
            first.kill()
            await first.wait()
        nats_server.kill()
        await nats_server.restart()
        async with process(nats_server.url, "2"):
            [letter] = await eventually(lambda: dead_letters(bus), what="the second version's word", within=30.0)
    assert letter.told["cause"] == "changed"
    assert letter.told["reason"] == "version 1 recorded step chapter-1, which version 2 never asked for"
    assert lines(notes) == ["1 outline", "1 chapter", "2 print"]


async def test_a_second_process_of_the_old_version_takes_over_from_a_killed_one(
    nats_server: Server, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    async with connect(drafts, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        async with process(nats_server.url, "1") as first:
            await bus.publish(Draft(call_id="c1", notes=str(notes)))
            await eventually(lambda: "1 chapter" in lines(notes), what="two steps of the first version", within=20.0)
            async with process(nats_server.url, "2"), process(nats_server.url, "1") as second:
                await eventually(lambda: both_pull(bus), what="the other processes to be ready", within=20.0)
                first.kill()
                await eventually(lambda: len(lines(notes)) == 3, what="the last step", within=60.0)
                assert second.returncode is None
        assert await dead_letters(bus) == []
    assert lines(notes) == ["1 outline", "1 chapter", "1 print"]


async def both_pull(bus: Any) -> bool:
    info = await bus.connection.api("CONSUMER.INFO.CALL_INTENT.writer")
    return int(info["num_waiting"]) >= 2
