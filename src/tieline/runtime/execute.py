"""One delivery in, one outcome out. Knows no NATS."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace

from tieline.context import Conversation
from tieline.errors import (
    BadDeclaration,
    BadPayload,
    NoReply,
    NotAwaited,
    ObjectGone,
    ToolFailed,
    Unconfirmed,
    Unreachable,
    Unsettled,
    first_of,
)
from tieline.outcomes import Cause, Done, Outcome, Park, Parking, Refuse, Retry
from tieline.runtime.duty import Duty, Incoming, Work
from tieline.runtime.unawaited import note_coroutines, refuse_forgotten

__all__ = ["execute"]

_LOOK_AGAIN = 0.1  # seconds
_LONGEST_REASON = 2_000  # characters: a reason travels in records, headers and facts, and errors may quote anything


def _none() -> float:
    return 0.0


async def execute(
    duty: Duty, incoming: Incoming, call: Conversation, stood_still: Callable[[], float] = _none
) -> Outcome:
    """Run the duty once. Every exception becomes an outcome, except cancellation and a bus out of reach.

    ``stood_still`` says for how many seconds, ever, the process was made to wait: they do not count for the timeout.
    """
    try:
        work = duty.open(incoming)
    except BadPayload as error:
        cause = _told(Cause("invalid", str(error), "BadPayload"))
        return Refuse(cause.reason, cause)
    due = call.due
    left = duty.limits.timeout if due is None else due - time.time()
    if left <= 0:
        return _too_late("its deadline had passed before it ran")
    limit = _Limit(min(left, duty.limits.timeout), stood_still)
    try:
        answer = await _answer_of(work, call)
    except Parking:
        return Park(())
    except BaseExceptionGroup as group:  # of a TaskGroup: one of its tasks parks, or several fail
        return _of_several(group)
    except (Unreachable, Unconfirmed, Unsettled, ObjectGone):
        raise  # the bus failed, not the message, or an object is gone for every run: the worker knows what to do
    except asyncio.CancelledError as error:
        if limit.others_cancelled():
            raise
        if not limit.reached:  # nobody wants this run to end: something the handler awaited was cancelled
            return _raised(error)
        if due is not None and left <= duty.limits.timeout:  # not by the clock: timers end a moment early
            return _too_late("its deadline passed while it ran")
        reason = f"the handler ran longer than its timeout of {duty.limits.timeout:g} s"
        return Retry(reason, cause=Cause("timeout", reason, "TimeoutError"))
    except (ToolFailed, NoReply) as error:  # recorded: another run would get the same
        cause = _told(Cause.of(error, "refused"))
        return Refuse(cause.reason, cause)
    except (BadDeclaration, BadPayload, NotAwaited) as error:
        return _hopeless(error, error)
    except Exception as error:  # noqa: BLE001 - a handler may raise anything; all of it is an answer
        return _raised(error)
    finally:
        limit.over()
    return _answered(answer)


async def _answer_of(work: Work, call: Conversation) -> object:
    """What the handler returned. Raises `NotAwaited` where it forgot an ``await``, whatever it returned."""
    forgotten = note_coroutines()
    answer = await work(call)
    if call.unfinished:
        await call.finish()
    if forgotten:
        refuse_forgotten(forgotten)
    return answer


def _of_several(group: BaseExceptionGroup[BaseException]) -> Outcome:
    parking, others = group.split(Parking)
    if parking is not None and others is None:
        return Park(())
    if not isinstance(others or group, Exception):
        raise group
    hopeless = group.subgroup((BadDeclaration, BadPayload))
    return _raised(group) if hopeless is None else _hopeless(group, first_of(hopeless))


def _hopeless(error: BaseException, reason: BaseException) -> Refuse:
    """The code or the data is wrong: another run would raise the same, so the message is a dead letter at once."""
    cause = _told(Cause.of(error, "invalid" if isinstance(reason, BadPayload) else "raised"))
    return Refuse(cause.reason, cause)


def _answered(answer: object) -> Outcome:
    match answer:
        case None | Done():
            return Done()
        case Retry(reason=str() as reason, after=None, cause=cause):
            return Retry(reason, None, _told(cause or Cause("raised", reason)))
        case Retry(reason=str() as reason, after=int() | float() as after, cause=cause) if math.isfinite(after):
            return Retry(reason, after, _told(cause or Cause("raised", reason)))
        case Refuse(reason=str() as reason, cause=cause):
            return Refuse(reason, _told(cause or Cause("refused", reason)))
    said = f"{answer!r:.200}" if isinstance(answer, Retry | Refuse) else type(answer).__name__
    reason = f"the handler returned {said}; it returns None, Done, Retry or Refuse, with a text and seconds"
    return Refuse(reason, Cause("refused", reason))


def _too_late(reason: str) -> Outcome:
    return Refuse(reason, Cause("deadline", reason))


def _raised(error: BaseException) -> Retry:
    try:
        cause = _told(Cause.of(error))
    except Exception:  # noqa: BLE001 - even the words of an error may raise
        name = type(error).__qualname__
        cause = Cause("raised", f"{name}, which cannot be put into words", name)
    return Retry(cause.reason, cause=cause)


def _told(cause: Cause) -> Cause:
    """The cause in words that every record can hold."""
    reason = cause.reason[:_LONGEST_REASON].encode(errors="replace").decode()
    return cause if reason == cause.reason else replace(cause, reason=reason)


class _Limit:
    """`asyncio.timeout` at a fraction of its cost: every message pays for one.

    The timer is made at the event loop's next turn: a handler that never waits needs none, and could not be stopped.
    """

    __slots__ = ("_allowed_for", "_before", "_seconds", "_stood_still", "_taken_back", "_task", "_timer", "reached")

    def __init__(self, seconds: float, stood_still: Callable[[], float]) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        self.reached = False
        self._taken_back = False  # the cancellation
        self._seconds = seconds
        self._stood_still = stood_still  # seconds in which the process was made to wait: they are not the handler's
        self._allowed_for = stood_still()
        self._timer = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._reach)

    def _reach(self) -> None:
        if (waited := self._stood_still() - self._allowed_for) > 0:
            self._allowed_for += waited
            self._timer = asyncio.get_running_loop().call_later(max(waited, _LOOK_AGAIN), self._reach)
            return
        self.reached = True
        if self._task is not None:
            self._task.cancel()

    def others_cancelled(self) -> bool:
        """True when somebody else than this limit cancelled the task. Ask once, with the cancellation caught."""
        if self._task is None:
            return True
        self._take_back()
        return self._task.cancelling() > self._before

    def over(self) -> None:
        """What follows is not to be cancelled, also where the handler swallowed it and came to its end."""
        self._timer.cancel()
        self._take_back()

    def _take_back(self) -> None:
        if self.reached and not self._taken_back and self._task is not None:
            self._taken_back = True
            self._task.uncancel()
