"""Conversations at a glance: the newest first, each as its facts and its records in the journal have it.

However long the history is, the time and memory are bounded. The newest facts name the conversations, and only those
that are shown are read, one by one: the server finds the facts and records of one conversation by their subjects.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.errors import BadPayload
from tieline.records.facts import read_fact
from tieline.records.reading import read_time
from tieline.records.settlements import Settlements
from tieline.services.letters.reading import STREAM, Letter
from tieline.services.questions import Board, Question, newest_questions
from tieline.views.positions import Positions
from tieline.views.standing import Fact, Record, Standing, State, is_late_copy, is_noise
from tieline.wire.backwards import newest_from, read_backwards
from tieline.wire.connection import Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed
from tieline.wire.journal import record_in
from tieline.wire.stored import newest_messages

__all__ = ["Account", "Listing", "Summary", "conversations", "explain", "fact_in", "list_conversations"]

_AUDIT, _FACTS, _JOURNAL, _SCHEDULE = "CALL_AUDIT", "call.audit.*", "STEP", "SCHEDULE"
_AT_ONCE = 8  # conversations read side by side
_MAX_FACTS = 250_000  # newest facts in which conversations are looked for
_MAX_OF_ONE = 20_000  # newest facts, and newest records, of one conversation that are read
_MAX_LETTERS = 20_000  # newest dead letters, of all conversations together, that are looked through
_QUIET = 10.0  # seconds without activity, after which it is looked whether what seems to run has died
_MAX_SETTLEMENTS = 50_000  # newest settlement records that are read


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation. ``first`` and ``last`` activity are in seconds since 1970.

    ``state``: ``waiting`` for a person's answer to ``questions``; ``running``: a message is on its way or being tried;
    ``parked``: everything left waits for another agent or a time; ``unaccounted``: nothing says what became of a
    message; ``expired``: a message's TTL ended unhandled; ``cancelled``; else ``done``, or ``dead`` if a message died
    and nobody redrove it. ``dead``: how often messages died, redriven ones too. ``ended``: by `Conversation.end`.
    """

    id: str
    state: State
    first: float
    last: float
    published: int
    steps: int
    dead: int
    agents: tuple[str, ...]
    questions: tuple[Question, ...]
    ended: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """Conversations, the newest activity first. ``since``: facts older than that (in seconds since 1970) were not
    looked at, although there are some; None if all were, or as many conversations as asked for were found."""

    summaries: tuple[Summary, ...]
    since: float | None = None


