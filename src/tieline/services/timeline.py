"""One conversation as a timeline, read from its facts, its records in the journal, and its dead letters."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic.alias_generators import to_camel

from tieline.codec import digest
from tieline.messages import binding_of
from tieline.pod import Pod
from tieline.records.reading import read_number, read_text
from tieline.services.conversations import Account, Summary, explain, facts_of, letters_of, records_of
from tieline.views.positions import Positions
from tieline.views.standing import add_runs, is_late_copy, is_noise
from tieline.wire.connection import Connection
from tieline.wire.journal import Record
from tieline.wire.topology import is_waker

__all__ = ["Entry", "Kind", "Timeline", "redacted_by", "timeline"]

_BEFORE = 1e-6  # seconds
_MOST_VANISHED = 100  # attempts before one that are shown although nothing but their number is known

type Kind = Literal[
    "published", "started", "woken", "settled", "vanished", "step", "asked", "answered", "dead letter", "cancelled",
    "breaker", "model", "expired", "redriven", "dropped", "edited", "superseded",
]  # fmt: skip

_HIDDEN = "(redacted)"
_BOOKKEEPING = frozenset(
    {"park", "until", "sent", "publish", "over", "attempt", "question", "human", "cancel", "expired"}
)
_DIGEST = len(digest(""))
_OPERATED: Mapping[str, Kind] = {"letterredriven": "redriven", "letterdropped": "dropped", "letteredited": "edited"}
_ENDS = {"raised": "retry"}  # of attempts, as facts call them, where the words differ


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, ``at`` seconds since 1970, done ``by`` an agent, a tool or a person.

    ``what`` is a line for people; ``took`` is in seconds where it took time; ``told`` has everything there is, with
    redacted fields left out of payloads and values. ``superseded`` is a stale copy of a message that changed nothing: a
    detail for debugging.
    """

    at: float
    kind: Kind
    by: str
    what: str
    took: float | None
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A conversation and what happened in it, oldest first."""

    summary: Summary
    entries: tuple[Entry, ...]


def redacted_by(pod: Pod) -> frozenset[str]:
    """The fields that the messages of a pod declare as redacted."""
    models = {model for agent in pod.agents.values() for model in agent.models}
    return frozenset(name for model in models for name in binding_of(model).redact)


async def timeline(
    connection: Connection, conversation: str, *, redact: frozenset[str] = frozenset()
) -> Timeline | None:
    """What the bus says of a conversation; None where it knows nothing of it.

    Values are shown without the fields in ``redact``, and without those that the conversation's own messages declare
    as redacted, wherever they stand. Raises `NotApplied` where a stream does not exist.
    """
    account = Account(conversation, await Positions.now(connection))
    facts = _in_order([{"at": stored} | fact async for fact, stored in facts_of(connection, conversation)])
    records: dict[str, tuple[Record, float]] = {}
    async for delivery, record in records_of(connection, conversation):
        records[delivery.subject] = (record, delivery.stored)
        account.add_record(delivery, record)
    letters: list[tuple[Record, float]] = []
    async for letter in letters_of(connection, {account.token}):
        letters.append(({**letter.told, "letter": letter.seq}, letter.stored))
        account.add_letter(letter)
    if not facts and not records and not letters:
        return None
    for fact in facts:
        account.add_fact(fact)
    await explain(connection, [account])
    telling = _Telling(facts, records, letters, redact)
    entries = sorted(telling.entries(), key=lambda entry: entry.at)
    summary = account.summary()
    times = [entry.at for entry in entries if entry.kind != "superseded"]
    summary = replace(summary, first=min(times, default=summary.first), last=max(times, default=summary.last))
    return Timeline(summary, tuple(entries))


def _in_order(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A publisher tells its fact when it has the acknowledgement. Whoever handled the message may have been faster,
    and did so afterwards all the same."""
    began: dict[str, float] = {}
    for fact in facts:
        message = str(fact.get("origin", "")).rpartition("-")[0]  # <stream>-<seq>-<time>
        took = fact.get("took")
        at = fact["at"] - (took if isinstance(took, int | float) else 0.0)
        began[message] = min(at, began.get(message, at))
    for fact in facts:
        if fact.get("fact") == "published":
            handled = began.get(f"{fact.get('stream')}-{fact.get('seq')}", fact["at"])
            fact["at"] = min(fact["at"], handled - _BEFORE)
    return facts


