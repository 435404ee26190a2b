"""An outcome becomes publishes, a fact and one acknowledgement, in this order, here and nowhere else."""

import json
import logging
import time
from dataclasses import dataclass
from typing import Any, assert_never

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import NotAccepted, TielineError, Unsettled
from tieline.facts import Ending
from tieline.outcomes import Cause, Done, HandBack, Outcome, Park, Refuse, Retry, Superseded
from tieline.records.reading import read_short
from tieline.runtime.attempt import Attempt
from tieline.runtime.bus import Bus
from tieline.runtime.failure_log import log_dead_letter, log_retry
from tieline.runtime.history import Past
from tieline.runtime.park import LONGEST_NAK, park, sleep_aside
from tieline.runtime.retry import back_off

__all__ = ["UNEXPECTED", "Settlement", "refuse_unexpected", "release", "settle"]

log = logging.getLogger("tieline.settle")


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a delivery ended and why. ``ack``: acknowledge it by `release`, once its fact is stored; False where it was
    handed back or belongs to another process now."""

    ending: Ending
    reason: str = ""
    ack: bool = True


# Errors of a program, not of the bus: those are of our own types.
UNEXPECTED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)
_LAST = 5  # attempts that a letter tells of, where it has no room for all
_SHORT = 2_000  # characters of a text in such a letter


async def settle(attempt: Attempt, outcome: Outcome, bus: Bus) -> Settlement:
    """Publish what became of the message; how it ended and why. The acknowledgement comes later, by `release`.

    In this order: a crash between the two repeats the publish, which the server drops by message id. The other order
    would lose it. Raises `Unsettled` when the outcome could not be recorded: the message will be delivered again.
    """
    try:
        match outcome:
            case Done():
                return await _done(attempt)
            case Retry(reason, after, cause):
                return await _retry(attempt, after, cause or Cause("raised", reason), bus)
            case Refuse(reason, cause):
                return await _dead_letter(attempt, cause or Cause("refused", reason), attempt.past, bus)
            case Park(waits):
                if not await park(attempt, waits, bus):
                    return _taken_over(attempt)
                return Settlement("parked", f"waits for {len(waits)} answers or times")
            case HandBack(reason, after):
                if not attempt.doubtful:
                    await attempt.delivery.nak(after)
                return Settlement("interrupted", reason, ack=False)
            case Superseded(reason, ack):
                return Settlement("superseded", reason, ack)
            case _:
                assert_never(outcome)
    except NotAccepted as error:
        raise Unsettled(f"the outcome of {attempt.call.origin} could not be recorded: {error}") from error
    except UNEXPECTED as error:
        if isinstance(outcome, Refuse):
            raise Unsettled(f"the outcome of {attempt.call.origin} could not be recorded: {error!r}") from error
        return await settle(attempt, refuse_unexpected(attempt, error), bus)


def refuse_unexpected(attempt: Attempt, error: Exception) -> Refuse:
    """The refusal of a message whose records or headers led our own code into an error.

    One such message must not end the process, which runs others and would be given it again.
    """
    log.error("%s [%s] fails in Tieline itself", attempt.duty.name, attempt.call.id, exc_info=error)
    reason = f"Tieline cannot handle its headers or records: {type(error).__name__}: {error}"[:2_000]
    return Refuse(reason, Cause("invalid", reason, type(error).__name__))


async def release(attempt: Attempt, bus: Bus) -> None:
    """Acknowledge a delivery whose fact is stored. A kill before the server reads it means another delivery.

    A process that may have lost its lease acknowledges nothing: another one may run what that would end. The next
    delivery finds the records. Objects of an ended conversation go after the acknowledgement: a run that comes again
    would miss them.
    """
    if attempt.doubtful:
        return
    await attempt.delivery.ack()
    if attempt.steps.ended:
        try:
            await bus.objects.remove(attempt.call.id)
        except TielineError as error:
            log.warning("the objects of conversation %s stay until they age out: %s", attempt.call.id, error)


async def _done(attempt: Attempt) -> Settlement:
    """A first delivery writes nothing, unless somebody else may run the message by now."""
    again = attempt.doubtful or not attempt.delivery.fresh
    if not again and not attempt.steps.ended:
        return Settlement("done")
    history = attempt.history()
    if again and attempt.begun and await history.end(attempt.past, "done") is None:
        return _taken_over(attempt)
    if again or attempt.steps.ended:
        await history.over()
    return Settlement("done")


async def _retry(attempt: Attempt, after: float | None, cause: Cause, bus: Bus) -> Settlement:
    limits, delivery = attempt.duty.limits, attempt.delivery
    wait = back_off(limits, attempt.past.counted + 1) if after is None else after
    due = time.time() + wait
    past = await attempt.history().end(attempt.past, "raised", cause, due=due)
    if past is None:
        return _taken_over(attempt)
    attempt.begun = False  # its end is on record
    if past.counted >= limits.attempts:
        return await _dead_letter(attempt, cause, past, bus)
    ends = [end for end in (delivery.expires, attempt.call.due) if end is not None]
    if ends and due >= min(ends):
        late = Cause("expired", f"its time ends before the next attempt; the last one: {cause.reason}", cause.error)
        return await _dead_letter(attempt, late, past, bus)
    log_retry(attempt, cause, past.counted, wait, bus)
    if wait <= LONGEST_NAK:
        await delivery.nak(wait)
        return Settlement("retry", cause.reason, ack=False)
    await sleep_aside(attempt, due, bus)  # put aside, so that long sleepers do not use up max_ack_pending
    return Settlement("parked", f"tried again in {wait:.0f} s: {cause.reason}")


async def _dead_letter(attempt: Attempt, cause: Cause, past: Past, bus: Bus) -> Settlement:
    """In this order: that the attempt ends with it, so that nobody else can begin the next one; then the letter."""
    delivery, call = attempt.delivery, attempt.call
    if attempt.begun:
        ended = await attempt.history().end(past, "dead", cause)
        if ended is None:
            return _taken_over(attempt)
        past, attempt.begun = ended, False
    payload, headers = _letter(attempt, cause, past, bus)
    subject = subjects.dead_letter(attempt.duty.name, cause.kind, delivery.subject)
    await bus.standstill.store("DLQ", subject, payload, headers)
    # Whose step an untrusted message names, nobody knows: no failure is written there.
    if attempt.duty.give_up is not None and cause.kind != "untrusted":
        await attempt.duty.give_up(delivery, cause, call.id)
    log_dead_letter(attempt, cause, past.counted, bus)
    return Settlement("dead", f"{cause.kind}: {cause.reason}")


def _taken_over(attempt: Attempt) -> Settlement:
    reason = "this process lost its lease, and the message was delivered to another run"
    log.warning("%s [%s] attempt %d decides nothing: %s", attempt.duty.name, attempt.call.id, attempt.past.next, reason)
    return Settlement("superseded", reason, ack=False)


def _letter(attempt: Attempt, cause: Cause, past: Past, bus: Bus) -> tuple[bytes, dict[str, str]]:
    """The payload and headers of a dead letter. It can always be stored: one that cannot would come for ever."""
    delivery, call = attempt.delivery, attempt.call
    told = _told(attempt, cause, past, bus.replica)
    run, redriven = delivery.headers.get(names.RUN, ""), delivery.headers.get(names.REDRIVEN, "")
    own = {
        **bus.about(call.id),
        # With how often it was sent again: the server would take its second death for a repeat of the first.
        names.MSG_ID: digest("dead", attempt.duty.name, call.origin, run, redriven),
        names.ORIGIN: _one_line(call.origin),
        names.DEAD: json.dumps(told),  # ASCII, one line: a header carries it as it is
    }
    others = {name: _one_line(value) for name, value in names.carried(delivery.headers).items()}
    if bus.publisher.fits(delivery.payload, others | own):
        return delivery.payload, others | own
    told["payload"] = f"not carried, too large beside its cause: message {delivery.seq} of {delivery.stream}"
    if not bus.publisher.fits(b"", own | {names.DEAD: json.dumps(told)}):
        told |= {"attempts": told["attempts"][-_LAST:], "traceback": told["traceback"][-_SHORT:]}
    if not bus.publisher.fits(b"", own | {names.DEAD: json.dumps(told)}):
        told |= {"attempts": [], "traceback": "", "error": told["error"][:_SHORT], "reason": told["reason"][:_SHORT]}
    return b"", own | {names.DEAD: json.dumps(told)}


def _told(attempt: Attempt, cause: Cause, past: Past, replica: str) -> dict[str, Any]:
    """What a dead letter says of its message's death and of every attempt. Times are in seconds since 1970."""
    delivery, now = attempt.delivery, round(time.time(), 3)
    return {
        "cause": cause.kind,
        "reason": cause.reason,
        "error": cause.error,
        "traceback": cause.traceback,
        "agent": attempt.duty.name,
        "version": attempt.version,
        "subject": delivery.subject,
        "stream": delivery.stream,
        "seq": delivery.seq,
        "origin": attempt.call.origin,
        "ttl": read_short(delivery.headers.get(names.TTL), 64) or "",
        "at": now,
        "by": replica,
        "attempt": past.tries[-1].get("n") if past.tries else attempt.call.attempt,
        "attempts": list(past.tries),
    }


def _one_line(value: str) -> str:
    """A header's value as it can be sent again: other clients do send line breaks in one."""
    return value.replace("\r", " ").replace("\n", " ")
