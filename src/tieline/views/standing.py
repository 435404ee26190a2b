"""Where a conversation stands, derived from its records.

Records decide: what the journal (STEP) and the dead letters (DLQ) hold, and how far the consumers are. Facts
(CALL_AUDIT) add what no record holds: that a message was published, that its first delivery was handled, and what
people did with a dead letter. The table in docs/guide/calls.md names the records of each state.
"""

import time
from collections.abc import Container, Iterable, Mapping
from enum import IntEnum
from typing import Any, Literal

from tieline.codec import digest
from tieline.records.reading import read_integer, read_number, read_origin, read_time
from tieline.records.settlements import Settlements
from tieline.views.positions import Positions
from tieline.wire.topology import is_waker

__all__ = ["Fact", "Standing", "State", "add_runs", "is_late_copy", "is_noise"]

type State = Literal["waiting", "running", "parked", "dead", "unaccounted", "expired", "done", "cancelled"]
type Fact = Mapping[str, Any]
type Record = Mapping[str, Any]

_LAG = 2.0  # seconds in which the fact of a message that was handled may still be on its way
_LONGEST_NAK = 60.0  # seconds; a message whose next attempt is later than that is parked
_MAX_RUNS = 16  # journals that one message may have: a redrive with --anew gives it another one
_DIGEST = len(digest(""))
_ORDER: tuple[State, ...] = ("running", "parked", "dead", "unaccounted", "expired")  # the first that holds is shown


class _Phase(IntEnum):
    """What can happen to one attempt, in the order in which it happens."""

    STARTED = 0
    ENDED = 1  # it failed, or was interrupted
    PARKED = 2
    DEAD = 3
    RETURNED = 4  # a person redrove or dropped its dead letter


class _Handling:
    """What one agent has made of one message: the newest thing that happened, in all copies and runs of the message."""

    __slots__ = ("dead_fact", "deaths", "done", "letter_deaths", "place", "returned", "since", "state", "waits")

    def __init__(self) -> None:
        self.done = False
        self.since = 0.0  # when, if only a record says so
        self.place = (0, -1)
        self.state: State = "running"
        self.waits: tuple[str, ...] = ()  # the answers that the newest attempt parked for, where it says so
        self.deaths = 0  # told by facts
        self.dead_fact = 0  # the attempt that the newest of them tells of
        self.letter_deaths = 0  # how often the message of a stored dead letter has died
        self.returned: tuple[int, int | None, State] = (0, None, "dead")  # deaths, attempt, and the state since

    def note(self, attempt: int, phase: _Phase, state: State, waits: tuple[str, ...] = ()) -> None:
        if (attempt, phase) >= self.place:
            self.place, self.state, self.waits = (attempt, phase), state, waits

    def judged(self, answered: Iterable[str]) -> State:
        if self.done:
            return "done"
        deaths, attempt, since = self.returned
        if self.deaths > deaths:
            self.note(self.dead_fact, _Phase.DEAD, "dead")
        if attempt is not None:
            self.note(attempt, _Phase.RETURNED, since)
        elif self.state == "dead" and self.letter_deaths <= deaths >= self.deaths:  # a fact of versions before 0.2
            self.note(self.place[0], _Phase.RETURNED, since)
        if self.state == "parked" and not set(self.waits).isdisjoint(answered):
            return "running"  # the answer is there, and brings the message back
        return self.state


class _Published:
    """A message that consumers are to handle."""

    __slots__ = ("at", "expires", "takers")

    def __init__(self, takers: frozenset[str], at: float, expires: float | None) -> None:
        self.takers, self.at, self.expires = takers, at, expires


