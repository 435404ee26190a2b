"""A conversation's state: one record on a subject of its own, written by compare-and-set."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, to_json
from tieline.errors import Conflict, NotAccepted, Unsettled
from tieline.records.reading import read_digits, read_object
from tieline.runtime.bus import Bus, whole_seconds
from tieline.wire.connection import NoAnswer, headers_of

__all__ = ["Kept", "read", "remove", "update"]

_STREAM = "STATE"
_OVERTAKEN = 10071  # wrong last sequence
_LOOK_AT = 128  # remembered writes, from which on those whose steps are on record are forgotten
_KEEP = 64  # the newest writes, whose steps may still be on their way to the journal
_MAX_REMEMBERED = 1_000  # writes; a state has to fit into a message
_TRIES = 20  # of an update that others keep overtaking
_PAUSE = 0.002  # seconds before the second try; doubled for each further one, jittered
_LONGEST_PAUSE = 0.25


@dataclass(frozen=True, slots=True)
class Kept:
    """A state as it was read: ``value`` None and ``revision`` 0 where there is none.

    ``writes`` are the steps that wrote it, oldest first: all whose own record may still be missing. A run that comes
    after a crash between the two finds its write here, however many others wrote meanwhile.
    """

    value: Any
    revision: int
    writes: tuple[str, ...]


async def read(bus: Bus, conversation: str) -> Kept:
    """The state of a conversation. `Unsettled` where its stream does not answer.

    A record that cannot be read counts as none: the next update replaces it.
    """
    try:
        reply = await bus.connection.request(f"$JS.API.DIRECT.GET.{_STREAM}.{subjects.state(conversation)}")
    except NoAnswer as silence:
        raise Unsettled(f"the state of conversation {conversation} is out of reach: {silence}") from silence
    if reply.status is not None:
        return Kept(None, 0, ())
    revision = read_digits(headers_of(reply).get("Nats-Sequence")) or 0
    record = read_object(reply.payload) if reply.payload else {}
    if record is None:
        bus.connection.unreadable.skip("state", subjects.state(conversation), _STREAM, revision)
        return Kept(None, revision, ())
    writes = record.get("writes")
    return Kept(record.get("value"), revision, tuple(map(str, writes)) if isinstance(writes, list) else ())


async def update(bus: Bus, conversation: str, change: Callable[[Any], Any], key: str, ttl: float | None) -> Any:
    """Replace the state by ``change`` of it; what it became. ``key`` names the write: done once, it is not done again.

    ``ttl`` is the pod's ``idle_end`` unless given. Raises `Conflict` when others keep writing in between.
    """
    lasts = bus.pod.idle_end if ttl is None else ttl
    for attempt in range(_TRIES):
        kept = await read(bus, conversation)
        if key in kept.writes:
            return kept.value
        value = change(kept.value)
        if await _written(bus, conversation, kept, value, key, lasts):
            return value
        await asyncio.sleep(min(_PAUSE * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.0, 1.0))
    raise Conflict(f"the state of conversation {conversation} changed {_TRIES} times while it was being updated")


async def remove(bus: Bus, conversation: str) -> None:
    """The state goes within seconds; a new one may begin."""
    kept = await read(bus, conversation)
    if kept.value is not None:
        gone = {names.MSG_ID: digest("state", conversation, "gone", str(kept.revision)), names.TTL: "1"}
        await bus.publisher.publish(subjects.state(conversation), b"", bus.about(conversation) | gone)


async def _written(bus: Bus, conversation: str, kept: Kept, value: Any, key: str, ttl: float | None) -> bool:
    writes = [*await _unrecorded(bus, kept.writes, key), key][-_MAX_REMEMBERED:]
    record = {"value": value, "writes": writes}
    headers = bus.about(conversation) | {
        names.MSG_ID: digest("state", conversation, key, str(kept.revision)),
        names.EXPECTED_REVISION: str(kept.revision),
    }
    if ttl is not None:
        headers[names.TTL] = whole_seconds(ttl)
    try:
        await bus.publisher.publish(subjects.state(conversation), to_json(record), headers)
    except NotAccepted as error:
        if error.err_code == _OVERTAKEN:
            return False
        raise
    return True


async def _unrecorded(bus: Bus, writes: tuple[str, ...], key: str) -> tuple[str, ...]:
    """``writes`` without those whose steps are on record, once there are many: such a step is never run again.

    Only steps of the agent that writes now are looked up: it may not read the journals of others.
    """
    if len(writes) < _LOOK_AT:
        return writes
    if not subjects.is_step(key):  # of a service, which names each write anew and never repeats one
        return writes[-_KEEP:]
    own = subjects.steps_of(key.split(".")[1])
    recorded = await bus.journal.glance([write for write in writes[:-_KEEP] if subjects.covers(own, write)])
    return tuple(write for write in writes if write not in recorded)
