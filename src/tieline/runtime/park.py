"""Putting a message aside, and bringing it back with its origin."""

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.context import Conversation
from tieline.errors import BadPayload
from tieline.outcomes import Wait
from tieline.runtime.aside import Parked, woken_why
from tieline.runtime.attempt import Attempt
from tieline.runtime.bus import Bus, whole_seconds
from tieline.runtime.duty import Incoming, Work
from tieline.settings import Limits
from tieline.wire.journal import Record

__all__ = ["LONGEST_NAK", "WakerDuty", "bring_back", "park", "sleep_aside"]

LONGEST_NAK = 60.0  # seconds that a delivery may be handed back for; longer waits leave it


async def park(attempt: Attempt, waits: tuple[Wait, ...], bus: Bus) -> None:
    """Put the message aside until what it waits for is there.

    Everything that brings it back is on record before the acknowledgement: a crash between the two repeats the run.
    """
    steps, number = attempt.steps, attempt.past.next
    await attempt.history().end(attempt.past, "parked", None)
    if steps.sent:
        await bus.journal.write(steps.sent_subject(number), {"ids": steps.sent})
    aside = put_aside(attempt, bus)
    answers = [wait.step for wait in waits if wait.step is not None]
    for step in answers:
        await bus.journal.write(subjects.step_sibling(step, "park"), aside, names.about_origin(attempt.call.origin))
    # In this order: an answer that came before its park record was written found nothing to bring back.
    for step in await bus.journal.read(answers) if answers else ():
        await bring_back(bus, aside, woken_why(step))
    for until in {wait.until for wait in waits if wait.until is not None}:
        await bring_back(bus, aside, f"wake {attempt.call.origin} {steps.run} {number} {until}", at=until)
    if answers:
        key, over = digest(attempt.call.origin, steps.run), attempt.history().over_subject
        back = partial(bring_back, bus, aside)
        bus.aside.put(Parked(attempt.duty.name, key, subjects.token(attempt.call.id), tuple(answers), over, back))


async def sleep_aside(attempt: Attempt, wait: float, bus: Bus) -> None:
    """Put a failed message aside until its next attempt, ``wait`` seconds from now."""
    steps, number = attempt.steps, attempt.past.next
    if steps.sent:
        await bus.journal.write(steps.sent_subject(number), {"ids": steps.sent})
    why, at, aside = f"retry {attempt.call.origin} {steps.run} {number}", time.time() + wait, put_aside(attempt, bus)
    if attempt.delivery.expires is not None:  # what is left of its time then
        aside["headers"]["Nats-Schedule-TTL"] = whole_seconds(attempt.delivery.expires - at)
    await bring_back(bus, aside, why, at)


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

    ``why`` names this return: asked for twice, it happens once. Raises like `Publisher.publish`.
    """
    headers: dict[str, str] = {**aside["headers"], names.MSG_ID: digest("back", str(aside["agent"]), why)}
    subject = subjects.redrive(aside["stream"], aside["agent"])
    if at is not None and at > time.time():
        due = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        headers |= {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": subjects.due(subject)}
        subject = subjects.schedule(headers[names.MSG_ID])
    await bus.publisher.publish(subject, base64.b64decode(aside["payload"]), headers)


class WakerDuty:
    """Brings an agent's parked message back when its answer is recorded, by whoever wrote it."""

    def __init__(self, bus: Bus, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.guard = None
        self.give_up = None
        self._bus = bus

    def open(self, incoming: Incoming) -> Work:
        """Look whether somebody parked for this record. `BadPayload` for what is no step."""
        if not subjects.is_step(incoming.subject):
            raise BadPayload(f"{incoming.subject} is no step")

        async def wake(_: Conversation) -> None:
            at = subjects.step_sibling(incoming.subject, "park")
            aside: Mapping[str, Record] = await self._bus.journal.read([at])
            if at in aside:
                await bring_back(self._bus, aside[at], woken_why(incoming.subject))

        return wake
