"""`Account`: what became of every message of one stream, for one agent. Pure: it is told what happened, and it counts.

A message that is put aside (parked, or waiting long for its next attempt) is acknowledged, and comes back as a *copy*
under a sequence of its own. Copies are not counted: what becomes of one became of its message. The end of a message is
a function of what is known about its deliveries, so it does not matter in which order, or how often, it is told:

1. A handler finished, or a record says so: *done*.
2. A delivery is still owed: pending.
3. The newest delivery that says anything decides: dead, parked (pending), expired, or lost.
4. A delivery that the consumer has passed, and of which nothing was recorded, is lost: *unaccounted*.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from tieline.records.checkpoint import AccountState, Answer, Due, Verdict
from tieline.records.ranges import Ranges
from tieline.services.accounting.deliveries import Deliveries
from tieline.services.accounting.keyed import by_sequence, by_value
from tieline.services.accounting.look import Look, removed_at
from tieline.services.ledger import Row

__all__ = ["Account"]

type Told = Literal["done", "dead", "parked", "superseded"]
type _Early = Literal["done", "over", "dead", "parked", "superseded"]

_STRENGTH = ("before", "lost", "expired", "superseded", "parked", "dead", "over", "done")
"""Of two words about one delivery, the one further to the right stands. The first three are only concluded."""

_UNKNOWN: Due = (0.0, None, "")


class Account(Deliveries):
    """The messages of one stream that one agent consumes (or that nobody does). Sequences are the stream's."""

    def __init__(self, stream: str, agent: str) -> None:
        super().__init__()
        self.stream = stream
        self.agent = agent
        self.first = 0  # of older sequences the agent wanted none when it began
        self.since = 0.0  # what was stored before it may have left before the agent had an account
        self.reports_facts = False  # settled facts of this agent were read: what it parks is told too
        self.unreported: dict[int, Due] = {}  # messages that expired; whoever reports one takes it out
        self._published = 0
        self._ends: Counter[Verdict] = Counter()
        self._pending: set[int] = set()  # messages without an end
        self._closed: dict[int, Verdict] = {}  # above _low; what is not done below it too, because it may change
        self._aside: set[int] = set()  # messages with a record that brings, or brought, them back
        self._superseded: set[int] = set()  # pending messages with a superseded delivery
        self._accepted = Ranges()  # losses that an operator has accepted
        self.earlier = 0  # unaccounted messages of the stream's earlier lives: they have no sequence any more
        self._reported: set[int] = set()  # reported as expired, and not known to be expired yet
        self._early: dict[int, _Early] = {}  # told of, and not yet known to be stored
        self._low = 0  # up to here everything is known: what is neither pending nor in _closed is done

    def stored(self, seq: int, due: Due = _UNKNOWN) -> None:
        """A message was stored."""
        if seq > self._low and seq not in self._pending and seq not in self._closed:
            self._owe(seq, due)
            self._begin(seq)

    def recovered(self, seq: int, due: Due = _UNKNOWN) -> None:
        """A message that was gone before it was read, and took no part in the sum, was stored after all: a fact says
        so. Unlike `stored`, it counts however late this is known."""
        if seq not in self._pending and seq not in self._closed:
            self._owe(seq, due)
            self._begin(seq)

    def copied(self, seq: int, of: int, due: Due = _UNKNOWN) -> None:
        """The message ``of`` was brought back to the agent, as ``seq``: it did not end, whatever was told before."""
        if seq <= self._low or seq in self._copies:
            return
        self._owe(seq, due)
        self._link(seq, of)
        if seq in self._early:
            self._answer(seq, self._early.pop(seq))
        self._decide(of)

    def put_aside(self, seq: int) -> None:
        """There is a record that brings the message back: its acknowledgement does not mean that it ended."""
        if not self._is_done(seq):
            self._aside.add(seq)
            self._decide(seq)

    def settled(self, seq: int, told: Told, of: int | None = None) -> None:
        """The delivery ``seq`` was answered for; ``of`` is the message that it was a copy of, if somebody said so."""
        if of is not None and of != seq and seq not in self._copies and (seq > self._low or not self._is_done(of)):
            self._link(seq, of)
        if seq in self._copies or self.knows(seq):
            self._answer(seq, told)
        else:
            self._hear_early(seq, told)

    def over(self, seq: int) -> None:
        """There is a record that a run of the message finished, whichever delivery it was."""
        if self.knows(seq):
            self._finish(seq)
        else:
            self._hear_early(seq, "over")

    def accept(self, ranges: Iterable[tuple[int, int]], earlier: int = 0) -> None:
        """An operator has looked at these messages, which are unaccounted, and has accepted the loss. ``earlier``: of
        how many messages that the stream had before it was created again."""
        for first, last in ranges:
            self._accepted.add(first, last)
        for seq in self.unaccounted():
            self._decide(seq)
        taken = min(earlier, self.earlier)
        self.earlier -= taken
        self._ends["unaccounted"] -= taken
        self._ends["accepted"] += taken

    def look(self, look: Look) -> None:
        """Conclude what nobody told of. A delivery that the consumer has passed is lost, or has expired if its TTL or
        the stream's age explains it; one that its TTL or age has removed has expired, passed or not."""
        floors = (look.floor, look.copies_floor)
        ages = look.max_age is not None and any(due[0] + look.max_age < look.now for due in self._oldest())
        if self._owed and (ages or self._soonest < look.now or min(self._owed) <= max(floors)):
            self._soonest = math.inf
            for seq, due in list(self._owed.items()):
                self._look_at(seq, due, look, seq <= floors[seq in self._copies])
        for message in list(self._superseded):
            deliveries = self._deliveries(message)
            if message not in self._pending:
                self._superseded.discard(message)
            elif all(seq not in self._owed and seq <= floors[seq in self._copies] for seq in deliveries):
                self._conclude(max(deliveries), "lost")

    def gone(self, seqs: Iterable[int], look: Look) -> None:
        """These deliveries are owed, were never handed out, and are no longer in the stream."""
        for seq in seqs:
            if seq in self._owed:
                self._look_at(seq, self._owed[seq], look, passed=True)

    def renewed(self, look: Look) -> "Account":
        """The account once its stream was created again: nothing that was in it comes back, and sequences begin anew.
        Only the counts stay."""
        self.gone(list(self._owed), look)
        for seq in list(self._pending):
            self._close(seq, "unaccounted")
        account = Account(self.stream, self.agent)
        account.reports_facts, account.since = self.reports_facts, self.since
        account._ends, account._published = self._ends, self._published
        account.earlier = self._ends["unaccounted"]
        return account

    def forget(self, upto: int) -> None:
        """Keep only counts of the messages up to ``upto`` that are done. Nothing new comes of them."""
        upto = min(upto, min(self._owed, default=upto + 1) - 1)
        if upto <= self._low:
            return
        self._low = upto
        self._closed = {seq: end for seq, end in self._closed.items() if seq > upto or end != "done"}
        self._early = {seq: told for seq, told in self._early.items() if seq > upto}
        self._copies = {seq: of for seq, of in self._copies.items() if seq > upto or not self._is_done(of)}
        self._copies_of = {}
        for seq, of in self._copies.items():
            self._copies_of.setdefault(of, []).append(seq)
        self._answers = {
            seq: answer for seq, answer in self._answers.items() if not self._is_done(self._copies.get(seq, seq))
        }
        self._aside = {seq for seq in self._aside if not self._is_done(seq)}
        self._superseded &= self._pending

    def prune(self, upto: int) -> None:
        """Keep only counts of all that ended up to ``upto``, but for losses: too old to come back."""
        old = [seq for seq, end in self._closed.items() if seq <= min(upto, self._low) and end != "unaccounted"]
        for seq in old:
            del self._closed[seq]
            for delivery in self._deliveries(seq):
                self._answers.pop(delivery, None)

    def knows(self, seq: int) -> bool:
        """Whether the message was seen, or told of as stored."""
        return seq <= self._low or seq in self._pending or seq in self._closed

    def explained(self, first: int, last: int) -> Iterator[int]:
        """The sequences between two that are messages or copies of this account, or were told of as answered."""
        for known in (self._pending, self._closed, self._copies, self._early):
            if last - first < len(known):
                yield from (seq for seq in range(first, last + 1) if seq in known)
            else:
                yield from (seq for seq in known if first <= seq <= last)

    def is_early(self, seq: int) -> bool:
        """Whether somebody told how the message ended, and nobody that it was stored."""
        return seq in self._early

    def unaccounted(self) -> list[int]:
        """The messages that are unaccounted, in order."""
        if self._ends["unaccounted"] == self.earlier:
            return []
        return sorted(seq for seq, end in self._closed.items() if end == "unaccounted")

    def reported(self, seq: int) -> None:
        """A fact says that the message expired: it need not be reported again."""
        self.unreported.pop(seq, None)
        if self._closed.get(seq) != "expired":
            self._reported.add(seq)

    def expired(self) -> list[tuple[int, Due]]:
        """The messages that expired and were not reported yet: when each was stored, when it expired, its subject."""
        return [(seq, due) for seq, due in sorted(self.unreported.items()) if self._closed.get(seq) == "expired"]

    def unacked(self, floor: int, copies_floor: int) -> int:
        """Deliveries above the floors that were answered for: they may not be acknowledged yet."""
        messages = sum(
            seq > floor and seq not in self._owed for known in (self._pending, self._closed) for seq in known
        )
        return messages + sum(seq > copies_floor and seq not in self._owed for seq in self._copies)

    def row(self) -> Row:
        """The account as it stands. What ended before accounting began is not in it: see ``before``."""
        ends = self._ends
        parked = (seq for seq in self._aside & self._pending if not self._is_owed(seq))
        return Row(
            stream=self.stream,
            agent=self.agent,
            published=self._published - ends["before"],
            done=ends["done"],
            dead=ends["dead"],
            expired=ends["expired"],
            pending=len(self._pending),
            unaccounted=ends["unaccounted"],
            accepted=ends["accepted"],
            parked=sum(1 for _ in parked),
            owed=len(self._owed),
        )

    @property
    def before(self) -> int:
        """Messages that left their consumer before accounting began, without a word of their end."""
        return self._ends["before"]

    def state(self) -> AccountState:
        """Everything the account knows, for a checkpoint."""
        return AccountState(
            stream=self.stream,
            agent=self.agent,
            low=self._low,
            published=self._published,
            ends={str(verdict): count for verdict, count in self._ends.items()},
            pending=sorted(self._pending),
            closed=by_value(self._closed),
            answers=by_value(self._answers),
            early=by_value(self._early),
            copies=dict(self._copies),
            aside=sorted(self._aside),
            accepted=list(self._accepted),
            earlier=self.earlier,
            owed=dict(self._owed),
            unreported=dict(self.unreported),
            reports_facts=self.reports_facts,
            since=self.since,
            first=self.first,
        )

    @classmethod
    def of(cls, state: AccountState) -> "Account":
        """The account as `state` had it."""
        account = cls(state.stream, state.agent)
        account.reports_facts, account.unreported = state.reports_facts, dict(state.unreported)
        account.since, account.first = state.since, state.first
        account._published, account._low = state.published, state.low
        account._ends.update({verdict: count for verdict, count in state.ends.items() if count})  # type: ignore[misc]
        account._pending, account._aside = set(state.pending), set(state.aside)
        account._accepted, account.earlier = Ranges(state.accepted), state.earlier
        account._closed.update(by_sequence(state.closed))  # type: ignore[arg-type]
        account._answers.update(by_sequence(state.answers))  # type: ignore[arg-type]
        account._early.update(by_sequence(state.early))  # type: ignore[arg-type]
        for seq, of in state.copies.items():
            account._copies[seq] = of
            account._copies_of.setdefault(of, []).append(seq)
        for seq, due in state.owed.items():
            account._owe(seq, due)
        told = (account.message_of(seq) for seq, answer in account._answers.items() if answer == "superseded")
        account._superseded = set(told) & account._pending
        return account

    def _begin(self, seq: int) -> None:
        self._published += 1
        self._pending.add(seq)
        if seq in self._early:
            self._answer(seq, self._early.pop(seq))

    def _link(self, seq: int, of: int) -> None:
        self._copies[seq] = of
        self._copies_of.setdefault(of, []).append(seq)
        if not self.knows(of):
            self._begin(of)  # it is older than what the stream still has
        if not self._is_done(of):
            self._aside.add(of)

    def _hear_early(self, seq: int, told: _Early) -> None:
        before = self._early.get(seq)
        if before is None or _STRENGTH.index(told) > _STRENGTH.index(before):
            self._early[seq] = told

    def _answer(self, seq: int, told: _Early) -> None:
        of = self._copies.get(seq, seq)
        if told == "over":
            self._finish(of)
            return
        self._owed.pop(seq, None)
        if told == "done":
            self._finish(of)
        elif not self._is_done(of):
            self._conclude(seq, told)

    def _conclude(self, seq: int, answer: Answer) -> None:
        """Note what came of a delivery, and what that means for its message."""
        before, of = self._answers.get(seq), self._copies.get(seq, seq)
        if before is None or _STRENGTH.index(answer) > _STRENGTH.index(before) or before == "superseded":
            self._answers[seq] = answer
        if answer == "superseded":
            self._superseded.add(of)
        if answer == "parked":
            self._aside.add(of)
        self._decide(of)

    def _look_at(self, seq: int, due: Due, look: Look, passed: bool) -> None:
        end = removed_at(due, look.max_age)
        late = end < look.now
        if not passed and not late:
            if due[1] is not None:
                self._soonest = min(self._soonest, due[1])
            return
        del self._owed[seq]
        of = self._copies.get(seq, seq)
        if self._is_done(of):
            return
        if late and (of != seq or seq not in self._aside):
            self.unreported[of] = (due[0], end, due[2])
        self._conclude(seq, "expired" if late else self._lost(seq, due, look))

    def _lost(self, seq: int, due: Due, look: Look) -> Answer:
        return "before" if due[0] < look.since or seq < self.first else "lost"

    def _verdict(self, message: int) -> Verdict | None:
        """How a message that is not done ended; None while it is pending."""
        if self._is_owed(message):
            return None
        for seq in sorted(self._deliveries(message), reverse=True):
            match self._answers.get(seq):
                case None | "superseded":
                    continue
                case "dead":
                    return "dead"
                case "parked":
                    return None
                case answer if message in self._aside and self._may_be_parked(seq, message, answer):
                    return None
                case "lost":
                    return "accepted" if message in self._accepted else "unaccounted"
                case answer:
                    return answer
        return None

    def _may_be_parked(self, seq: int, message: int, answer: Answer) -> bool:
        """Whether the record that put the message aside may be younger than this delivery. An agent that reports facts
        would have told that it parked a copy."""
        return seq == message or (answer == "lost" and not self.reports_facts)

    def _is_done(self, seq: int) -> bool:
        end = self._closed.get(seq)
        return end == "done" or (end is None and seq <= self._low and seq not in self._pending)

    def _finish(self, seq: int) -> None:
        end = self._closed.get(seq)
        if end == "done" or (end is None and seq not in self._pending):
            return
        self._close(seq, "done")
        if self._answers or self._aside:
            self._aside.discard(seq)
            for delivery in self._deliveries(seq):
                self._answers.pop(delivery, None)

    def _decide(self, seq: int) -> None:
        if seq in self._pending or self._closed.get(seq, "done") != "done":
            verdict = self._verdict(seq)
            if verdict != self._closed.get(seq):
                self._close(seq, verdict)

    def _close(self, seq: int, verdict: Verdict | None) -> None:
        before = self._closed.pop(seq, None)
        if before is not None:
            self._ends[before] -= 1
        if verdict is None:
            self._pending.add(seq)
            return
        self._pending.discard(seq)
        self._closed[seq] = verdict
        self._ends[verdict] += 1
        if self.unreported and (verdict != "expired" or seq in self._reported):
            self.unreported.pop(seq, None)
