"""Questions to people: which are open, and answering one. Records of the journal, so that any process may do it."""

import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tieline import codec, subjects
from tieline.records.reading import read_time
from tieline.runtime.bus import Bus
from tieline.wire.backwards import read_backwards
from tieline.wire.connection import Connection
from tieline.wire.feed import Feed
from tieline.wire.journal import Record, record_in
from tieline.wire.stored import newest_messages

__all__ = ["Board", "Question", "answer", "newest_questions", "open_questions", "whoever"]

_JOURNAL = "STEP"
_MAX_QUESTIONS = 20_000  # the newest that are looked at
_KEY = len(codec.digest(""))  # characters at the end of a step's name that say which message it belongs to


@dataclass(frozen=True, slots=True)
class Question:
    """A question that waits for a person's answer. ``schema`` is the answer's JSON Schema; times are since 1970."""

    conversation: str
    agent: str
    text: str
    schema: Mapping[str, Any]
    asked: float
    until: float | None
    step: str  # where the answer is to be recorded

    @property
    def message(self) -> str:
        """What the message that asked is called in the journal: `codec.digest` of its origin and run."""
        return self.step[-_KEY:]


@dataclass(slots=True)
class Board:
    """What the journal says of people's part, by conversation token: open questions, oldest first; cancellations."""

    questions: dict[str, list[Question]] = field(default_factory=dict)
    cancelled: dict[str, Record] = field(default_factory=dict)
    answered: dict[str, tuple[Question, Record]] = field(default_factory=dict)  # the last of each conversation

    def close(self, conversation: str, agent: str, message: str) -> None:
        """The message that asked has ended: nobody waits for the answers to its questions any more."""
        if conversation in self.questions:
            mine = self.questions[conversation]
            self.questions[conversation] = [q for q in mine if (q.agent, q.message) != (agent, message)]

    def as_of_now(self) -> "Board":
        """This board, without the questions whose time is over."""
        now = time.time()
        for token, asked in list(self.questions.items()):
            self.questions[token] = [question for question in asked if question.until is None or question.until > now]
            if not self.questions[token]:
                del self.questions[token]
        return self

    def tell(self, subject: str, record: Record, stored: float) -> None:
        """Take in one record. They come in the order in which they were stored."""
        _, agent, token, kind, key = subject.split(".")
        match kind:
            case "question":
                asked = _question(subject, record, stored)
                self.questions.setdefault(token, []).append(asked)
            case "human":
                for question in [asked for asked in self.questions.get(token, []) if asked.step == subject]:
                    self.questions[token].remove(question)
                    self.answered[token] = (question, record)
            case "over":
                self.close(token, agent, key)
            case "cancel" if agent == subjects.EVERYBODY:
                self.cancelled[token] = record
            case _:
                return


async def open_questions(connection: Connection, conversation: str | None = None) -> Board:
    """What waits for a person: in one conversation, or in all of them, by the newest 20,000 questions. Questions whose
    message has died are still on the board. Raises like `Feed`."""
    board = Board()
    if conversation is not None:
        steps = Feed(connection, _JOURNAL, [subjects.steps_in("*", conversation)], start=1, to_end=True)
        async for delivery in steps:
            board.tell(delivery.subject, record_in(delivery.payload), delivery.stored)
        return board.as_of_now()
    asked = [subject async for page, _ in _newest_open(connection) for subject in page]
    found = await newest_messages(connection, _JOURNAL, asked)
    for subject in reversed(asked):  # the oldest first
        if subject in found:
            board.tell(subject, record_in(found[subject].payload), found[subject].at)
    return board.as_of_now()


async def newest_questions(connection: Connection) -> AsyncIterator[tuple[list[str], float | None]]:
    """The tokens of conversations that may have an open question, by page, the newest question first.

    With each page: how far back was looked, if older questions exist and are not looked at. Raises like `Feed`.
    """
    async for page, left_at in _newest_open(connection):
        yield [subject.split(".")[2] for subject in page], left_at


async def _newest_open(connection: Connection) -> AsyncIterator[tuple[list[str], float | None]]:
    pattern = subjects.step_filter("*", "question")
    async for page in read_backwards(connection, _JOURNAL, pattern, _MAX_QUESTIONS):
        ends = {one.subject: _ends_of(one.subject) for one in page.newest_first}
        there = await newest_messages(connection, _JOURNAL, [end for several in ends.values() for end in several])
        yield [subject for subject, several in ends.items() if there.keys().isdisjoint(several)], page.left_at


def _ends_of(question: str) -> tuple[str, ...]:
    """Where the journal has a record if nobody waits for the answer to that question any more."""
    _, agent, token, _, name = question.split(".")
    conversation = subjects.named_by(token) or token
    over = subjects.step(agent, conversation, "over", name[-_KEY:])
    return subjects.step_sibling(question, "human"), over, subjects.cancelled(conversation)


async def answer(bus: Bus, question: Question, outcome: Mapping[str, Any]) -> tuple[Record, bool]:
    """Record the answer: ``{"ok": True, "value": …}``, or ``{"ok": False, "cause": …, "reason": …}`` to refuse.

    Returns the record that counts and whether it is this one: somebody else may have been first. The message that
    asked comes back by itself. Raises like `Publisher.publish`.
    """
    record = {**outcome, "by": whoever(), "at": round(time.time(), 3)}
    if await bus.journal.write(question.step, record, bus.about(question.conversation)):
        return record, True
    return (await bus.journal.read([question.step])).get(question.step, {}), False


def whoever() -> str:
    """Who runs this process, for records of what a person did."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _question(subject: str, record: Record, stored: float) -> Question:
    _, agent, token, _, _ = subject.split(".")
    until = record.get("until")
    return Question(
        conversation=str(record.get("callId") or subjects.named_by(token) or token),
        agent=agent,
        text=str(record.get("question", "")),
        schema=schema if isinstance(schema := record.get("schema"), dict) else {},
        asked=stored,
        until=read_time(until),
        step=subjects.step_sibling(subject, "human"),
    )
