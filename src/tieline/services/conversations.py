"""Conversations at a glance: one pass over the facts, beside what the journal says of questions and cancellations."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tieline import subjects
from tieline.codec import digest
from tieline.records.facts import read_fact
from tieline.services.questions import Board, Question, open_questions
from tieline.wire.connection import Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed
from tieline.wire.topology import consumer_infos

__all__ = ["Consumers", "State", "Summary", "Tally", "conversations", "fact_in", "is_waking"]

type State = Literal["waiting", "running", "parked", "dead", "expired", "done", "cancelled"]
type Fact = Mapping[str, Any]

_REMEMBERED = 20_000  # conversations at once; beyond it those that have been quiet longest are forgotten
_LAG = 2.0  # seconds after which facts have been told: then an acknowledgement alone says that a message is settled
_LOOKED_AT = 4_096  # subjects whose consumers are remembered


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation. ``first`` and ``last`` activity are in seconds since 1970.

    ``state``: ``waiting`` for a person's answer to ``questions``; ``running``: a message is on its way or being tried;
    ``parked``: everything left waits for another agent or a time; ``expired``: a message's TTL ended unhandled;
    ``cancelled``; else ``done``, or ``dead`` where something came to a dead letter. ``ended``: by `Conversation.end`.
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


class Consumers:
    """Which durable consumers of Tieline's take a message, and up to where each owes nothing. As of one moment."""

    def __init__(self, infos: Mapping[str, list[dict[str, Any]]]) -> None:
        """``infos``: what the server says of the consumers of each stream."""
        self._filters: dict[str, list[tuple[str, list[str]]]] = {}
        self._floors: dict[tuple[str, str], int] = {}
        self._takers: dict[tuple[str, str], frozenset[str]] = {}
        for stream, found in infos.items():
            for info in found:
                config = info["config"]
                if "tieline.pod" not in (config.get("metadata") or {}):
                    continue  # of a client that tells no facts: nobody would say when it is done
                filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
                self._filters.setdefault(stream, []).append((info["name"], filters))
                floor = info["ack_floor"] if info["num_ack_pending"] else info["delivered"]
                self._floors[stream, info["name"]] = int(floor["stream_seq"])

    @classmethod
    async def now(cls, connection: Connection) -> "Consumers":
        """As the server says."""
        names = (await connection.api("STREAM.NAMES")).get("streams") or []
        return cls({stream: await consumer_infos(connection, stream) for stream in names})

    def takers(self, stream: str, subject: str) -> frozenset[str]:
        """Who takes messages of a subject."""
        known = self._takers.get((stream, subject))
        if known is None:
            if len(self._takers) >= _LOOKED_AT:
                self._takers.clear()
            known = frozenset(
                name
                for name, filters in self._filters.get(stream, ())
                if any(subjects.covers(wanted, subject) for wanted in filters)
            )
            self._takers[stream, subject] = known
        return known

    def owes(self, stream: str, name: str, seq: int) -> bool:
        """Whether the message may still have to be handled by this consumer."""
        return seq > self._floors.get((stream, name), 0)


