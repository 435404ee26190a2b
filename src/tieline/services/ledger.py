"""The ledger: what became of every message, for each agent and stream. Pure: told what happened, it counts.

A message that is put aside (parked, or waiting long for its next attempt) is acknowledged, and comes back as a copy
under a sequence of its own. Copies are not counted: what becomes of one became of its message. All that is told may be
told twice and in any order, because streams, facts, records and dead letters are read side by side.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

__all__ = ["Account", "Holes", "Row"]

_LARGEST_HOLE = 100_000  # messages; more at once were removed by hand

type Verdict = Literal["done", "dead", "expired"]
type Told = Literal["done", "dead", "expired", "parked"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the sum. ``at_server`` is what the server says is pending, where an agent consumes: a second opinion.

    ``inferred`` of the done ones are known from the acknowledgement alone: their fact was lost with a process, or they
    were handled by a consumer that tells no facts. ``parked`` of the pending ones were put aside, and are not at the
    server's consumer; ``owed`` is what should be: the other pending ones, and copies of messages that ended meanwhile.
    ``upto`` is the watermark: the sequence of the stream up to which it was read; ``behind`` more wait to be read.
    """

    stream: str
    agent: str
    published: int
    done: int
    dead: int
    expired: int
    pending: int
    parked: int
    inferred: int
    owed: int
    at_server: int | None
    upto: int = 0
    behind: int = 0

    @property
    def holds(self) -> bool:
        """Published = done + dead + expired + pending, and the server owes as many messages as we count."""
        told = self.done + self.dead + self.expired + self.pending
        return self.published == told and self.at_server in (None, self.owed)