class Standing:
    """What facts, records and dead letters of one conversation add up to, in whatever order they are added."""

    def __init__(self) -> None:
        self.concerned: set[str] = set()  # who takes part, or is to
        self.published = 0
        self.steps = 0
        self.dead = 0
        self.ended = False
        self._handlings: dict[tuple[str, str], _Handling] = {}  # by agent and digest of origin and run
        self._runs: dict[
            tuple[str, str], list[str]
        ] = {}  # by agent and origin; the first is that of the message itself
        self._published: dict[tuple[str, int], _Published] = {}
        self._handled: set[tuple[str, int, str]] = set()  # stream, sequence, agent
        self._expired: set[tuple[str, int, str]] = set()
        self.scheduled: set[str] = set()  # where the delayed messages of the conversation were stored
        self._delayed = False  # one of them still waits for its time
        self._told: set[str] = set()  # agents that a fact says are done
        self._answers: set[str] = set()  # where the journal has answers
        self._letters: set[int] = set()  # sequences in DLQ

    def add_fact(self, fact: Fact, positions: Positions) -> None:
        """Take in a fact. See `is_noise` for those that say nothing."""
        by = str(fact.get("by", ""))
        match fact.get("fact"):
            case "published":
                self._add_published(fact, positions)
            case "settled":
                self._add_settled(fact, by)
            case "started":
                number = read_integer(fact.get("attempt")) or 1
                self._handling_of(by, str(fact.get("origin"))).note(number, _Phase.STARTED, "running")
            case "expired":
                self._expired.add((str(fact.get("stream")), read_integer(fact.get("seq")) or 0, by))
            case "stepped" if not fact.get("found"):
                self.steps += 1
                self.ended = self.ended or (fact.get("kind"), fact.get("name")) == ("state", "end")
            case "letterredriven" | "letterdropped":
                self._add_returned(fact)

    def add_record(self, subject: str, record: Record, origin: str | None, stored: float) -> None:
        """Take in a record of the journal. ``origin``: of the message, where the record carries it."""
        _, agent, _, kind, name = subject.split(".")
        if is_waker(agent):
            return
        if kind == "attempt":
            self._add_attempt(agent, name, record)
        elif kind == "over":
            handling = self._handlings.setdefault((agent, name), _Handling())
            handling.done, handling.since = True, stored
        elif kind in ("ask", "human", "tool"):
            self._answers.add(subject)
        elif kind == "state":
            self.ended = self.ended or name.startswith("end-")
        if origin is not None and kind in ("over", "park"):
            self._add_handled(agent, origin)

    def add_letter(self, seq: int, agent: str, run: str, told: Record, deaths: int) -> None:
        """Take in a dead letter that is stored now. ``told`` is what it says it died of."""
        self._letters.add(seq)
        origin = str(told.get("origin", ""))
        runs = self._runs.setdefault((agent, origin), [""])
        if run not in runs and len(runs) < _MAX_RUNS:
            runs.append(run)
        handling = self._handling_of(agent, origin)
        handling.letter_deaths = max(handling.letter_deaths, deaths)
        handling.note(read_integer(told.get("attempt")) or 1, _Phase.DEAD, "dead")
        self._add_handled(agent, origin)

    def add_scheduled(self, subjects: Container[str]) -> None:
        """Take in which subjects of SCHEDULE hold a message that waits for its time."""
        self._delayed = any(subject in subjects for subject in self.scheduled)

    def add_settlements(self, settlements: Settlements) -> None:
        """Take in what a process without facts says of its first deliveries."""
        for stream, seq in self._published:
            if stream == settlements.stream and any(first <= seq <= last for first, last in settlements.done):
                self._handled.add((stream, seq, settlements.agent))

    def is_settled(self, agent: str, message: str) -> bool:
        """Whether the message, called so in the journal, has come to its end: nobody waits for its questions."""
        handling = self._merged(agent).get(message)
        return handling is not None and handling.judged(self._answers) in ("done", "dead")

    def states(self, positions: Positions) -> set[State]:
        """The states of the messages of the conversation, without ``done``."""
        now = time.time()
        found: set[State] = set()
        for agent in {agent for agent, _ in self._handlings}:
            late = self._late(agent, now)
            for key, handling in self._merged(agent).items():
                state = handling.judged(self._answers)
                if state == "done" and now - handling.since < _LAG and agent not in self._told and self.published:
                    state = "running"  # what it published may be on its way to CALL_AUDIT
                found.add("expired" if state == "running" and key in late else state)
        unmatched = self._unmatched()
        for (stream, seq), message in self._published.items():
            for name in message.takers:
                if (stream, seq, name) in self._handled:
                    continue
                state = _unhandled(message, owed=positions.owes(stream, name, seq), now=now)
                if (stream, seq, name) in self._expired:
                    found.add("expired")
                elif state != "unaccounted" or name not in unmatched:
                    found.add(state)
        if self._delayed:
            found.add("parked")
        return found - {"done"}

    def state(self, positions: Positions) -> State:
        """Where the conversation stands, cancellations and questions aside."""
        found = self.states(positions)
        return next((state for state in _ORDER if state in found), "done")

    @property
    def unexplained(self) -> bool:
        """Whether some message has left no trace but that it was published."""
        return any(
            (stream, seq, name) not in self._handled
            for (stream, seq), message in self._published.items()
            for name in message.takers
        )

    def deaths(self) -> int:
        """How often messages of the conversation have died."""
        return max(
            self.dead, len(self._letters), sum(max(h.letter_deaths, h.returned[0]) for h in self._handlings.values())
        )

    def _add_published(self, fact: Fact, positions: Positions) -> None:
        self.published += 1
        stream, seq, expires = str(fact.get("stream")), read_integer(fact.get("seq")), read_number(fact.get("expires"))
        if seq is None:
            return
        if stream == "SCHEDULE":
            self.scheduled.add(str(fact.get("subject")))
        at = read_number(fact.get("at")) or 0.0
        takers = positions.takers(stream, str(fact.get("subject")), seq, at)
        self.concerned |= takers
        if takers:
            self._published[stream, seq] = _Published(takers, at, expires)

    def _add_settled(self, fact: Fact, by: str) -> None:
        origin, number = str(fact.get("origin")), read_integer(fact.get("attempt")) or 1
        handling = self._handling_of(by, origin)
        self._add_handled(by, origin)
        match fact.get("outcome"):
            case "done":
                handling.done = True
                self._told.add(by)
            case "dead":
                self.dead += 1
                handling.deaths += 1
                handling.dead_fact = max(handling.dead_fact, number)
            case "parked":
                handling.note(number, _Phase.PARKED, "parked")
            case _:
                handling.note(number, _Phase.ENDED, "running")

    def _add_returned(self, fact: Fact) -> None:
        agent, origin, deaths = str(fact.get("agent")), str(fact.get("origin")), read_integer(fact.get("deaths")) or 1
        runs = self._runs.setdefault((agent, origin), [""])
        add_runs(runs, agent, origin, deaths)
        since: State = "running"
        if fact.get("fact") == "letterdropped":
            since = "dead"
        elif not str(fact.get("subject")).startswith("redrive."):
            since = "done"  # it went elsewhere, as a message of its own
        handling = self._handling_of(agent, origin)
        handling.returned = max(handling.returned, (deaths, read_integer(fact.get("attempt")), since), key=_deaths)
        self._add_handled(agent, origin)

    def _add_attempt(self, agent: str, name: str, record: Record) -> None:
        handling = self._handlings.setdefault((agent, name[:_DIGEST]), _Handling())
        number = read_integer(record.get("n")) or 1
        if not name.endswith("-end"):
            handling.note(number, _Phase.STARTED, "running")
            return
        match record.get("end"):
            case "done":
                handling.done = True
            case "dead":
                handling.note(number, _Phase.DEAD, "dead")
            case "parked":
                waits = record.get("waits")
                named = tuple(map(str, waits)) if isinstance(waits, list) else ()
                handling.note(number, _Phase.PARKED, "parked", named)
            case _:
                due, at = read_time(record.get("due")), read_time(record.get("at"))
                aside = due is not None and at is not None and due - at > _LONGEST_NAK
                handling.note(number, *((_Phase.PARKED, "parked") if aside else (_Phase.ENDED, "running")))

    def _add_handled(self, agent: str, origin: str) -> None:
        if (first := read_origin(origin)) is not None:
            self._handled.add((first.stream, first.seq, agent))

    def _handling_of(self, agent: str, origin: str) -> _Handling:
        self._runs.setdefault((agent, origin), [""])
        return self._handlings.setdefault((agent, digest(origin, "")), _Handling())

    def _late(self, agent: str, now: float) -> set[str]:
        """The messages that expired while they waited for their next attempt, as the journal calls them."""
        late = set()
        for (name, origin), runs in self._runs.items():
            first = read_origin(origin) if name == agent else None
            if first is None:
                continue
            published = self._published.get((first.stream, first.seq))
            over = published is not None and published.expires is not None and published.expires < now
            handling = self._handlings.get((agent, digest(origin, "")))
            waits = handling is not None and handling.place[1] == _Phase.ENDED
            if (first.stream, first.seq, agent) in self._expired or (over and waits):
                late |= {digest(origin, run) for run in runs}
        return late

    def _merged(self, agent: str) -> dict[str, _Handling]:
        """The handlings of an agent's messages, by their names in the journal: that of a message with several runs is
        the one whose run came last, and done if any of them is."""
        found = {key: handling for (name, key), handling in self._handlings.items() if name == agent}
        for (name, origin), runs in self._runs.items():
            if name != agent or len(runs) == 1:
                continue
            keys = [digest(origin, run) for run in runs]
            several = [found[key] for key in keys if key in found]
            if not several:
                continue
            first = several[0]
            for other in several[1:]:
                first.done = first.done or other.done
                first.note(other.place[0], _Phase(max(other.place[1], 0)), other.state, other.waits)
            found |= dict.fromkeys(keys, first)
        return found

    def _unmatched(self) -> set[str]:
        """The agents with journal records of a message whose origin is not known: any published one may be it."""
        known = {(agent, digest(origin, run)) for (agent, origin), runs in self._runs.items() for run in runs}
        return {agent for agent, key in self._handlings if (agent, key) not in known}