class Tally:
    """What the facts of one conversation add up to."""

    __slots__ = (
        "_asides",
        "_deaths",
        "_early",
        "_open",
        "agents",
        "concerned",
        "dead",
        "ended",
        "expired",
        "first",
        "id",
        "last",
        "published",
        "steps",
    )

    def __init__(self, conversation: str, at: float) -> None:
        self.id = conversation
        self.first = self.last = at
        self.published = self.steps = self.dead = self.expired = 0
        self.ended = False
        self.agents: set[str] = set()
        self.concerned: set[str] = set()  # who takes part, or is to
        self._open: dict[
            tuple[str, int], tuple[set[str], float | None]
        ] = {}  # messages not settled: by whom, until when
        self._asides: dict[
            tuple[str, str], str
        ] = {}  # by agent and origin: how its last delivery ended, if not for good
        self._deaths: set[tuple[str, str]] = set()
        self._early: set[tuple[str, int, str]] = set()  # settled, by a process that told it before who published did

    def add(self, fact: Fact, consumers: Consumers) -> None:
        """Count one more fact."""
        if is_waking(fact):
            return
        by, kind = str(fact.get("by", "")), fact.get("fact")
        self.last = max(self.last, float(fact.get("at", 0.0)))
        if by and kind != "expired" and not str(kind).startswith("letter"):  # those are done by people, or by nobody
            self.agents.add(by)
        if kind == "published":
            self._published(fact, consumers)
        elif kind == "settled":
            self._settled(fact, by)
        elif kind == "expired":
            self._expired(fact, by)
        elif kind == "stepped" and not fact.get("found"):
            self.steps += 1
            self.ended = self.ended or (fact.get("kind"), fact.get("name")) == ("state", "end")

    def state(self, questions: list[Question], cancelled: bool, consumers: Consumers) -> State:
        """Where the conversation stands."""
        now = time.time()
        owed = {
            until is not None and until < now
            for (stream, seq), (takers, until) in self._open.items()
            if now - self.last < _LAG or any(consumers.owes(stream, name, seq) for name in takers)
        }
        if cancelled:
            return "cancelled"
        if questions:
            return "waiting"
        if False in owed or set(self._asides.values()) - {"parked"}:
            return "running"
        if self._asides:
            return "parked"
        if self.dead:
            return "dead"
        return "expired" if owed or self.expired else "done"

    def summary(self, board: Board, consumers: Consumers) -> Summary:
        """The conversation as it stands."""
        token = subjects.token(self.id)
        for agent, message in self._deaths:
            board.close(token, agent, message)
        questions = board.questions.get(token, [])
        return Summary(
            id=self.id,
            state=self.state(questions, token in board.cancelled, consumers),
            first=self.first,
            last=self.last,
            published=self.published,
            steps=self.steps,
            dead=self.dead,
            agents=tuple(sorted(self.agents)),
            questions=() if token in board.cancelled else tuple(questions),
            ended=self.ended,
        )

    def _published(self, fact: Fact, consumers: Consumers) -> None:
        self.published += 1
        stream, seq, expires = str(fact.get("stream")), fact.get("seq"), fact.get("expires")
        takers = consumers.takers(stream, str(fact.get("subject")))
        if not takers or not isinstance(seq, int):
            return
        self.concerned |= takers
        left = {name for name in takers if (stream, seq, name) not in self._early}
        self._early.difference_update((stream, seq, name) for name in takers)
        if left:
            self._open[stream, seq] = (left, expires if isinstance(expires, int | float) else None)

    def _expired(self, fact: Fact, by: str) -> None:
        self.expired += 1
        found = self._open.get((str(fact.get("stream")), int(fact.get("seq") or 0)))
        if found is not None:
            found[0].discard(by)

    def _settled(self, fact: Fact, by: str) -> None:
        stream, seq, whose = str(fact.get("stream")), int(fact.get("seq") or 0), (by, str(fact.get("origin")))
        found = self._open.get((stream, seq))
        if found is not None:
            found[0].discard(by)
            if not found[0]:
                del self._open[stream, seq]
        elif not by.startswith("tool-"):  # nobody tells of the publishing of a tool call
            self._early.add((stream, seq, by))
        outcome = str(fact.get("outcome"))
        if outcome in ("done", "dead"):
            self._asides.pop(whose, None)
        else:
            self._asides[whose] = outcome
        if outcome == "dead":
            self.dead += 1
            self._deaths.add((by, digest(whose[1], "")))


async def conversations(
    connection: Connection,
    *,
    since: datetime | None = None,
    limit: int = 50,
    names: frozenset[str] | None = None,
    waiting: bool = False,
) -> list[Summary]:
    """The conversations with activity since then (default: all that CALL_AUDIT has), the newest activity first.

    ``names``: only those in which one of these agents or tools takes part; ``waiting``: only those with an open
    question. Reads each fact once, and remembers the 20,000 conversations that spoke last: one that spoke again after
    so many others is counted from then. Raises `NotApplied` where there is no such stream.
    """
    board = await open_questions(connection)
    before = await Consumers.now(connection)
    tallies: OrderedDict[str, Tally] = OrderedDict()
    async for delivery in Feed(connection, "CALL_AUDIT", ["call.audit.*"], start=since or 1, to_end=True):
        _count(connection, tallies, delivery, before)
    for token, asked in board.questions.items():
        if token not in tallies and since is None:  # older than the facts
            tallies[token] = Tally(asked[0].conversation, asked[0].asked)
            tallies[token].concerned = {question.agent for question in asked}
    consumers = await Consumers.now(connection)  # again: what was handled meanwhile is not to be called running
    found = []
    for tally in sorted(tallies.values(), key=lambda tally: tally.last, reverse=True):
        if names is None or names & (tally.agents | tally.concerned):
            summary = tally.summary(board, consumers)
            if summary.state == "waiting" or not waiting:
                found.append(summary)
        if len(found) == limit:
            break
    return found


def _count(connection: Connection, tallies: OrderedDict[str, Tally], delivery: Delivery, consumers: Consumers) -> None:
    fact = fact_in(delivery)
    if fact is None:
        connection.unreadable.skip("fact", delivery.subject, delivery.stream, delivery.seq)
        return
    if fact["fact"] == "unreadable":
        return  # about records, not about a conversation
    token = delivery.subject.rpartition(".")[2]
    tally = tallies.get(token)
    if tally is None:
        if len(tallies) >= _REMEMBERED:
            tallies.popitem(last=False)
        tally = tallies[token] = Tally(str(fact.get("callId") or token), float(fact.get("at", delivery.stored)))
    else:
        tallies.move_to_end(token)
    tally.add(fact, consumers)


def is_waking(fact: Fact) -> bool:
    """Whether the fact only says that a record was looked at, to see whether a message waits for it."""
    return fact.get("outcome") == "done" and str(fact.get("subject")).startswith("step.")


def fact_in(delivery: Delivery) -> dict[str, Any] | None:
    """The fact that a delivery of CALL_AUDIT carries; None for what somebody else put there."""
    return read_fact(delivery.payload)