class Account:
    """The messages of one stream that one agent consumes (or that nobody does). Sequences are the stream's."""

    def __init__(self, stream: str, agent: str) -> None:
        self.stream = stream
        self.agent = agent
        self._published = 0
        self._ends: Counter[Verdict] = Counter()
        self._inferred: set[int] = set()  # messages that are done for all we know from the acknowledgement, above _low
        self._inferred_below = 0
        self._pending: set[int] = set()  # messages that did not end
        self._owed: dict[int, float | None] = {}  # messages and copies not answered for: when their TTL ends
        self._copies: dict[int, int] = {}  # of which message a sequence is a copy
        self._newest: dict[int, int] = {}  # the newest copy of a message
        self._aside: set[int] = set()  # messages that were put aside at least once
        self._closed: dict[int, Verdict] = {}  # above _low; dead letters below it too, because they may come back
        self._early: dict[int, Told] = {}  # told of, and not yet seen to be stored
        self.expired: set[int] = set()  # expired messages that nobody was told of yet; whoever tells takes them out
        self._low = 0  # everything up to here is known; what is closed is closed for good

    def stored(self, seq: int, expires: float | None = None) -> None:
        """A message was stored. ``expires`` is when its TTL ends, in seconds since 1970."""
        if not self._knows(seq):
            self._owed[seq] = expires
            self._begin(seq)

    def copied(self, seq: int, of: int, expires: float | None = None) -> None:
        """The message ``of`` was brought back to the agent, as ``seq``: it did not end, whatever was told before."""
        if seq <= self._low or seq in self._copies:
            return
        self._copies[seq] = of
        self._newest[of] = max(seq, self._newest.get(of, seq))
        self._owed[seq] = expires
        if not self._knows(of):
            self._begin(of)  # it is older than what the stream still has
        self.put_aside(of)
        if self._closed.get(of) in ("dead", "expired"):
            self._reopen(of)
        if seq in self._early:
            self._answered(seq, self._early.pop(seq))

    def put_aside(self, seq: int) -> None:
        """There is a record that brings the message back: its acknowledgement does not mean that it is done."""
        self._aside.add(seq)
        if seq in self._inferred:
            self._reopen(seq)

    def settled(self, seq: int, told: Told, of: int | None = None) -> None:
        """The delivery ``seq`` was answered for; ``of`` is the message it was a copy of, where somebody said so.

        The first word stands, but a handler that finished proves an expiry wrong.
        """
        if of is not None and of != seq and not self._knows(seq):
            self.copied(seq, of)
        if seq in self._copies or self._knows(seq):
            self._answered(seq, told)
        else:
            self._early.setdefault(seq, told)

    def over(self, seq: int) -> None:
        """There is a record that a run of the message came to its end, whichever delivery it was."""
        if not self._knows(seq):
            self._early[seq] = "done"
        elif self._closed.get(seq) != "done" or seq in self._inferred:
            self._reopen(seq)
            self._close(seq, "done")

    def look(self, now: float, floor: int) -> None:
        """Close what nobody told us of: ``floor`` is the sequence up to which the consumer owes nothing.

        A message whose TTL is over is expired. One that is below the floor was acknowledged: done, unless it was put
        aside.
        """
        for seq, expires in list(self._owed.items()):
            late = expires is not None and expires < now
            if late and (seq in self._copies or seq not in self._aside):
                self._answered(seq, "expired")
            elif late or seq <= floor:
                del self._owed[seq]
                if seq in self._pending and seq not in self._aside:
                    self._close(seq, "done")
                    self._inferred.add(seq)

    def forget(self, upto: int) -> None:
        """Keep only the counts of what is closed up to ``upto``. It will not be told of again."""
        upto = min(upto, min(self._owed, default=upto + 1) - 1)
        if upto <= self._low:
            return
        self._low = upto
        self._closed = {seq: end for seq, end in self._closed.items() if seq > upto or end == "dead"}
        self._early = {seq: told for seq, told in self._early.items() if seq > upto}
        self._copies = {seq: of for seq, of in self._copies.items() if seq > upto or of in self._pending}
        self._newest = {of: seq for of, seq in self._newest.items() if seq > upto or of in self._pending}
        self._aside = {seq for seq in self._aside if seq > upto or seq in self._pending}
        recent = {seq for seq in self._inferred if seq > upto}
        self._inferred_below += len(self._inferred) - len(recent)
        self._inferred = recent

    def knows(self, seq: int) -> bool:
        """Whether the message was seen, or told of as stored."""
        return self._knows(seq) or seq in self._copies

    def heard(self, seq: int) -> bool:
        """Whether somebody told how the message ended, and nobody that it was stored."""
        return seq in self._early

    def row(self, at_server: int | None) -> Row:
        """The account as it stands."""
        ends = self._ends
        held = {self._copies.get(seq, seq) for seq in self._owed}
        return Row(
            stream=self.stream,
            agent=self.agent,
            published=self._published,
            done=ends["done"],
            dead=ends["dead"],
            expired=ends["expired"],
            pending=len(self._pending),
            parked=len(self._pending - held),
            inferred=self._inferred_below + len(self._inferred),
            owed=len(self._owed),
            at_server=at_server,
        )

    def _knows(self, seq: int) -> bool:
        return seq <= self._low or seq in self._pending or seq in self._closed

    def _begin(self, seq: int) -> None:
        self._published += 1
        self._pending.add(seq)
        if seq in self._early:
            self._answered(seq, self._early.pop(seq))

    def _answered(self, seq: int, told: Told) -> None:
        self._owed.pop(seq, None)
        of = self._copies.get(seq, seq)
        if told == "parked":
            self.put_aside(of)
        elif told == "done" or seq >= self._newest.get(of, seq):  # else a newer copy goes on
            self._close(of, told)

    def _close(self, seq: int, verdict: Verdict) -> None:
        if seq in self._inferred or (self._closed.get(seq) == "expired" and verdict != "expired"):
            self._reopen(seq)
        if seq in self._pending:
            self._pending.discard(seq)
            self._closed[seq] = verdict
            self._ends[verdict] += 1
            if verdict == "expired":
                self.expired.add(seq)

    def _reopen(self, seq: int) -> None:
        if seq in self._closed:
            self._ends[self._closed.pop(seq)] -= 1
            self._inferred.discard(seq)
            self.expired.discard(seq)
            self._pending.add(seq)


class Holes:
    """Sequences of one stream that were gone before they were read, and of which nobody has told anything.

    Their TTL ended, or somebody removed them: *unseen*, and counted as expired. A word about one takes it out.
    """

    def __init__(self) -> None:
        self.upto = 0
        self._unseen: set[int] = set()
        self._many = 0  # in holes too large to remember each

    def __len__(self) -> int:
        return len(self._unseen) + self._many

    def __contains__(self, seq: int) -> bool:
        return seq in self._unseen

    def read(self, seq: int) -> range:
        """The stream was read up to ``seq``; the sequences that were skipped. What is before the first is not judged:
        it is older than the stream keeps."""
        skipped = range(self.upto + 1, seq) if self.upto else range(0)
        self.upto = max(self.upto, seq)
        if len(skipped) > _LARGEST_HOLE:
            self._many += len(skipped)
            return range(0)
        return skipped

    def add(self, seq: int) -> None:
        """Nobody has told of ``seq`` so far."""
        self._unseen.add(seq)

    def told(self, seq: int) -> None:
        """Somebody has."""
        self._unseen.discard(seq)
