"""One delivery in, one outcome out. Knows no NATS."""

import asyncio

from tieline.context import Conversation
from tieline.errors import BadPayload, Unconfirmed, Unreachable, Unsettled
from tieline.outcomes import Cause, Done, Outcome, Refuse, Retry
from tieline.runtime.duty import Duty, Incoming

__all__ = ["execute"]


async def execute(duty: Duty, incoming: Incoming, call: Conversation) -> Outcome:
    """Run the duty once. Every exception becomes an outcome, except cancellation and a bus out of reach."""
    try:
        work = duty.open(incoming)
    except BadPayload as error:
        return Refuse(str(error), Cause("invalid", str(error), "BadPayload"))
    limit = _Limit(duty.limits.timeout)
    try:
        answer = await work(call)
    except (Unreachable, Unconfirmed, Unsettled):
        raise  # the bus failed, not the message: it comes again and this run does not count
    except asyncio.CancelledError as error:
        if limit.others_cancelled():
            raise
        if not limit.reached:  # nobody wants this run to end: something the handler awaited was cancelled
            cause = Cause.of(error)
            return Retry(cause.reason, cause=cause)
        reason = f"the handler ran longer than its timeout of {duty.limits.timeout:g} s"
        return Retry(reason, cause=Cause("timeout", reason, "TimeoutError"))
    except Exception as error:  # noqa: BLE001 - a handler may raise anything; all of it is an answer
        cause = Cause.of(error)
        return Retry(cause.reason, cause=cause)
    finally:
        limit.over()
    match answer:
        case None:
            return Done()
        case Done() | Retry() | Refuse():
            return answer
    reason = f"the handler returned {type(answer).__name__}; it returns None, Done, Retry or Refuse"
    return Refuse(reason, Cause("refused", reason))


class _Limit:
    """`asyncio.timeout` at a third of its cost: every message pays for one."""

    __slots__ = ("_before", "_task", "_timer", "reached")

    def __init__(self, seconds: float) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        self.reached = False
        self._timer = asyncio.get_running_loop().call_later(seconds, self._reach)

    def _reach(self) -> None:
        self.reached = True
        if self._task is not None:
            self._task.cancel()

    def others_cancelled(self) -> bool:
        """True when somebody else than this limit cancelled the task. Ask once, with the cancellation caught."""
        if self._task is None:
            return True
        left = self._task.uncancel() if self.reached else self._task.cancelling()
        return left > self._before

    def over(self) -> None:
        self._timer.cancel()