def add_runs(runs: list[str], agent: str, origin: str, deaths: int) -> None:
    """Add the runs that a redrive with ``--anew`` may have begun, after so many deaths, to those known before."""
    for run in list(runs):
        anew = digest("redrive", agent, origin, run, str(deaths))
        if anew not in runs and len(runs) < _MAX_RUNS:
            runs.append(anew)


def is_noise(fact: Fact) -> bool:
    """Whether a fact says nothing about the conversation: a record was looked at, to see whether a message waits for
    it, or a stale copy of a message came."""
    if fact.get("outcome") == "superseded":
        return True
    looks = fact.get("fact") == "started" or fact.get("outcome") in ("done", "retry", "interrupted")
    return looks and str(fact.get("subject")).startswith("step.")


def is_late_copy(fact: Fact, done: set[tuple[str, str]]) -> bool:
    """Whether a fact ``done`` is not the first one of its message: versions before 0.2 told so of a stale copy, such as
    the timer of a wait that was answered. ``done`` remembers the messages from one fact to the next."""
    origin = str(fact.get("origin"))
    if fact.get("fact") in ("letterredriven", "letterdropped"):
        done.discard((str(fact.get("agent")), origin))
    if fact.get("fact") != "settled" or fact.get("outcome") != "done":
        return False
    whose = (str(fact.get("by")), origin)
    late = whose in done
    done.add(whose)
    return late


def _unhandled(message: _Published, *, owed: bool, now: float) -> State:
    if message.expires is not None and message.expires < now:
        return "expired"
    return "running" if owed or now - message.at < _LAG else "unaccounted"


def _deaths(returned: tuple[int, int | None, State]) -> int:
    return returned[0]