class Account:
    """What facts, records and dead letters say about one conversation. Add them in any order."""

    def __init__(self, conversation: str, positions: Positions) -> None:
        self.id = conversation
        self.agents: set[str] = set()
        self.standing = Standing()
        self._token = subjects.token(conversation)
        self._positions = positions
        self._board = Board()
        self._times: list[float] = []
        self._done: set[tuple[str, str]] = set()

    def add_fact(self, fact: Fact) -> None:
        """Take in a fact, unless it says nothing about the conversation."""
        if is_noise(fact) or is_late_copy(fact, self._done):
            return
        by, kind = str(fact.get("by", "")), str(fact.get("fact"))
        self.id = str(fact.get("callId") or self.id)
        self._saw(fact.get("at"))
        if by and kind != "expired" and not kind.startswith("letter"):  # those are done by people, or by nobody
            self.agents.add(by)
        self.standing.add_fact(fact, self._positions)

    def add_record(self, delivery: Delivery, record: Record) -> None:
        """Take in a record of the journal."""
        self.standing.add_record(delivery.subject, record, delivery.headers.get(names.ORIGIN), delivery.stored)
        self._board.tell(delivery.subject, record, delivery.stored)
        if not self.standing.published:  # without facts, the journal says when
            self._saw(delivery.stored)

    @property
    def concerned(self) -> set[str]:
        """Who takes part, or is to."""
        asking = {question.agent for asked in self._board.questions.values() for question in asked}
        return self.agents | self.standing.concerned | asking

    def add_letter(self, letter: Letter) -> None:
        """Take in a dead letter that is stored now."""
        run = letter.headers.get(names.RUN, "")
        self.standing.add_letter(letter.seq, letter.agent, run, letter.told, letter.deaths)

    @property
    def token(self) -> str:
        """What names the conversation in subjects and headers."""
        return self._token

    @property
    def is_unaccounted(self) -> bool:
        """Whether nothing that was added says what became of one of the messages."""
        return "unaccounted" in self.standing.states(self._positions)

    @property
    def is_unclear(self) -> bool:
        """Whether a dead letter may say more: a message is unaccounted for, or seems to run and has long been quiet."""
        quiet = time.time() - max(self._times, default=0.0) > _QUIET
        states = self.standing.states(self._positions)
        return "unaccounted" in states or (quiet and "running" in states)

    def summary(self) -> Summary:
        """The conversation as it stands."""
        standing, board = self.standing, self._board.as_of_now()
        cancelled = self._token in board.cancelled
        asked = () if cancelled else board.questions.get(self._token, ())
        questions = tuple(one for one in asked if not standing.is_settled(one.agent, one.message))
        named = [question.conversation for question in questions]
        state: State = "cancelled" if cancelled else "waiting" if questions else standing.state(self._positions)
        return Summary(
            id=named[0] if named and not standing.published else self.id,
            state=state,
            first=min(self._times, default=0.0),
            last=max(self._times, default=0.0),
            published=standing.published,
            steps=standing.steps,
            dead=standing.deaths(),
            agents=tuple(sorted(self.agents)),
            questions=questions,
            ended=standing.ended,
        )

    def _saw(self, at: object) -> None:
        if (when := read_time(at)) is not None:
            self._times = [min([when, *self._times]), max([when, *self._times])]


async def conversations(
    connection: Connection,
    *,
    since: datetime | None = None,
    limit: int = 50,
    names: frozenset[str] | None = None,
    waiting: bool = False,
) -> list[Summary]:
    """The summaries of `list_conversations`."""
    found = await list_conversations(connection, since=since, limit=limit, names=names, waiting=waiting)
    return list(found.summaries)


async def list_conversations(
    connection: Connection,
    *,
    since: datetime | None = None,
    limit: int = 50,
    names: frozenset[str] | None = None,
    waiting: bool = False,
) -> Listing:
    """The conversations with activity since then (default: all that CALL_AUDIT has), the newest activity first.

    ``names``: only those in which one of these agents or tools takes part; ``waiting``: only those with an open
    question. Looks at the newest 250,000 facts (for ``waiting``: at the newest 20,000 questions). Raises `NotApplied`
    where there is no such stream.
    """
    positions = await Positions.now(connection)
    found: list[Summary] = []
    looked_back: float | None = None
    async for candidates, looked_back in _candidates(connection, since, waiting=waiting):
        for start in range(0, len(candidates), _AT_ONCE):
            reading = (_read(connection, one, positions) for one in candidates[start : start + _AT_ONCE])
            accounts = await asyncio.gather(*reading)
            await explain(connection, accounts)
            for account in accounts:
                summary = account.summary()
                if (names is None or names & account.concerned) and (summary.state == "waiting" or not waiting):
                    found.append(summary)
            if len(found) >= limit:
                looked_back = None
                break
        if len(found) >= limit:
            break
    newest = sorted(found, key=lambda summary: summary.last, reverse=True)
    return Listing(tuple(newest[:limit]), looked_back)


