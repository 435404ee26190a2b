"""The tool executor on a real server: rates, breakers, the words for failure, and tools that are not there."""

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field
from support.messages import Book
from support.office import QUICK, Office, at_work, dead_letters, settings, stored

from tieline import (
    Breaker,
    Conversation,
    Limits,
    NeedsApproval,
    Pod,
    Rate,
    Refuse,
    ToolFailed,
    ToolRefused,
    ToolRun,
    connect,
)
from tieline.facts import Fact, Switched
from tieline.runtime import unclaimed
from tieline.runtime.rate import Ration
from tieline.runtime.unclaimed import Unclaimed
from tieline.testing import Server, eventually

NEVER = Rate(1, per=100_000.0)


async def call_tool(office: Office, tool: str, payload: object, headers: dict[str, str] | None = None) -> None:
    """As a client in any language would."""
    await office.bus.connection.request(f"tool.call.{tool}", json.dumps(payload).encode(), headers)


async def results(office: Office, conversation: str) -> list[dict[str, Any]]:
    return [json.loads(one.payload) for one in await stored(office.bus, f"tool.result.{conversation}")]


async def test_places_are_spaced_over_all_processes(nats_server: Server) -> None:
    pod, rate = Pod("office"), Rate(1000)
    at = settings(nats_server.url)
    async with connect(pod, settings=at) as one, connect(pod, settings=at) as other:
        await one.apply()
        rations = [Ration(bus, "web", rate) for bus in (one, other, one, other)]
        taken = await asyncio.gather(*(ration.reserve(3) for ration in rations for _ in range(5)))
    places = sorted(place for places in taken for place in places)
    assert len(places) == 60
    assert min(later - earlier for earlier, later in itertools.pairwise(places)) > 0.999 * rate.interval


async def test_a_burst_may_start_at_once_and_no_more(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        places = await Ration(bus, "web", Rate(1, per=1000.0, burst=3)).reserve(5)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(places)]
    assert gaps == [0, 0, 1000, 1000]


