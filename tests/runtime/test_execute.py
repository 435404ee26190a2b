"""`execute`: one delivery in, one outcome out, whatever the handler does."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import cast

import pytest

from tieline import Conversation, Done, Limits, Outcome, Refuse, Retry
from tieline.context import Desk
from tieline.errors import BadDeclaration, BadPayload, NotAccepted, ToolFailed, Unconfirmed, Unreachable, Unsettled
from tieline.outcomes import Cause
from tieline.runtime.duty import Incoming, Work
from tieline.runtime.execute import execute
from tieline.testing import eventually


@dataclass(frozen=True)
class Letter:
    subject: str = "call.intent.book"
    payload: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    count: int = 1
    origin: str = "CALL_INTENT-1-0"


class Silent:
    """A desk for handlers that ask for nothing."""

    deadline: float | None = None
    unfinished = False


class Job:
    """A duty made of one function."""

    name = "job"
    give_up = None
    guard = None

    def __init__(self, work: Work | None = None, timeout: float = 30.0) -> None:
        self.limits = Limits(timeout=timeout)
        self._work = work

    def open(self, incoming: Incoming) -> Work:
        if self._work is None:
            raise BadPayload(f"{incoming.subject} does not fit")
        return self._work


def call() -> Conversation:
    return Conversation("c1", "job", "CALL_INTENT-1-0", 0.0, cast("Desk", Silent()))


async def outcome_of(work: Work | None, limit: float = 30.0) -> Outcome:
    return await execute(Job(work, limit), Letter(), call())


def answers(value: object) -> Work:
    async def work(_: Conversation) -> object:
        return value

    return work


def raises(error: BaseException) -> Work:
    async def work(_: Conversation) -> object:
        raise error

    return work


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (None, Done()),
        (Done(), Done()),
        (Retry("busy", after=3.0), Retry("busy", 3.0, Cause("raised", "busy"))),
        (Retry("busy", cause=Cause("raised", "b")), Retry("busy", None, Cause("raised", "b"))),
        (Refuse("no such house"), Refuse("no such house", Cause("refused", "no such house"))),
    ],
)
async def test_what_a_handler_returns_is_its_outcome(answer: object, outcome: Outcome) -> None:
    assert await outcome_of(answers(answer)) == outcome


@pytest.mark.parametrize("junk", [True, 0, "done", {}, Done, (Done(),), Exception("x")])
async def test_junk_is_refused_and_named(junk: object) -> None:
    outcome = await outcome_of(answers(junk))
    assert isinstance(outcome, Refuse)
    assert type(junk).__name__ in outcome.reason
    assert outcome.cause is not None
    assert outcome.cause.kind == "refused"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        TimeoutError("the handler's own"),
        NotAccepted("no", subject="x"),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    ],
)
async def test_what_a_handler_raises_is_a_retry_with_its_cause(error: Exception) -> None:
    outcome = await outcome_of(raises(error))
    assert isinstance(outcome, Retry)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.error) == ("raised", type(error).__qualname__)
    assert str(error) in outcome.reason
    assert "raise error" in outcome.cause.traceback


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadPayload("of something the handler read"), "invalid"),
        (BadDeclaration("no stream stores it"), "raised"),
        (ExceptionGroup("two", [ValueError("a"), BadPayload("b")]), "invalid"),
        (ExceptionGroup("two", [ExceptionGroup("inner", [BadDeclaration("b")]), KeyError("a")]), "raised"),
    ],
)
async def test_what_no_retry_can_help_is_refused_at_once(error: Exception, kind: str) -> None:
    outcome = await outcome_of(raises(error))
    assert isinstance(outcome, Refuse)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.error) == (kind, type(error).__qualname__)
    assert str(error) in outcome.reason
    assert "raise error" in outcome.cause.traceback


async def test_a_tools_recorded_failure_is_not_tried_again() -> None:
    outcome = await outcome_of(raises(ToolFailed("no", tool="crm", cause="raised")))
    assert isinstance(outcome, Refuse)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.error) == ("refused", "ToolFailed")


async def test_a_payload_that_does_not_fit_is_refused_without_running() -> None:
    outcome = await outcome_of(None)
    assert isinstance(outcome, Refuse)
    assert outcome.cause is not None
    assert outcome.cause.kind == "invalid"


async def hangs(_: Conversation) -> object:
    return await asyncio.Event().wait()


async def test_a_handler_that_hangs_is_a_retry_with_cause_timeout() -> None:
    outcome = await outcome_of(hangs, limit=0.02)
    assert isinstance(outcome, Retry)
    assert outcome.cause is not None
    assert outcome.cause.kind == "timeout"
    assert "0.02 s" in outcome.reason
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # what runs next in this task is not cancelled by it


async def test_a_handlers_own_time_limit_is_its_own() -> None:
    async def work(call: Conversation) -> object:
        async with asyncio.timeout(0.01):
            await hangs(call)
        return None

    outcome = await outcome_of(work)
    assert isinstance(outcome, Retry)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.error) == ("raised", "TimeoutError")


async def test_a_handler_may_clean_up_when_its_time_is_over() -> None:
    cleaned = []

    async def work(call: Conversation) -> object:
        try:
            return await hangs(call)
        finally:
            await asyncio.sleep(0.001)
            cleaned.append(call.id)

    outcome = await outcome_of(work, limit=0.02)
    assert isinstance(outcome, Retry)
    assert cleaned == ["c1"]


@pytest.mark.parametrize("error", [Unreachable("gone"), Unconfirmed("silence", subject="x"), Unsettled("silence")])
async def test_a_bus_out_of_reach_is_not_the_messages_fault(error: Exception) -> None:
    with pytest.raises(type(error)):
        await outcome_of(raises(error))


async def test_cancellation_passes() -> None:
    began = asyncio.Event()

    async def work(call: Conversation) -> object:
        began.set()
        return await hangs(call)

    run = asyncio.create_task(outcome_of(work))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_cancellation_passes_also_when_the_time_is_over_as_well() -> None:
    cleaning = asyncio.Event()

    async def work(call: Conversation) -> object:
        try:
            return await hangs(call)
        finally:
            cleaning.set()
            await asyncio.sleep(0.05)

    run = asyncio.create_task(outcome_of(work, limit=0.01))
    await cleaning.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_cancellation_nobody_asked_for_is_the_handlers_own_failure() -> None:
    async def work(call: Conversation) -> object:
        inner = asyncio.create_task(hangs(call))
        await asyncio.sleep(0)
        inner.cancel()
        return await inner

    outcome = await outcome_of(work)
    assert isinstance(outcome, Retry)
    assert outcome.cause is not None
    assert outcome.cause.error == "CancelledError"


async def test_no_timer_is_left_behind() -> None:
    seen: list[str] = []

    async def work(call: Conversation) -> object:
        seen.append(call.agent)
        return None

    for _ in range(3):
        assert await outcome_of(work, limit=0.02) == Done()
    await asyncio.sleep(0.05)  # longer than the limit: a timer left behind would cancel this task here
    assert seen == ["job"] * 3


async def test_a_handler_may_run_beside_others_in_one_loop() -> None:
    gate = asyncio.Event()
    inside: list[int] = []

    async def work(_: Conversation) -> object:
        inside.append(1)
        await gate.wait()
        return None

    runs: list[Awaitable[Outcome]] = [asyncio.create_task(outcome_of(work)) for _ in range(3)]
    await eventually(lambda: len(inside) == 3, what="three handlers inside")
    gate.set()
    assert await asyncio.gather(*runs) == [Done()] * 3


@pytest.mark.parametrize("answer", [Done(), Retry("a"), Refuse("b")])
async def test_a_synchronous_answer_costs_no_turn_of_the_loop(answer: Outcome) -> None:
    turns: list[int] = []
    asyncio.get_running_loop().call_soon(turns.append, 1)
    assert type(await outcome_of(answers(answer))) is type(answer)
    assert turns == []


@pytest.mark.parametrize(
    "nonsense",
    [
        Retry("soon", after="tomorrow"),  # type: ignore[arg-type]
        Retry("never", after=float("inf")),
        Retry("what", after=float("nan")),
        Retry(reason=object()),  # type: ignore[arg-type]
        Refuse(reason=b"bytes"),  # type: ignore[arg-type]
    ],
)
async def test_an_outcome_that_cannot_be_acted_on_is_refused(nonsense: Outcome) -> None:
    outcome = await outcome_of(answers(nonsense))
    assert isinstance(outcome, Refuse)
    assert type(nonsense).__name__ in outcome.reason


@pytest.mark.parametrize(
    "answer", [Retry("x" * 9_000), Refuse("x" * 9_000), Refuse("a", Cause("refused", "x" * 9_000))]
)
async def test_a_reason_is_short_enough_for_every_record(answer: Outcome) -> None:
    outcome = await outcome_of(answers(answer))
    assert isinstance(outcome, Retry | Refuse)
    assert outcome.cause is not None
    assert len(outcome.cause.reason) == 2_000


async def test_an_error_that_cannot_be_told_is_an_answer_too() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    outcome = await outcome_of(raises(MuteError()))
    assert isinstance(outcome, Retry)
    assert "MuteError" in outcome.reason


async def test_a_run_that_ends_at_its_deadline_is_refused_for_it_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A timer may fire a moment before the clock of the wall gets there. A retry would find no time left: expired."""
    due = time.time() + 0.02
    monkeypatch.setattr(time, "time", lambda: due - 0.02)
    desk = Silent()
    desk.deadline = due
    conversation = Conversation("c1", "job", "CALL_INTENT-1-0", 0.0, cast("Desk", desk))

    async def hangs(_: Conversation) -> None:
        await asyncio.Event().wait()

    outcome = await execute(Job(hangs), Letter(), conversation)
    assert isinstance(outcome, Refuse)
    assert outcome.cause is not None
    assert outcome.cause.kind == "deadline"


async def test_a_handler_that_swallows_its_timeout_and_ends_leaves_nothing_cancelled() -> None:
    async def ends(_: Conversation) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    assert await outcome_of(ends, limit=0.01) == Done()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