class _Telling:
    """Lays facts, records and dead letters side by side. Facts may be lost with a process: then the records tell."""

    def __init__(
        self,
        facts: list[dict[str, Any]],
        records: Mapping[str, tuple[Record, float]],
        letters: list[tuple[Record, float]],
        redact: frozenset[str],
    ) -> None:
        self._facts = facts
        self._records = records
        self._letters = letters
        payloads = [fact.get("payload") for fact in facts]
        self._hidden = frozenset(map(_plain, redact | {name for one in payloads for name in _redacted_in(one)}))
        published = [fact for fact in facts if fact.get("fact") == "published"]
        self._published = {str(fact.get("msgId")): str(fact.get("subject")) for fact in published}
        self._published |= {f"{fact.get('stream')}-{fact.get('seq')}": str(fact.get("subject")) for fact in published}
        self._message_of = _runs_in(facts)
        self._told_attempts: set[tuple[str, str, int, bool]] = set()  # agent, message, attempt, whether its end

    def entries(self) -> Iterator[Entry]:
        """Everything, in no order."""
        parked: set[tuple[str, str]] = set()
        stepped: set[str] = set()
        done: set[tuple[str, str]] = set()
        for fact in self._facts:
            if is_noise(fact) or is_late_copy(fact, done):
                if not str(fact.get("subject")).startswith("step."):
                    yield self._settlement(fact, "superseded")
                continue
            kind, whose = fact.get("fact"), (str(fact.get("by")), str(fact.get("origin")))
            match kind:
                case "published":
                    yield self._publication(fact)
                case "started":
                    yield from self._start(fact, whose in parked)
                case "settled":
                    parked.discard(whose)
                    if fact.get("outcome") == "parked":
                        parked.add(whose)
                    yield self._settlement(fact)
                case "stepped":
                    stepped.add(str(fact.get("step")))
                    yield self._step(fact)
                case _:
                    yield self._other(fact)
        for subject, (record, stored) in self._records.items():
            if subject not in stepped or subject.split(".")[3] == "human":
                yield from self._recorded(subject, record, stored)
        yield from self._dead()

    def _dead(self) -> Iterator[Entry]:
        """The dead letters: those that are stored, and those that people have removed since."""
        stored = {told.get("letter") for told, _ in self._letters}
        for told, at in self._letters:
            what = f"{told.get('subject')}: {told.get('cause')}: {told.get('reason')}"
            yield Entry(at, "dead letter", str(told.get("agent", "")), what, None, told)
        for fact in self._facts:
            removed = fact.get("fact") in ("letterredriven", "letterdropped") and "words" in fact
            if removed and fact.get("letter") not in stored:
                stored.add(fact.get("letter"))  # told twice where the command was killed
                by, cause, words = str(fact.get("agent")), fact.get("cause"), read_text(fact.get("words"))
                kept = {name: fact.get(name) for name in ("letter", "cause", "error", "traceback", "attempt", "origin")}
                told = {**kept, "agent": by, "reason": words, "at": fact.get("died")}
                what = f"letter {fact.get('letter')}: {cause}: {words}"
                yield Entry(read_number(fact.get("died")) or fact["at"], "dead letter", by, what, None, told)

    def _publication(self, fact: Mapping[str, Any]) -> Entry:
        cause = str(fact.get("cause") or "")
        caused_by = self._published.get(cause) or self._published.get(cause.rpartition("-")[0], cause)
        because = f" because of {caused_by}" if cause else ""
        told = {**fact, "payload": self._shown(fact.get("payload"))}
        what = f"{fact.get('subject')} ({fact.get('stream')} {fact.get('seq')}){because}"
        return Entry(fact["at"], "published", str(fact.get("by") or "(outside)"), what, None, told)

    def _start(self, fact: Mapping[str, Any], was_parked: bool) -> Iterator[Entry]:
        by, number = str(fact.get("by")), fact.get("attempt") or 1
        message = digest(str(fact.get("origin")), "")
        for earlier in range(max(1, number - _MOST_VANISHED), number):
            if not self._ended(by, message, earlier):
                self._told_attempts.add((by, message, earlier, True))
                what = f"{fact.get('subject')}: attempt {earlier} left no word: its process died"
                yield Entry(fact["at"] - 1e-6, "vanished", by, what, None, {"attempt": earlier, "by": by})
        self._told_attempts.add((by, message, number, False))
        what = f"{fact.get('subject')}: attempt {number}"
        yield Entry(fact["at"], "woken" if was_parked else "started", by, what, None, fact)

    def _ended(self, by: str, message: str, number: int) -> bool:
        if (by, message, number, True) in self._told_attempts:
            return True
        names = [message, *(run for run, first in self._message_of.items() if first == message)]
        ends = tuple(f".attempt.{name}-{number}-end" for name in names)
        return any(subject.split(".")[1] == by and subject.endswith(ends) for subject in self._records)

    def _settlement(self, fact: Mapping[str, Any], kind: Literal["settled", "superseded"] = "settled") -> Entry:
        by, number = str(fact.get("by")), fact.get("attempt") or 1
        self._told_attempts.add((by, digest(str(fact.get("origin")), ""), number, True))
        why = f": {fact['reason']}" if fact.get("reason") else ""
        outcome = "superseded" if kind == "superseded" else fact.get("outcome")
        what = f"{fact.get('subject')}: attempt {number} {outcome}{why}"
        return Entry(fact["at"], kind, by, what, _number(fact.get("took")), fact)

    def _step(self, fact: Mapping[str, Any]) -> Entry:
        record, _ = self._records.get(str(fact.get("step")), ({}, 0.0))
        notes = ["found in the journal"] if fact.get("found") else []
        notes += ["recorded for other arguments"] if fact.get("changed") else []
        told = {**fact, **self._outcome(record)}
        what = f"{fact.get('kind')} {fact.get('name')}{_in_words(told)}{' (' + ', '.join(notes) + ')' if notes else ''}"
        return Entry(fact["at"], "step", str(fact.get("by")), what, _number(fact.get("took")), told)

    def _other(self, fact: Mapping[str, Any]) -> Entry:
        by, took = str(fact.get("by")), _number(fact.get("took"))
        if fact.get("fact") == "expired":
            return Entry(fact["at"], "expired", by, f"{fact.get('subject')}: its time ended unhandled", None, fact)
        if fact.get("fact") == "switched":
            what = f"tool {fact.get('tool')}: breaker {fact.get('state')}: {fact.get('reason')}"
            return Entry(fact["at"], "breaker", by, what, None, fact)
        if (kind := str(fact.get("fact"))) in _OPERATED:
            what = f"letter {fact.get('letter')} of {fact.get('agent')} {_OPERATED[kind]}: {fact.get('reason') or '-'}"
            return Entry(fact["at"], _OPERATED[kind], by, what, None, fact)
        tokens = f"{fact.get('inputTokens')} tokens in, {fact.get('outputTokens')} out"
        cost = "" if fact.get("cost") is None else f", {fact['cost']} USD"
        return Entry(fact["at"], "model", by, f"{fact.get('model')}: {tokens}{cost}", took, fact)

    def _recorded(self, subject: str, record: Record, stored: float) -> Iterator[Entry]:
        """What no fact told: what people did, attempts whose fact was lost, and steps that no run has read yet."""
        _, agent, _, kind, key = subject.split(".")
        at = _number(record.get("at")) or stored
        if kind == "question":
            until = {"until": record["until"]} if record.get("until") else {}
            told = {"question": record.get("question"), "schema": record.get("schema"), "step": subject, **until}
            yield Entry(at, "asked", agent, str(record.get("question", "")), None, told)
        elif kind == "human":
            told = self._outcome(record)
            by = str(record.get("by") or "(nobody)")
            yield Entry(at, "answered", by, _in_words(told).removeprefix(" → "), None, {**told, "step": subject})
        elif kind == "cancel":
            yield Entry(at, "cancelled", str(record.get("by", "")), str(record.get("reason") or ""), None, record)
        elif kind == "attempt" and not is_waker(agent):
            yield from self._attempt(agent, key, record, at)
        elif kind not in _BOOKKEEPING:
            name = record.get("tool") or key[: -_DIGEST - 1] or key
            told = {"kind": kind, "name": name, "step": subject, **self._outcome(record)}
            yield Entry(
                at, "step", str(record.get("by") or agent), f"{kind} {name} recorded{_in_words(told)}", None, told
            )

    def _attempt(self, agent: str, key: str, record: Record, at: float) -> Iterator[Entry]:
        message, number, ended = key[:_DIGEST], record.get("n") or 0, key.endswith("-end")
        message = self._message_of.get(message, message)
        if (agent, message, number, ended) in self._told_attempts:
            return
        if not ended:
            yield Entry(at, "started", agent, f"attempt {number}", None, record)
            return
        outcome = _ENDS.get(str(record.get("end")), str(record.get("end")))
        if outcome == "dead":
            return  # the dead letter says it
        if outcome == "vanished":
            yield Entry(at, "vanished", agent, f"attempt {number} left no word: its process died", None, record)
            return
        why = f": {record['reason']}" if record.get("reason") else ""
        yield Entry(at, "settled", agent, f"attempt {number} {outcome}{why}", None, record)

    def _outcome(self, record: Record) -> dict[str, Any]:
        """What a record says of its step, fit to be shown."""
        told = {name: record[name] for name in ("ok", "cause", "reason", "tielineObject") if name in record}
        return told | ({"value": self._shown(record["value"])} if "value" in record else {})

    def _shown(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: _HIDDEN if _plain(k) in self._hidden else self._shown(inner) for k, inner in value.items()}
        return [self._shown(inner) for inner in value] if isinstance(value, list) else value


def _runs_in(facts: list[dict[str, Any]]) -> dict[str, str]:
    """What the journal calls the messages of redrives with ``--anew``, and what it calls them in facts."""
    runs: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        if fact.get("fact") == "letterredriven":
            agent, origin = str(fact.get("agent")), str(fact.get("origin"))
            add_runs(runs.setdefault((agent, origin), [""]), agent, origin, fact.get("deaths") or 1)
    return {digest(origin, run): digest(origin, "") for (_, origin), several in runs.items() for run in several[1:]}


def _redacted_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if inner == _HIDDEN:
                yield name
            yield from _redacted_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _redacted_in(inner)


def _plain(name: str) -> str:
    """A field's name, however it is written."""
    return to_camel(name).lower()


def _in_words(told: Mapping[str, Any]) -> str:
    if told.get("ok") is False:
        return f" failed: {told.get('cause', 'no cause')}: {told.get('reason', 'no reason')}"
    if "tielineObject" in told:
        return " → (large: in the object store)"
    return "" if told.get("value") is None else f" → {json.dumps(told['value'], ensure_ascii=False, default=str)}"


def _number(value: object) -> float | None:
    return read_number(value)
