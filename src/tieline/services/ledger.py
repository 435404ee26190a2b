"""The ledger: what became of every message, for each agent and stream. Pure: told what happened, it counts."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

__all__ = ["Account", "Row"]

type Verdict = Literal["done", "dead", "expired"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the sum. ``at_server`` is what the server says is pending, where an agent consumes: a second opinion.

    ``inferred`` of the done ones are known from the acknowledgement alone: their fact was lost with a process, or they
    were handled by a consumer that tells no facts.
    """

    stream: str
    agent: str
    published: int
    done: int
    dead: int
    expired: int
    pending: int
    inferred: int
    at_server: int | None

    @property
    def holds(self) -> bool:
        """Published = done + dead + expired + pending, and the server counts as many pending as we do."""
        told = self.done + self.dead + self.expired + self.pending
        return self.published == told and self.at_server in (None, self.pending)


class Account:
    """The messages of one stream that one agent consumes (or that nobody does). Sequences are the stream's."""

    def __init__(self, stream: str, agent: str) -> None:
        self.stream = stream
        self.agent = agent
        self._published = 0
        self._ends: Counter[Verdict] = Counter()
        self._inferred = 0
        self._open: dict[int, float | None] = {}  # sequence: when its TTL ends, seconds since 1970
        self._closed: dict[int, Verdict] = {}  # above _low
        self._early: dict[int, Verdict] = {}  # ended, not yet seen to be stored
        self._low = 0  # every sequence up to here is closed for good

    def stored(self, seq: int, expires: float | None = None) -> None:
        """A message was stored; telling it twice changes nothing."""
        if seq <= self._low or seq in self._open or seq in self._closed:
            return
        self._published += 1
        self._open[seq] = expires
        if seq in self._early:
            self.ended(seq, self._early.pop(seq))

    def ended(self, seq: int, verdict: Verdict) -> None:
        """A message ended. The first word stands, but a handler that finished proves an expiry wrong."""
        if seq in self._open:
            del self._open[seq]
            self._closed[seq] = verdict
            self._ends[verdict] += 1
        elif self._closed.get(seq) == "expired" and verdict != "expired":
            self._ends["expired"] -= 1
            self._closed[seq] = verdict
            self._ends[verdict] += 1
        elif seq > self._low and seq not in self._closed:
            self._early[seq] = verdict

    def look(self, now: float, floor: int) -> None:
        """Close what nobody told us of: ``floor`` is the sequence up to which the consumer owes nothing.

        A message whose TTL is over is expired. One that is still stored and below the floor was acknowledged: done.
        """
        for seq, expires in list(self._open.items()):
            if expires is not None and expires < now:
                self.ended(seq, "expired")
            elif seq <= floor:
                self.ended(seq, "done")
                self._inferred += 1

    def forget(self, upto: int) -> None:
        """Keep only the counts of what is closed up to ``upto``. It will not be told of again."""
        upto = min(upto, min(self._open, default=upto + 1) - 1)
        if upto > self._low:
            self._low = upto
            self._closed = {seq: verdict for seq, verdict in self._closed.items() if seq > upto}
            self._early = {seq: verdict for seq, verdict in self._early.items() if seq > upto}

    def row(self, at_server: int | None) -> Row:
        """The account as it stands."""
        ends = self._ends
        return Row(
            stream=self.stream,
            agent=self.agent,
            published=self._published,
            done=ends["done"],
            dead=ends["dead"],
            expired=ends["expired"],
            pending=len(self._open),
            inferred=self._inferred,
            at_server=at_server,
        )
