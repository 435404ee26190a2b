"""Attempts, not deliveries: what became of each earlier run of a message, and who may run it next.

The server counts deliveries, and a neighbor of a message that kills its process is delivered again too. So an attempt
is recorded before a redelivered message runs, and how it ended after it did. First deliveries that come to `Done` write
nothing.

Each attempt has one end. It is written once: by the run itself before anything follows from it (a retry, a dead letter,
a park), or by its successor, which may not begin before. So a process that lost its lease finds that its attempt was
ended by somebody else, and decides nothing. A message may also be in its stream several times, because it was put aside
and brought back: a copy that comes while another one is at work, or after it, is *superseded*.
"""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from tieline import headers, subjects
from tieline.codec import digest
from tieline.outcomes import Cause, CauseKind, Superseded
from tieline.records.reading import read_integer, read_text, read_time
from tieline.wire.journal import Journal, Record

__all__ = ["NO_PAST", "Copy", "History", "Past", "cause_in"]

_PAGE = 12  # attempts looked up at once: more than the limit and its vanishings
_UNSUSPECTED = 2  # after as many vanishings, a message is under suspicion
_MAX_TRIES = 1_000  # attempts told of: the newest
_MAX_WAITS = 64  # answers named in the end record of an attempt that parked

type Ended = Literal["raised", "interrupted", "parked", "done", "dead"]


@dataclass(frozen=True, slots=True)
class Copy:
    """What a delivery says of itself. ``seq`` is its sequence in its stream, the same in every redelivery.

    ``park``: the number of the attempt that put the message aside and asked for this copy. ``woken``: the step whose
    answer brought it back. ``edits``: how often people changed its payload.
    """

    seq: int
    park: int | None = None
    woken: str | None = None
    edits: int = 0


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier attempts came to. ``counted`` is what the limit is compared with, ``next`` the number to run as.

    ``over``: a run of this message came to `Done`, so that whatever brings it again comes too late.
    ``owner``: the copy that made the newest attempt (of ``over``: the one that was done); None where nobody said.
    ``ended``: how the newest attempt ended; None while it runs, or after its process died.
    ``due``: when the next attempt may begin. ``waits``: the answers that the newest attempt parked for, where known.
    """

    counted: int
    vanished: int
    next: int
    tries: tuple[Record, ...]
    over: bool = False
    owner: int | None = None
    ended: str | None = None
    due: float | None = None
    waits: frozenset[str] | None = None
    edits: int = 0

    def beside(self, slots: int) -> int:
        """How many messages under suspicion may run at once, this one included; 0 where it is not under suspicion.

        One that vanished with its process twice shares it with at most half of the slots' suspects; each further time
        with half as many, until it runs alone. Only dying alone counts as an attempt.
        """
        return 0 if self.vanished < _UNSUSPECTED else max(1, slots >> (self.vanished - 1))


NO_PAST = Past(counted=0, vanished=0, next=1, tries=())


class History:
    """The attempts at one message by one agent, as seen by one copy of it."""

    def __init__(self, journal: Journal, replica: str, about: tuple[str, str, str, str], copy: Copy) -> None:
        """``about``: the agent, the conversation, the message's origin and its run."""
        self._journal = journal
        self._replica = replica
        self._agent, self._conversation, self._origin, run = about
        self._key = digest(self._origin, run)
        self._copy = copy
        self.before = 0  # attempts before the message was redriven: told of, and not counted any more

    async def past(self) -> Past:
        """What the journal has of earlier attempts, for a message that was delivered before.

        Of one that was redriven, from shortly before the redrive on. So an attempt is found whatever number its header
        gave the last one before.
        """
        starts: dict[int, Record] = {}
        ends: dict[int, Record] = {}
        first = oldest = max(1, self.before - _PAGE + 1)
        while True:
            numbers = range(first, first + _PAGE)
            found = await self._journal.read(
                [self.over_subject, *(self._subject(n) for n in numbers), *(self._subject(n, "-end") for n in numbers)]
            )
            starts |= {n: found[at] for n in numbers if (at := self._subject(n)) in found}
            ends |= {n: found[at] for n in numbers if (at := self._subject(n, "-end")) in found}
            if numbers[-1] > self.before and numbers[-1] not in starts and numbers[-1] not in ends:
                past = _judged(starts, ends, before=self.before, oldest=oldest, edits=self._copy.edits)
                over = found.get(self.over_subject)
                return past if over is None else replace(past, over=True, owner=_seq(over))
            first += _PAGE

    def superseded(self, past: Past) -> Superseded | None:
        """Why this copy does not run: another one is at work on the message, or has answered for it.

        None where this copy may run. The journal decides between two that may.
        """
        copy, newest = self._copy, past.next - 1
        mine = past.owner is None or past.owner == copy.seq
        if past.over:
            return None if mine else Superseded("another copy of the message was handled")
        if mine or newest <= self.before or past.edits < copy.edits:
            return None
        if past.ended == "parked":
            if copy.park is not None and copy.park < newest:
                return Superseded(f"attempt {newest} parked later than attempt {copy.park}, which asked for this copy")
            if copy.woken is not None and past.waits is not None and copy.woken not in past.waits:
                return Superseded(f"attempt {newest} does not wait for the answer that brought this copy")
            return None
        if copy.park == newest:
            return None  # a retry that was put aside
        return Superseded(f"attempt {newest} belongs to message {past.owner} of the stream")

    def wait(self, past: Past) -> float:
        """Seconds until the next attempt is due, for a delivery that comes before its time: its nak was lost."""
        if past.due is None or past.owner != self._copy.seq:
            return 0.0
        return max(0.0, past.due - time.time())

    def refused(self, past: Past) -> bool:
        """Whether this copy's run refused the message, and its process did not live to store the dead letter."""
        return past.ended == "dead" and past.owner == self._copy.seq and past.next - 1 > self.before

    async def close(self, past: Past) -> bool:
        """End the newest attempt if it has no end: its process died, or lost its lease and must not decide any more.

        False where another process was faster: look at the past again. What follows from an attempt comes after this.
        """
        newest = past.next - 1
        if past.ended is not None or newest <= self.before:
            return True
        closed = self._stamp() | {"n": newest, "end": "vanished"}
        return await self._journal.write(self._subject(newest, "-end"), closed)

    async def begin(self, past: Past, delivered: int, *, alone: bool) -> bool:
        """Record that attempt ``past.next`` starts, after the end of the one before. False as in `close`."""
        if not await self.close(past):
            return False
        start = self._stamp() | {"n": past.next, "alone": alone, "delivered": delivered}
        if self._copy.edits:
            start |= {"edits": self._copy.edits}
        return await self._journal.write(self._subject(past.next), start)

    async def end(
        self,
        past: Past,
        how: Ended,
        cause: Cause | None = None,
        *,
        due: float | None = None,
        waits: list[str] | None = None,
    ) -> Past | None:
        """Record how attempt ``past.next`` ended, and what the past looks like with it.

        None where somebody else ended it: this process lost its lease, and must do nothing more about the message.
        ``due`` is when the next attempt may begin, ``waits`` are the answers that it parks for.
        """
        record = self._stamp() | {"n": past.next, "end": how}
        if cause is not None:
            record |= {"cause": cause.kind, "reason": cause.reason, "error": cause.error}
        if due is not None:
            record |= {"due": round(due, 3)}
        if waits is not None and len(waits) <= _MAX_WAITS:
            record |= {"waits": waits}
        if not await self._journal.write(self._subject(past.next, "-end"), record):
            return None
        counted = past.counted + (how == "raised")
        return Past(counted, past.vanished, past.next + 1, (*past.tries, record), owner=self._copy.seq, ended=how)

    async def over(self) -> bool:
        """Record that a message that may come again is done. False where another run said so first."""
        return await self._journal.write(self.over_subject, self._stamp(), headers.about_origin(self._origin))

    @property
    def over_subject(self) -> str:
        """Where it is recorded that the message is done."""
        return subjects.step(self._agent, self._conversation, "over", self._key)

    def _subject(self, number: int, suffix: str = "") -> str:
        return subjects.step(self._agent, self._conversation, "attempt", f"{self._key}-{number}{suffix}")

    def _stamp(self) -> dict[str, Any]:
        return {"at": round(time.time(), 3), "by": self._replica, "seq": self._copy.seq}


