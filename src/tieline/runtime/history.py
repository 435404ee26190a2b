"""Attempts, not deliveries: what became of each earlier run of a message, as the journal has it.

The server counts deliveries, and a neighbour of a message that kills its process is delivered again too. So an attempt
is recorded before a redelivered message runs, and how it ended after it did. First deliveries that come to `Done` write
nothing.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

from tieline import headers, subjects
from tieline.codec import digest
from tieline.outcomes import Cause
from tieline.wire.journal import Journal, Record

__all__ = ["NO_PAST", "History", "Past"]

_PAGE = 12  # attempts looked up at once: more than the limit and its vanishings
_SHARED_VANISHINGS = 2  # after as many, the message runs alone, and only then does dying count

type Ended = Literal["raised", "interrupted", "parked"]


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier attempts came to. ``counted`` is what the limit is compared with, ``next`` the number to run as.

    ``over``: a run of this message came to `Done`, so that whatever brings it again comes too late.
    """

    counted: int
    vanished: int
    next: int
    tries: tuple[Record, ...]
    over: bool = False

    @property
    def alone(self) -> bool:
        """It vanished with its process often enough to be under suspicion."""
        return self.vanished >= _SHARED_VANISHINGS


NO_PAST = Past(counted=0, vanished=0, next=1, tries=())


class History:
    """The attempts at one message by one agent."""

    def __init__(self, journal: Journal, replica: str, agent: str, conversation: str, origin: str, run: str) -> None:
        self._journal = journal
        self._replica = replica
        self._agent = agent
        self._conversation = conversation
        self._origin = origin
        self._key = digest(origin, run)
        self.before = 0  # attempts before the message was redriven: told of, and not counted any more

    async def past(self) -> Past:
        """What the journal has of earlier attempts, for a message that was delivered before."""
        starts: dict[int, Record] = {}
        ends: dict[int, Record] = {}
        first = 1
        while True:
            numbers = range(first, first + _PAGE)
            found = await self._journal.read(
                [self.over_subject, *(self._subject(n) for n in numbers), *(self._subject(n, "-end") for n in numbers)]
            )
            over = self.over_subject in found
            starts |= {n: found[at] for n in numbers if (at := self._subject(n)) in found}
            ends |= {n: found[at] for n in numbers if (at := self._subject(n, "-end")) in found}
            if numbers[-1] not in starts and numbers[-1] not in ends:
                return _judged(starts, ends, over, self.before)
            first += _PAGE

    async def begin(self, past: Past, delivered: int) -> Past:
        """Record that attempt ``past.next`` starts. Should another process run as that number, take the next one."""
        alone = past.alone  # how it runs now, whatever another process adds to its past meanwhile
        while True:
            start = self._stamp() | {"n": past.next, "alone": alone, "delivered": delivered}
            if await self._journal.write(self._subject(past.next), start):
                return past
            past = await self.past()

    async def end(self, past: Past, how: Ended, cause: Cause | None) -> Past:
        """Record how attempt ``past.next`` ended, and what the past looks like with it."""
        record = self._stamp() | {"n": past.next, "end": how}
        if cause is not None:
            record |= {"cause": cause.kind, "reason": cause.reason, "error": cause.error}
        if not await self._journal.write(self._subject(past.next, "-end"), record):
            return await self.past()  # a twin of this delivery ended it first
        counted = past.counted + (how == "raised")
        return Past(counted, past.vanished, past.next + 1, (*past.tries, record))

    async def over(self) -> None:
        """Record that a message that may come again is done."""
        await self._journal.write(self.over_subject, self._stamp(), headers.about_origin(self._origin))

    @property
    def over_subject(self) -> str:
        """Where it is recorded that the message is done."""
        return subjects.step(self._agent, self._conversation, "over", self._key)

    def _subject(self, number: int, suffix: str = "") -> str:
        return subjects.step(self._agent, self._conversation, "attempt", f"{self._key}-{number}{suffix}")

    def _stamp(self) -> dict[str, Any]:
        return {"at": round(time.time(), 3), "by": self._replica}


def _judged(starts: dict[int, Record], ends: dict[int, Record], over: bool = False, before: int = 0) -> Past:
    counted = vanished = 0
    tries: list[Record] = []
    last = max([before, *starts, *ends])
    for number in range(1, max(last, 1) + 1):
        start, end = starts.get(number), ends.get(number)
        if end is not None:
            counted += number > before and end.get("end") == "raised"
            tries.append(end)
            continue
        if number == before:  # refused: its end is the dead letter that was redriven
            tries.append({**(start or {"n": number}), "end": "dead"})
            continue
        # Only a first delivery goes unrecorded: it died, or was handed back before it ran.
        vanished += 1
        counted += number > before and bool(start and start.get("alone"))
        tries.append({**(start or {"n": number}), "end": "vanished"})
    return Past(counted, vanished, max(last, 1) + 1, tuple(tries), over)
