"""A handler whose code changed between two runs: it goes on where the version runs that recorded, or says what differs.

Only a message that was delivered before, of a pod that declares a version, is looked at: one listing of the journal,
and one read where it has steps on record.
"""

import asyncio
import logging
from collections.abc import Iterable

from tieline import subjects
from tieline.codec import digest
from tieline.outcomes import Cause, Changed, Done, HandBack, Outcome, Refuse
from tieline.runtime.bus import Bus
from tieline.wire.connection import Listening, NoAnswer, Received
from tieline.wire.journal import Record

__all__ = ["UNVERSIONED", "Presence", "Recording", "elsewhere", "recording_of"]

log = logging.getLogger("tieline.versions")

UNVERSIONED = "0"  # the version of a pod that declares none

# Kinds of records that no handler asks for.
_BOOKKEEPING = frozenset({"attempt", "sent", "over", "park", "publish", "until", "expired"})
_QUESTION = "question"  # says which version asked, for an answer that a person wrote
_PATIENCE = 0.5  # seconds for a process to say that it is there; nobody listening is known at once
_FIRST_WAIT = 0.1  # seconds that a message is handed back for, doubled each time: the other process takes it meanwhile
_LONGEST_WAIT = 2.0
_TRIES = 200  # deliveries after which it runs here all the same: the other version is there and does not take it


class Recording:
    """What other versions recorded for one message, held against what this run asks for. One run's own."""

    __slots__ = ("_asked", "_mine", "_steps", "difference")

    def __init__(self, mine: str, steps: dict[str, Record]) -> None:
        """``steps``: the records of the message by subject, this version's own too."""
        self._mine = mine
        self._steps = steps
        self._asked: set[str] = set()
        self.difference = ""

    @property
    def versions(self) -> list[str]:
        """The other versions that recorded, the latest first."""
        latest = sorted(self._steps.values(), key=lambda record: record.get("at", 0.0), reverse=True)
        recorded = dict.fromkeys(str(record["version"]) for record in latest if "version" in record)
        return [version for version in recorded if version != self._mine]

    def asked(self, subject: str, kind: str, name: str, *, changed: bool) -> None:
        """This run asks for the step at ``subject``. Raises `Changed` where it was recorded for other arguments."""
        self._asked.add(subject)
        if changed and self._foreign(subject):
            by = self._steps[subject].get("version", "another version")
            self.difference = f"{kind} {name} was recorded by version {by} for other arguments than {self._mine} has"
        if self.difference:
            raise Changed

    def judged(self, outcome: Outcome) -> Outcome:
        """``outcome``, unless the run differs from the recording; only a run that came to its end asked for all."""
        unasked = sorted(s for s in self._steps if self._foreign(s) and s not in self._asked and _kind(s) != _QUESTION)
        if not self.difference and unasked and isinstance(outcome, Done):
            named = ", ".join(map(_named, unasked))
            by = " and ".join(self.versions)
            self.difference = f"version {by} recorded {named}, which version {self._mine} never asked for"
        if not self.difference:
            return outcome
        return Refuse(self.difference, Cause("changed", self.difference))

    def _foreign(self, subject: str) -> bool:
        return subject in self._steps and self._steps[subject].get("version") != self._mine


async def recording_of(bus: Bus, agent: str, conversation: str, origin: str, run: str) -> Recording | None:
    """What other versions of the pod recorded for a message; None where this one recorded all there is."""
    ending = f"-{digest(origin, run)}"
    found = await bus.journal.subjects(subjects.steps_in(agent, conversation))
    mine = [s for s in found if s.endswith(ending) and _kind(s) not in _BOOKKEEPING]
    if not mine:
        return None
    recording = Recording(bus.pod.version, await bus.journal.glance(mine))
    return recording if recording.versions else None


async def elsewhere(bus: Bus, agent: str, recording: Recording, delivered: int) -> HandBack | None:
    """Hand the message back where a process of a recording version runs: it will take it, sooner or later."""
    if delivered > _TRIES:
        return None
    for version in recording.versions:
        try:
            await bus.connection.request(subjects.present(bus.pod.name, agent, version), wait=_PATIENCE)
        except NoAnswer:
            continue
        wait = min(_FIRST_WAIT * 2.0 ** min(delivered, 10), _LONGEST_WAIT)
        return HandBack(f"version {version} began it and runs elsewhere", wait)
    return None


class Presence:
    """Says that this process runs agents of a version, to whoever asks, from `start` until `leave`."""

    def __init__(self, bus: Bus, agents: Iterable[str]) -> None:
        self._bus = bus
        self._agents = [agent for agent in agents if bus.pod.version != UNVERSIONED]
        self._listening: list[Listening] = []
        self._answering: set[asyncio.Task[None]] = set()
        self._there = False

    def start(self) -> None:
        """From now on, answer."""
        self._there = True
        pod = self._bus.pod
        self._listening = [
            self._bus.connection.listen(subjects.present(pod.name, agent, pod.version), self._asked)
            for agent in self._agents
        ]

    def leave(self) -> None:
        """No more messages are taken here, so nobody should be told to wait for us."""
        self._there = False

    async def close(self) -> None:
        """Stop listening."""
        self.leave()
        for listening in self._listening:
            await listening.stop()

    def _asked(self, request: Received) -> None:
        if self._there and request.reply:
            task = asyncio.ensure_future(self._bus.connection.send(request.reply, self._bus.replica.encode()))
            self._answering.add(task)
            task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a question whether this version runs could not be answered: %s", error)


def _kind(subject: str) -> str:
    return subject.split(".")[3]


def _named(subject: str) -> str:
    """A step as a person reads it: its kind, its name and which use of it."""
    parts = subject.split(".")
    return f"{parts[3]} {parts[4][: -len(digest('')) - 1]}"
