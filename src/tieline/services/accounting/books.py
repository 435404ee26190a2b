"""`Books`: the accounts of one pod, and where each reader of a stream stands. Pure: every change is one call.

Whoever reads a stream calls one method for each message, which also notes how far the stream was read. So positions and
accounts agree between any two calls, and `Books.checkpoint` is a moment from which somebody else can go on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from tieline import subjects
from tieline.records.checkpoint import AccountState, Checkpoint, Due, Position
from tieline.records.losses import AcceptedLoss
from tieline.records.reading import Origin, read_integer, read_origin, read_text, read_time
from tieline.records.settlements import Settlements
from tieline.services.accounting.account import Account
from tieline.services.accounting.look import Look
from tieline.services.accounting.unseen import UNSEEN, Unseen
from tieline.services.ledger import Row

__all__ = ["BEFORE", "NOBODY", "Books", "Floors", "Hold", "StreamLook"]

NOBODY = "(nobody)"
BEFORE = "(before accounting)"
_REMEMBERED = 16 * 86_400.0  # seconds; the journal, which brings messages back, keeps its records for a day less
_MARK_EVERY = 86_400.0
_SKEW = 1.0  # seconds by which an origin may be older than its stream: they are rounded differently


@dataclass(frozen=True, slots=True)
class Hold:
    """What an agent (or a tool) takes from a stream: through ``durable`` its messages, and through ``copies`` what is
    brought back to it. Both may be one consumer. ``chooses_start``: it does not want everything that was stored before
    it began."""

    stream: str
    agent: str
    filters: tuple[str, ...]
    durable: str
    copies: str
    chooses_start: bool = False


@dataclass(frozen=True, slots=True)
class Floors:
    """What the server says of one `Hold`: up to where its consumers owe nothing, and what it counts as pending.

    ``at_server`` is None while messages move.
    """

    floor: int
    copies_floor: int
    at_server: int | None = None


@dataclass(frozen=True, slots=True)
class StreamLook:
    """A stream at one moment, with the consumers of its agents by name; everything stored until then was read."""

    last_seq: int
    now: float
    max_age: float | None
    floors: Mapping[str, Floors]


class Books:
    """All accounts of a pod. ``since``: what was stored before, and left without a record, is not judged."""

    def __init__(self, holds: Sequence[Hold], since: float) -> None:
        self.holds = {(hold.stream, hold.agent): hold for hold in holds}
        self.streams = list(dict.fromkeys(hold.stream for hold in holds))
        self.since = since
        self.accounts = {key: Account(*key) for key in self.holds}
        self.nobody = {stream: Account(stream, NOBODY) for stream in self.streams}
        self.unseen = {stream: Unseen() for stream in self.streams}
        self.positions: dict[str, Position] = {}
        self.marks: list[tuple[float, dict[str, int]]] = []  # from time to time, how far the streams were read
        self._ahead: dict[tuple[str, int], tuple[str, Due]] = {}  # published, facts say, and not read yet
        self._at_server: dict[tuple[str, str], int | None] = {}
        self._unacked: dict[tuple[str, str], int] = {}
        self._takers = lru_cache(10_000)(self._find_takers)

    def read(self, stream: str, seq: int) -> None:
        """Note that a stream was read up to ``seq``."""
        place = self.positions[stream]
        self.positions[stream] = Position(seq, place.created, place.life)

    def message(self, stream: str, seq: int, subject: str, due: Due, origin: str | None) -> None:
        """A stream holds a message; ``origin`` is set for one that was brought back to an agent."""
        gap = self.unseen[stream].read(seq, due[0])
        if gap is not None:
            self._skipped(stream, *gap)
        of = None if origin is None else self._original(stream, origin, seq)
        for account in self._takers(stream, subject):
            if of is None:
                account.stored(seq, due)
            else:
                account.copied(seq, of, due)
        self.read(stream, seq)

    def fact(self, fact: Mapping[str, Any]) -> None:
        """What a fact of the audit says of a message."""
        stream, seq = fact.get("stream"), read_integer(fact.get("seq"), least=1)
        if stream not in self.unseen or seq is None:
            return
        subject, kind = read_text(fact.get("subject")), fact.get("fact")
        if kind == "published":
            # A TTL may have removed the message before its stream was read; who published it still says so.
            due = (read_time(fact.get("at")) or 0.0, read_time(fact.get("expires")), subject)
            if seq <= self.unseen[stream].upto:
                self._stored(stream, seq, subject, due)
            else:
                self._ahead[stream, seq] = (subject, due)
        elif kind == "expired":
            account = self._account(stream, fact.get("by"))
            if account is not None:
                account.reported(seq)
        elif kind == "settled":
            account = self.accounts.get((stream, str(fact.get("by"))))
            outcome, origin = fact.get("outcome"), read_text(fact.get("origin"))
            if account is not None:
                account.reports_facts = True
            if outcome in ("done", "dead", "parked", "superseded"):
                self._settled(account, stream, seq, subject, origin, outcome)

    def settlements(self, record: Settlements) -> None:
        """An agent says, without facts, which messages it has handled."""
        account = self.accounts.get((record.stream, record.agent))
        if account is None:
            return
        account.reports_facts = False
        for ranges, told in ((record.done, "done"), (record.superseded, "superseded")):
            for first, last in ranges:
                for seq in range(first, last + 1):
                    if self.unseen[record.stream].found(seq):
                        account.recovered(seq)
                    account.settled(seq, "done" if told == "done" else "superseded")

    def accepted(self, record: AcceptedLoss) -> None:
        """An operator accepts a loss."""
        if record.agent == UNSEEN and record.stream in self.unseen:
            self.unseen[record.stream].accept(record.ranges, record.earlier)
            return
        account = self._account(record.stream, record.agent)
        if account is not None:
            account.accept(record.ranges, record.earlier)

    def dead_letter(self, told: Mapping[str, Any]) -> None:
        """What a dead letter says of its message's death."""
        stream, seq = told.get("stream"), read_integer(told.get("seq"), least=1)
        if stream not in self.unseen or seq is None:
            return
        subject, origin = read_text(told.get("subject")), read_text(told.get("origin"))
        account = self.accounts.get((stream, str(told.get("agent"))))
        if account is None and told.get("cause") == "unknown":
            account = self.nobody[stream]  # it was removed from its stream, maybe before that was read
            account.stored(seq)
        self._settled(account, stream, seq, subject, origin, "dead")

    def put_aside(self, agent: str, origin: str, *, over: bool = False) -> None:
        """A record says that a message was put aside, or (``over``) that it came to its end."""
        where = read_origin(origin)
        account = None if where is None else self.accounts.get((where.stream, agent))
        if account is None or where is None or not self._is_of_this_life(where):
            return
        if self.unseen[where.stream].found(where.seq):
            account.recovered(where.seq, (where.at, None, ""))
        if over:
            account.over(where.seq)
        else:
            account.put_aside(where.seq)

    def ahead(self) -> set[tuple[str, int]]:
        """Messages that facts name and that were not read yet, by stream and sequence."""
        return set(self._ahead)

    def believe(self, last: Mapping[str, int], before: set[tuple[str, int]]) -> None:
        """Every stream was read up to ``last``: believe facts about messages up to there, which may have been gone.

        Those that were `ahead` before that was known, and name what no stream ever stored, are dropped.
        """
        for (stream, seq), (subject, due) in list(self._ahead.items()):
            if seq <= last[stream]:
                self._stored(stream, seq, subject, due)
            if seq <= last[stream] or (stream, seq) in before:
                del self._ahead[stream, seq]

    def backfill(self, hold: Hold, seq: int, due: Due, origin: str | None) -> None:
        """A message that was read before this agent had an account."""
        account = self.accounts[hold.stream, hold.agent]
        of = None if origin is None else self._original(hold.stream, origin, seq)
        if of is None:
            account.stored(seq, due)
        else:
            account.copied(seq, of, due)

    def look(self, stream: str, look: StreamLook) -> None:
        """Judge what the consumers of a stream have passed. Everything that was recorded before was read."""
        gap = self.unseen[stream].read_to(look.last_seq, look.now)
        if gap is not None:
            self._skipped(stream, *gap)
        for key, account in self.accounts.items():
            if key[0] != stream:
                continue
            floors = look.floors.get(key[1], Floors(0, 0))
            account.look(self.look_of(account, look, floors))
            account.forget(min(floors.floor, floors.copies_floor, look.last_seq))
            self._at_server[key] = floors.at_server
            agrees = floors.at_server in (None, account.owed)
            self._unacked[key] = 0 if agrees else account.unacked(floors.floor, floors.copies_floor)
        self.nobody[stream].look(Look(look.now, 0, 0, look.max_age, self.since))

    def prune(self, now: float) -> None:
        """Forget the ends of messages that are too old to come back; only counts stay."""
        if not self.marks or now > self.marks[-1][0] + _MARK_EVERY:
            self.marks.append((now, {stream: self.positions[stream].seq for stream in self.streams}))
        while self.marks and self.marks[0][0] < now - _REMEMBERED:
            _, upto = self.marks.pop(0)
            for (stream, _), account in self.accounts.items():
                account.prune(upto.get(stream, 0))

    def look_of(self, account: Account, look: StreamLook, floors: Floors) -> Look:
        """What a stream's look means for one account."""
        since = max(self.since, account.since)
        return Look(look.now, floors.floor, floors.copies_floor, look.max_age, since)

    def of_stream(self, stream: str) -> list[Account]:
        """Every account of a stream, that of nobody too."""
        return [*(account for key, account in self.accounts.items() if key[0] == stream), self.nobody[stream]]

    def begin(self, stream: str, first_seq: int, at: float) -> None:
        """Do not judge what was gone when accounting began."""
        self.unseen[stream].skip_to(first_seq, at)

    def created_again(self, stream: str, created: float, now: float, max_age: float | None) -> None:
        """A stream was deleted and created again: read it from its beginning. What was pending in it is lost."""
        self.positions[stream] = Position(0, created, created)
        for _, upto in self.marks:
            upto.pop(stream, None)
        if stream not in self.unseen:
            return
        look = Look(now, 0, 0, max_age, self.since)
        for key in [key for key in self.accounts if key[0] == stream]:
            self.accounts[key] = self.accounts[key].renewed(look)
        self.nobody[stream] = self.nobody[stream].renewed(look)
        self.unseen[stream] = self.unseen[stream].renewed()
        self._takers.cache_clear()

    def rows(self, behind: Mapping[str, int]) -> list[Row]:
        """The sum: a row for each agent and stream; and where there are any, one for messages that nobody consumes, one
        for those that were never seen, and one for those that left before accounting began."""
        found = [
            replace(account.row(), at_server=self._at_server.get(key), unacked=self._unacked.get(key, 0))
            for key, account in self.accounts.items()
        ]
        for stream in self.streams:
            rows = (self.nobody[stream].row(), self.unseen[stream].row(stream))
            found += [row for row in rows if row is not None and row.published]
            before = sum(account.before for account in self.of_stream(stream))
            found += [Row(stream=stream, agent=BEFORE, published=before, before=before)] if before else []
        return [replace(row, upto=self.unseen[row.stream].upto, behind=behind.get(row.stream, 0)) for row in found]

    def checkpoint(self, at: float) -> Checkpoint:
        """Everything known now."""
        accounts = [account.state() for account in (*self.accounts.values(), *self.nobody.values())]
        unseen = {stream: gaps.state() for stream, gaps in self.unseen.items()}
        return Checkpoint(at, self.since, dict(self.positions), accounts, unseen, list(self.marks))

    @classmethod
    def of(cls, checkpoint: Checkpoint, holds: Sequence[Hold]) -> "Books":
        """The books as a checkpoint has them. An agent without an account there is new: see `new_holds`."""
        books = cls(holds, checkpoint.since)
        states: dict[tuple[str, str], AccountState] = {
            (state.stream, state.agent): state for state in checkpoint.accounts
        }
        books.positions.update(checkpoint.positions)
        books.marks = list(checkpoint.marks)
        for key in books.accounts:
            if key in states:
                books.accounts[key] = Account.of(states[key])
            elif key[0] in checkpoint.unseen:
                books.accounts[key].since = checkpoint.at
        for stream in books.streams:
            if (stream, NOBODY) in states:
                books.nobody[stream] = Account.of(states[stream, NOBODY])
            if stream in checkpoint.unseen:
                books.unseen[stream] = Unseen.of(checkpoint.unseen[stream])
        return books

    def new_holds(self, checkpoint: Checkpoint) -> list[Hold]:
        """The agents whose stream was read before they had an account: they may get what it still holds."""
        known = {(state.stream, state.agent) for state in checkpoint.accounts}
        return [hold for key, hold in self.holds.items() if key not in known and key[0] in checkpoint.unseen]

    def _settled(self, account: Account | None, stream: str, seq: int, subject: str, origin: str, told: Any) -> None:
        of = self._original(stream, origin, seq)
        if self.unseen[stream].found(seq) and of is None:
            for taker in self._takers(stream, subject):
                taker.recovered(seq)
            if account is not None:
                account.recovered(seq)
        if account is not None:
            account.settled(seq, told, of)

    def _account(self, stream: str, agent: object) -> Account | None:
        return self.nobody.get(stream) if agent == NOBODY else self.accounts.get((stream, str(agent)))

    def _stored(self, stream: str, seq: int, subject: str, due: Due) -> None:
        unseen = self.unseen[stream].found(seq)
        for account in self._takers(stream, subject):
            if unseen:
                account.recovered(seq, due)
            else:
                account.stored(seq, due)

    def _skipped(self, stream: str, first: int, last: int) -> None:
        """Messages were gone before they were read. Facts may know some, now or later; nobody saw the others."""
        left = Unseen()
        left.add(first, last)
        for account in self.of_stream(stream):
            for seq in list(account.explained(first, last)):
                if account.is_early(seq):
                    account.stored(seq)
                left.found(seq)
        for gap in left.open():
            self.unseen[stream].add(*gap)

    def _original(self, stream: str, origin: str, seq: int) -> int | None:
        """The sequence of the message that ``seq`` is a copy of; None for one that is a message of its own."""
        if origin.startswith(f"{stream}-{seq}-"):
            return None  # most are their own original
        where = read_origin(origin, stream)
        if where is None or where.seq >= seq or not self._is_of_this_life(where):
            return None
        return where.seq

    def _is_of_this_life(self, origin: Origin) -> bool:
        place = self.positions.get(origin.stream)
        return place is None or origin.at >= place.life - _SKEW

    def _find_takers(self, stream: str, subject: str) -> Iterable[Account]:
        found = [
            self.accounts[key]
            for key, hold in self.holds.items()
            if key[0] == stream and any(subjects.covers(wanted, subject) for wanted in hold.filters)
        ]
        return found or [self.nobody[stream]]