async def explain(connection: Connection, accounts: Sequence[Account]) -> None:
    """Add what is not found by conversation, for the accounts that it may concern: delayed messages, dead letters, and
    the records of processes that tell no facts."""
    scheduled = [subject for account in accounts for subject in account.standing.scheduled]
    if scheduled:
        waiting = await newest_messages(connection, _SCHEDULE, scheduled)
        for account in accounts:
            account.standing.add_scheduled(waiting)
    unclear = {account.token: account for account in accounts if account.is_unclear}
    if unclear:
        async for letter in letters_of(connection, unclear.keys()):
            unclear[letter.headers[names.CONVERSATION]].add_letter(letter)
    unaccounted = [account for account in unclear.values() if account.is_unaccounted]
    if not unaccounted:
        return
    start = await newest_from(connection, _AUDIT, subjects.AUDIT, _MAX_SETTLEMENTS)
    async for delivery in Feed(connection, _AUDIT, [subjects.AUDIT], start=start, to_end=True):
        try:
            settlements = Settlements.decode(delivery.payload)
        except BadPayload:
            continue
        for account in unaccounted:
            account.standing.add_settlements(settlements)


async def letters_of(connection: Connection, tokens: Collection[str]) -> AsyncIterator[Letter]:
    """The stored dead letters of these conversations, without payloads, among the newest 20,000 of the stream."""
    start = await newest_from(connection, STREAM, "DLQ.>", _MAX_LETTERS)
    async for delivery in Feed(connection, STREAM, ["DLQ.>"], start=start, to_end=True, headers_only=True):
        if delivery.headers.get(names.CONVERSATION) in tokens:
            yield Letter.of(delivery)


async def facts_of(connection: Connection, conversation: str) -> AsyncIterator[tuple[dict[str, Any], float]]:
    """The newest 20,000 facts of a conversation, oldest first, and when each was stored."""
    subject = subjects.audit(conversation)
    start = await newest_from(connection, _AUDIT, subject, _MAX_OF_ONE)
    async for delivery in Feed(connection, _AUDIT, [subject], start=start, to_end=True):
        fact = fact_in(delivery)
        if fact is None:
            connection.unreadable.skip("fact", delivery.subject, delivery.stream, delivery.seq)
        else:
            yield fact, delivery.stored


async def records_of(connection: Connection, conversation: str) -> AsyncIterator[tuple[Delivery, Record]]:
    """The newest 20,000 records that a conversation has in the journal, oldest first."""
    pattern = subjects.steps_in("*", conversation)
    start = await newest_from(connection, _JOURNAL, pattern, _MAX_OF_ONE)
    async for delivery in Feed(connection, _JOURNAL, [pattern], start=start, to_end=True):
        yield delivery, record_in(delivery.payload)


async def _read(connection: Connection, conversation: str, positions: Positions) -> Account:
    account = Account(conversation, positions)
    async for fact, stored in facts_of(connection, conversation):
        account.add_fact({"at": stored, **fact})
    async for delivery, record in records_of(connection, conversation):
        account.add_record(delivery, record)
    return account


async def _candidates(
    connection: Connection, since: datetime | None, *, waiting: bool
) -> AsyncIterator[tuple[list[str], float | None]]:
    """Ids of conversations, the newest activity first, and how far back was looked if that is not all there is."""
    seen: set[str] = set()

    def fresh(tokens: Iterable[str]) -> list[str]:
        found = dict.fromkeys(name for token in tokens if (name := subjects.named_by(token)) is not None)
        new = [name for name in found if name not in seen]
        seen.update(new)
        return new

    if not waiting:
        async for page in read_backwards(connection, _AUDIT, _FACTS, _MAX_FACTS, since=since):
            yield fresh(one.subject.rpartition(".")[2] for one in page.newest_first), page.left_at
            if page.left_at is not None:
                return
        if since is not None:
            return
    async for tokens, left_at in newest_questions(connection):  # also those that are older than all facts
        yield fresh(tokens), left_at if waiting else None


def fact_in(delivery: Delivery) -> dict[str, Any] | None:
    """The fact that a delivery of CALL_AUDIT carries; None for what somebody else put there."""
    return read_fact(delivery.payload)
