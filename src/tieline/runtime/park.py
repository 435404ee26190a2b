"""Putting a message aside, and bringing it back with its origin."""

import base64
import logging
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import Denied
from tieline.outcomes import Wait
from tieline.records.parks import read_aside
from tieline.records.reading import LATEST
from tieline.runtime.aside import Parked, woken_why
from tieline.runtime.attempt import Attempt
from tieline.runtime.bus import Bus, whole_seconds
from tieline.wire.journal import Record

__all__ = ["LONGEST_NAK", "bring_back", "park", "sleep_aside"]

log = logging.getLogger("tieline.park")

LONGEST_NAK = 60.0  # seconds that a delivery may be handed back for; longer waits leave it


async def park(attempt: Attempt, waits: tuple[Wait, ...], bus: Bus) -> bool:
    """Put the message aside until what it waits for is there. False where it belongs to another process by now.

    Everything that brings it back is on record before the acknowledgement: a crash between the two repeats the run.
    """
    steps, number = attempt.steps, attempt.past.next
    answers = [wait.step for wait in waits if wait.step is not None]
    history = attempt.history()
    if await history.end(attempt.past, "parked", waits=answers) is None:
        return False
    attempt.begun = False  # its end is on record
    aside = put_aside(attempt, bus)
    for step in answers:
        await bus.journal.write(subjects.step_sibling(step, "park"), aside, names.about_origin(attempt.call.origin))
    # An older park may have left these records, so a copy that was asked for now says so itself.
    mine = {**aside, "headers": aside["headers"] | {names.PARK: str(number)}}
    back = partial(bring_back, bus, mine)
    # In this order: an answer that came before its park record was written found nothing to bring back.
    for step in await bus.journal.glance(answers) if answers else ():
        await back(f"{woken_why(step)} {number}")
    for until in {wait.until for wait in waits if wait.until is not None}:
        try:
            await back(f"wake {attempt.call.origin} {steps.run} {number} {until}", until)
        except Denied as denied:
            if not answers:
                raise
            # Of a deadline: who waits for a time says so by uses=("delays",). The answer brings the message back, and
            # a tool or an agent that was asked answers at the deadline too.
            log.warning("%s [%s] is not woken at its deadline: %s", attempt.duty.name, attempt.call.id, denied)
    if answers:
        key, token = digest(attempt.call.origin, steps.run), subjects.token(attempt.call.id)
        bus.aside.put(Parked(attempt.duty.name, key, number, token, tuple(answers), history.over_subject, back))
    return True


async def sleep_aside(attempt: Attempt, due: float, bus: Bus) -> None:
    """Put a failed message aside until its next attempt, at ``due`` (seconds since 1970)."""
    steps, number = attempt.steps, attempt.past.next
    aside = put_aside(attempt, bus)
    aside["headers"][names.PARK] = str(number)
    if attempt.delivery.expires is not None:  # what is left of its time then
        aside["headers"]["Nats-Schedule-TTL"] = whole_seconds(attempt.delivery.expires - due)
    await bring_back(bus, aside, f"retry {attempt.call.origin} {steps.run} {number}", due)


def put_aside(attempt: Attempt, bus: Bus) -> dict[str, Any]:
    """What is needed to bring a message back to its consumer, as a record."""
    delivery = attempt.delivery
    kept = names.carried(delivery.headers) | bus.about(attempt.call.id)
    return {
        "stream": delivery.stream,
        "agent": attempt.duty.name,
        "payload": base64.b64encode(delivery.payload).decode(),
        "headers": kept | {names.SUBJECT: delivery.subject, names.ORIGIN: delivery.origin},
    }


async def bring_back(bus: Bus, aside: Record, why: str, at: float | None = None) -> None:
    """Publish the message again, to its consumer alone; ``at`` a time (seconds since 1970), else now.

    ``why`` names this return: asked for twice, it happens once. Raises like `Publisher.publish`, and `BadPayload` where
    ``aside`` is not such a record.
    """
    message = read_aside(aside)
    headers: dict[str, str] = {**message.headers, names.MSG_ID: digest("back", message.agent, why)}
    subject = subjects.redrive(message.stream, message.agent)
    if at is not None and at > time.time():
        due = datetime.fromtimestamp(min(at, LATEST), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        headers |= {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": subjects.due(subject)}
        subject = subjects.schedule(headers[names.MSG_ID])
    await bus.publisher.publish(subject, message.payload, headers)