async def test_a_killed_server_forgets_no_place(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        [before] = await Ration(bus, "web", Rate(1, per=1000.0)).reserve(1)
        nats_server.kill()
        await nats_server.restart()
        [after] = await Ration(bus, "web", Rate(1, per=1000.0)).reserve(1)
    assert after - before == pytest.approx(1000.0, abs=0.01)


async def test_calls_that_wait_for_their_rate_hold_nobody_else(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(concurrency=2, drain=0.1))
    got: list[str] = []

    @pod.tool(rate=NEVER)
    async def slow(note: str) -> str:
        return note

    @pod.tool
    async def quick(note: str) -> str:
        return note.upper()

    async with at_work(pod, nats_server.url) as office:
        for number in range(6):
            await call_tool(office, "slow", {"callId": f"s{number}", "args": {"note": "a"}})
        await eventually(lambda: results(office, "s0"), what="the first call of the slow tool")
        await call_tool(office, "quick", {"callId": "q1", "args": {"note": "b"}})
        [result] = await eventually(lambda: results(office, "q1"), what="the other tool's result")
        got.append(result["value"])
        assert not [number for number in range(1, 6) if await results(office, f"s{number}")]
    assert got == ["B"]


async def test_a_call_that_waits_past_its_deadline_is_told_so(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    causes: list[str] = []

    @pod.tool(rate=NEVER)
    async def slow(note: str) -> str:
        return note

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.tool(slow, "first")
        try:
            await call.tool(slow, "second")
        except ToolFailed as failed:
            causes.append(failed.cause)
            raise

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"), deadline=1.0)
        letters = await eventually(lambda: dead_letters(office.bus), what="the dead letters")
        assert {letter.told["cause"] for letter in letters} == {"deadline"}


async def test_a_breaker_hands_back_and_counts_no_attempt(nats_server: Server) -> None:
    limits = Limits(attempts=3, concurrency=4, first_retry=0.02, longest_retry=0.05, drain=1.0)
    pod = Pod("office", limits=limits)
    broken = True
    runs: list[str] = []
    facts: list[Fact] = []

    @pod.tool(breaker=Breaker(failures=2, reset=0.1))
    async def crm(note: str) -> str:
        runs.append(note)
        if broken:
            raise ConnectionError("no route to the CRM")
        return note

    @pod.tool
    async def other(note: str) -> str:
        return note

    async with at_work(pod, nats_server.url) as office:
        office.bus.observers.append(facts.append)
        await call_tool(office, "crm", {"callId": "c0", "args": {"note": "0"}})
        await eventually(lambda: lights(facts)[:1] == ["open"], what="the breaker to open")
        tried = len(runs)
        for number in range(1, 9):
            await call_tool(office, "crm", {"callId": f"c{number}", "args": {"note": str(number)}})
        await call_tool(office, "other", {"callId": "o1", "args": {"note": "b"}})
        await eventually(lambda: results(office, "o1"), what="the other tool, in the middle of it")
        await eventually(lambda: lights(facts).count("half-open") >= 2, what="two trials")
        broken = False
        done = await eventually(lambda: all_done(office, 9), what="all nine calls, tried again")
        trials = lights(facts).count("half-open")
        assert not [letter for letter in await dead_letters(office.bus) if letter.told["attempts"] == []]

    assert tried == 2
    assert len(done) + len(runs) >= 9
    assert lights(facts)[-1] == "closed"
    assert trials >= 2
    # Beyond the calls that came through, only trials ran: the others were handed back unseen.
    assert len(runs) <= 2 + trials + 9 + limits.concurrency


def lights(facts: list[Fact]) -> list[str]:
    return [fact.state for fact in facts if isinstance(fact, Switched)]


async def all_done(office: Office, calls: int) -> list[dict[str, Any]] | None:
    found = [one for number in range(calls) for one in await results(office, f"c{number}")]
    return found if len(found) == calls else None


class Outcomes:
    """A pod whose tool fails as it is told."""

    def __init__(self) -> None:
        limits = Limits(attempts=2, first_retry=0.02, longest_retry=0.02, timeout=0.3, drain=1.0)
        self.pod = Pod("office", limits=limits)
        self.runs = 0
        self.failures: list[tuple[str, str]] = []
        pod = self.pod

        @pod.tool
        async def crm(how: str) -> int:
            self.runs += 1
            match how:
                case "refuses":
                    raise ToolRefused("unknown customer")
                case "asks":
                    raise NeedsApproval("over 1,000 dollars")
                case "raises":
                    raise ConnectionError("no route")
                case "hangs":
                    await asyncio.sleep(30)
            return how  # type: ignore[return-value]

        @pod.agent(limits=QUICK)
        async def booking(message: Book, call: Conversation) -> None:
            for _ in range(2):
                try:
                    await call.tool(crm, message.phone)
                except ToolFailed as failed:
                    self.failures.append((failed.cause, str(failed)))


@pytest.mark.parametrize(
    ("how", "cause", "runs"),
    [
        ("refuses", "refused", 1),
        ("asks", "approval", 1),
        ("raises", "raised", 2),
        ("hangs", "timeout", 2),
        ("x", "invalid", 1),
    ],
)
async def test_every_failure_of_a_tool_has_its_word(nats_server: Server, how: str, cause: str, runs: int) -> None:
    office = Outcomes()
    async with at_work(office.pod, nats_server.url) as working:
        await working.bus.publish(Book(call_id="c1", phone=how))
        await eventually(lambda: len(office.failures) == 2, what="both failures")
        letters = await dead_letters(working.bus)
    assert [found for found, _ in office.failures] == [cause, cause]
    assert office.runs == 2 * runs  # two steps; each ran as often as its word says
    assert len(letters) == (2 if runs == 2 else 0)
    assert all(text.startswith("tool crm: ") for _, text in office.failures)


async def test_arguments_that_do_not_fit_are_told_to_a_foreign_caller(nats_server: Server) -> None:
    office = Outcomes()
    async with at_work(office.pod, nats_server.url) as working:
        await call_tool(working, "crm", {"callId": "c1", "args": {"how": 5}})
        await call_tool(working, "crm", {"callId": "c2", "args": ["how"]})
        [first] = await eventually(lambda: results(working, "c1"), what="the first answer")
        [second] = await eventually(lambda: results(working, "c2"), what="the second answer")
    assert (first["cause"], second["cause"]) == ("invalid", "invalid")
    assert "how: " in first["reason"]
    assert "not an object like" in second["reason"]
    assert office.runs == 0


async def test_a_call_of_no_tool_is_answered_and_kept(nats_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unclaimed, "_GRACE", 0.0)
    office = Outcomes()
    async with at_work(office.pod, nats_server.url) as working:
        await call_tool(working, "nope", {"callId": "c1", "args": {}})
        await call_tool(working, "nope", {"args": {}}, {"Tieline-Step": "step.robot.c2.tool.k1", "Tieline-Run": "r"})
        [one] = await eventually(lambda: results(working, "c1"), what="the first answer")
        [other] = await eventually(lambda: stored(working.bus, "step.robot.c2.tool.k1"), what="the second answer")
        await asyncio.gather(*(Unclaimed(working.bus).answer() for _ in range(3)))  # other executors look too
        letters = await dead_letters(working.bus)
        left = await stored(working.bus, "tool.call.nope")
    assert (one["ok"], one["cause"]) == (False, "unknown")
    assert "there is no tool 'nope'" in one["reason"]
    assert json.loads(other.payload)["cause"] == "unknown"
    assert [(letter.subject, letter.told["cause"]) for letter in letters] == [
        ("DLQ.tool-nope.unknown.tool.call.nope", "unknown")
    ] * 2
    assert left == []


async def test_a_tool_of_another_pod_in_the_account_is_left_alone(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unclaimed, "_GRACE", 0.0)
    theirs = Pod("theirs")

    @theirs.tool
    async def far(note: str) -> str:
        return note

    async with connect(theirs, settings=settings(nats_server.url)) as bus:
        await bus.apply()
    async with at_work(Outcomes().pod, nats_server.url) as working:
        await call_tool(working, "far", {"callId": "c1", "args": {"note": "a"}})
        assert await Unclaimed(working.bus).answer() == 0
        assert await results(working, "c1") == []
        assert len(await stored(working.bus, "tool.call.far")) == 1


async def test_calling_a_tool_of_another_pod_names_it(nats_server: Server) -> None:
    theirs, pod = Pod("theirs"), Pod("office", limits=QUICK)
    errors: list[Exception] = []

    @theirs.tool
    async def far(note: str) -> str:
        return note

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Refuse | None:
        try:
            await call.tool(far, "a")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            errors.append(error)
            return Refuse(str(error))
        return None

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert "no tool 'far'" in str(errors[0])
    assert letter.told["cause"] == "refused"


async def test_once_does_not_run_again_for_a_foreign_caller_either(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    runs: list[ToolRun] = []

    @pod.tool(effect="once")
    async def pay(run: ToolRun) -> str:
        runs.append(run)
        return "paid"

    async with at_work(pod, nats_server.url) as office:
        await call_tool(office, "pay", {"callId": "c1", "args": {}})
        await eventually(lambda: results(office, "c1"), what="the result")
        [call] = await stored(office.bus, "tool.call.pay")
        again = {"Tieline-Origin": call.origin, "Tieline-Subject": call.subject}
        await office.bus.connection.request("redrive.tool_call.tool-pay", call.payload, again)  # as `dlq redrive` does
        await call_tool(office, "pay", {"callId": "c2", "args": {}})
        await eventually(lambda: results(office, "c2"), what="a later call")
        await eventually(lambda: idle(office, "tool-pay"), what="the redriven call to be settled")
        assert [one["value"] for one in await results(office, "c1")] == ["paid"]
    assert [run.conversation for run in runs] == ["c1", "c2"]
    assert len({run.key for run in runs}) == 2


async def idle(office: Office, durable: str) -> bool:
    info = await office.bus.connection.api(f"CONSUMER.INFO.TOOL_CALL.{durable}")
    return not info["num_pending"] and not info["num_ack_pending"]


@asynccontextmanager
async def executor(url: str, notes: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs the till's tools, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tieline.services.process", "--server", url, "support.till:till", "tools"),
        cwd=Path(__file__).parents[1],
        env={"TILL_NOTES": str(notes), "TIELINE_AUDIT": "off", "PYTHONPATH": ":".join(sys.path)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_key_is_the_same_in_a_second_executor_and_after_a_redrive(
    nats_server: Server, tmp_path: Path
) -> None:
    from support.till import till

    notes = tmp_path / "notes"
    async with connect(till, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        async with executor(nats_server.url, notes) as first:
            await bus.connection.request("tool.call.charge", b'{"callId": "c1", "args": {"cents": 5}}')
            assert await first.wait() == 13  # it died with its effect done and nothing recorded
        async with executor(nats_server.url, notes):
            nats_server.kill()
            await nats_server.restart()
            [result] = await eventually(lambda: stored(bus, "tool.result.c1"), what="the result", within=20.0)
            [call] = await stored(bus, "tool.call.charge")
            again = {"Tieline-Origin": call.origin, "Tieline-Subject": call.subject, "Tieline-Conversation": "c1"}
            await bus.connection.request("redrive.tool_call.tool-charge", call.payload, again)
            await bus.connection.request("tool.call.charge", b'{"callId": "c2", "args": {"cents": 7}}')
            await eventually(lambda: stored(bus, "tool.result.c2"), what="the later call")
    lines = notes.read_text().split()
    assert json.loads(result.payload)["value"] == lines[0]
    assert lines[0] == lines[1]  # two runs, one key; the redriven call did not run
    assert len(lines) == 3


def test_the_schema_of_a_tool_is_its_signature() -> None:
    pod = Pod("office")

    @pod.tool
    async def crm(
        run: ToolRun,
        phone_number: str,
        tags: list[str] | None = None,
        limit: Annotated[int, Field(le=9, description="how many")] = 3,
    ) -> dict[str, float]:
        return {phone_number: float(limit + len(tags or ())), run.key: 0.0}

    assert crm.schema == {
        "additionalProperties": False,
        "properties": {
            "phoneNumber": {"title": "Phonenumber", "type": "string"},
            "tags": {
                "anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}],
                "default": None,
                "title": "Tags",
            },
            "limit": {"default": 3, "description": "how many", "maximum": 9, "title": "Limit", "type": "integer"},
        },
        "required": ["phoneNumber"],
        "title": "crm-arguments",
        "type": "object",
    }
    assert list(crm.schema["properties"]) == ["phoneNumber", "tags", "limit"]
    assert crm.result_schema == {"additionalProperties": {"type": "number"}, "type": "object"}