def _judged(
    starts: dict[int, Record], ends: dict[int, Record], before: int = 0, oldest: int = 1, edits: int = 0
) -> Past:
    """``edits``: attempts with a payload that people changed fewer times than this do not count any more."""
    counted = vanished = 0
    tries: list[Record] = []
    newest = max([1, before, *starts, *ends])
    for number in range(max(oldest, newest - _MAX_TRIES + 1), newest + 1):
        start, end = starts.get(number), ends.get(number)
        counts = number > before and _edits(start) >= edits
        if start is None and end is None and 1 < number < before:
            continue  # of a run with another journal, or of none: only the header says that there was one
        if end is not None and end.get("end") != "vanished":
            counted += counts and end.get("end") == "raised"
            tries.append(end)
            continue
        if number == before:  # refused: its end is the dead letter that was redriven
            tries.append({**(start or {"n": number}), "end": "dead"})
            continue
        # Only a first delivery goes unrecorded: it died, or was handed back before it ran.
        vanished += 1
        counted += counts and bool(start and start.get("alone"))
        tries.append({**(start or {"n": number}), "end": "vanished"})
    start, end = starts.get(newest, {}), ends.get(newest, {})
    how = end.get("end")
    waits = end.get("waits")
    return Past(
        counted,
        vanished,
        newest + 1,
        tuple(tries),
        over=how == "done",
        owner=_seq(start) or _seq(end),
        ended=str(how) if end else None,  # whoever wrote it: nobody can write another one
        due=read_time(end.get("due")),
        waits=frozenset(map(str, waits)) if isinstance(waits, list) else None,
        edits=_edits(start),
    )


def cause_in(end: Record) -> Cause:
    """Why an attempt failed, as its end record tells it."""
    kind, reason = end.get("cause"), read_text(end.get("reason"), 2_000) or "no reason recorded"
    known: dict[object, CauseKind] = {one: one for one in get_args(CauseKind.__value__)}
    return Cause(known.get(kind, "raised"), reason, read_text(end.get("error")))


def _edits(start: Record | None) -> int:
    return read_integer((start or {}).get("edits")) or 0


def _seq(record: Record) -> int | None:
    """The sequence of the copy that wrote a record; None in those of versions before 0.2."""
    return read_integer(record.get("seq"), least=1)
