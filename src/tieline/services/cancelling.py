"""Cancelling a conversation: the record that every process heeds, and what is put aside brought back to be refused."""

import logging
import time

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import BadPayload, NotAccepted, ObjectGone, Unconfirmed
from tieline.records.dead_letters import read_dead_letter
from tieline.runtime.aside import cancelled_why
from tieline.runtime.bus import Bus
from tieline.runtime.park import bring_back
from tieline.services.questions import whoever
from tieline.wire.feed import Feed
from tieline.wire.journal import Record

__all__ = ["cancel"]

log = logging.getLogger("tieline.cancelling")

_DIGEST = len(digest(""))


async def cancel(bus: Bus, conversation: str, reason: str = "") -> tuple[Record, int]:
    """Stop a conversation's work, for good: running handlers end now, and whatever comes for it becomes a dead letter.

    Returns the record that counts (this one, or an earlier one) and how many messages that waited for an answer were
    brought back to be refused. Those that wait for a time are refused at their time. Asked for again after a crash, it
    goes on. Raises like `Publisher.publish`.
    """
    subject = subjects.cancelled(conversation)
    record: Record = {"by": whoever(), "at": round(time.time(), 3), "reason": reason}
    if not await bus.journal.write(subject, record, bus.about(conversation)):
        record = (await bus.journal.read([subject])).get(subject, {})
    # After the record: written again by whoever asks again, should this process die in between.
    copy = subjects.cancelled_copy(subjects.token(conversation))
    await bus.journal.write(copy, record, bus.about(conversation))
    return record, await _wake(bus, conversation)


async def _wake(bus: Bus, conversation: str) -> int:
    """Bring back every message that has a park record and did not end. One that runs again now is refused twice."""
    parked: dict[tuple[str, str], str] = {}
    ended = await _dead(bus, conversation)
    for subject in await bus.journal.subjects(subjects.steps_in("*", conversation)):
        _, agent, _, kind, key = subject.split(".")
        if kind == "park":
            parked[agent, key[-_DIGEST:]] = subject
        elif kind == "over":
            ended.add((agent, key))
    woken = 0
    for (agent, message), subject in parked.items():
        if (agent, message) in ended:
            continue
        try:
            aside = (await bus.journal.read([subject]))[subject]
            await bring_back(bus, aside, cancelled_why(agent, message))
            woken += 1
        except Unconfirmed:
            raise
        except (ObjectGone, NotAccepted, BadPayload, KeyError) as gone:
            log.warning("%s cannot be brought back: %s", subject, gone)
    return woken


async def _dead(bus: Bus, conversation: str) -> set[tuple[str, str]]:
    """The agents and messages of dead letters, as the journal calls them."""
    found = set()
    async for letter in Feed(bus.connection, "DLQ", ["DLQ.>"], start=1, to_end=True, headers_only=True):
        if letter.headers.get(names.CONVERSATION) == subjects.token(conversation):
            told = read_dead_letter(letter.headers.get(names.DEAD)) or {}
            found.add((str(told.get("agent")), digest(letter.origin, letter.headers.get(names.RUN, ""))))
    return found
