"""What makes steps durable: their names, their records, and the ids of what was published.

A step is named by (agent, origin, run, name, occurrence of that name): never by its position, which is unstable where
several run at once. Occurrences are counted for each branch of a run: see `Branches`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, fingerprint
from tieline.errors import NotAccepted
from tieline.facts import Stepped
from tieline.outcomes import Done, Outcome, Park
from tieline.runtime.branches import Branches
from tieline.runtime.bus import Bus, Outgoing, deadline_in
from tieline.runtime.versions import Recording
from tieline.wire.delivery import Delivery
from tieline.wire.journal import Record
from tieline.wire.publisher import PubAck

__all__ = ["Recorder"]

log = logging.getLogger("tieline.steps")

_MAX_LISTS = 100  # attempts of older versions whose lists of published ids are read


class Recorder:
    """The records of one run of a handler. One attempt's own."""

    __slots__ = (
        "_branches",
        "_sent_before",
        "agent",
        "attempt",
        "bus",
        "conversation",
        "deadline",
        "delivery",
        "ended",
        "recording",
        "stopped",
        "task",
    )

    def __init__(self, bus: Bus, agent: str, conversation: str, delivery: Delivery) -> None:
        self.bus = bus
        self.agent = agent
        self.conversation = conversation
        self.delivery = delivery
        self.attempt = 1
        self.deadline = deadline_in(delivery.headers)
        self.ended = False  # the handler ended the conversation
        self.task: asyncio.Task[Any] | None = None  # the one that runs the handler, while it does
        self.stopped = False  # the conversation was cancelled while it ran
        self.recording: Recording | None = None  # of another version; set before the run
        self._branches: Branches | None = None  # made by the first use: most messages have none
        self._sent_before: frozenset[str] | None = None  # ids in the lists of older versions; read when needed

    async def recorded(
        self, kind: str, name: str, asked: object, produce: Callable[[str], Awaitable[Record]]
    ) -> Record:
        """The record of this step: found, or made by ``produce`` for the subject it is given."""
        began = asyncio.get_running_loop().time()
        with self.branches.at_work():
            subject = self.subject(kind, name)
            record = None if self.delivery.fresh else await self.read(subject)
            found = record is not None
            if record is None:
                record = await produce(subject)
        changed = found and asked is not None and record.get("asked", fingerprint(asked)) != fingerprint(asked)
        if self.recording is not None:
            self.recording.asked(subject, kind, name, changed=changed)
        if changed:
            log.warning("%s [%s] step %s was recorded for other arguments", self.agent, self.conversation, name)
        ok, took = record.get("ok") is True, asyncio.get_running_loop().time() - began
        self.bus.observe(lambda: Stepped(self.conversation, self.agent, subject, kind, name, ok, found, changed, took))
        return record

    def subject(self, kind: str, name: str) -> str:
        """Where this use of ``name`` is recorded."""
        occurrence = self.branches.use(f"{kind} {name}")
        key = f"{subjects.token(name)}-{occurrence}-{digest(self.delivery.origin, self.run)}"
        return subjects.step(self.agent, self.conversation, kind, key)

    async def read(self, subject: str) -> Record | None:
        """The record at ``subject``, if there is one."""
        return (await self.bus.journal.read([subject])).get(subject)

    async def write(self, subject: str, record: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Record:
        """Write ``record``, or read the one that another run wrote first. `BadPayload` where it is too large."""
        if await self.bus.journal.write(subject, record, {**(headers or {}), **self.bus.about(self.conversation)}):
            return record
        first = await self.read(subject)
        if first is None:
            raise NotAccepted(f"{subject}: written by another run, and not to be read yet", subject=subject)
        return first

    async def send_once(self, outgoing: Outgoing, msg_id: str) -> bool:
        """Publish, unless an earlier run did: the server forgets ids after minutes, and a run may come days later.

        False where an earlier run was here. In this order: the message, then its record. A crash in between repeats the
        publish, and the server drops the repeat if that happens within the stream's duplicate window.
        """
        with self.branches.at_work():
            if not self.delivery.fresh and await self.was_sent(msg_id):
                return False
            ack = await self.bus.store(outgoing, msg_id, self.cause, self.agent)
            await self.remember(msg_id, ack)
            return not ack.duplicate

    async def was_sent(self, msg_id: str) -> bool:
        """Whether an earlier run of this message published under that id, however long ago."""
        wanted = [self._sent_subject(msg_id)]
        if (
            self._sent_before is None
        ):  # what versions before 0.2 wrote: a list for each attempt that did not come to Done
            key = digest(self.delivery.origin, self.run)
            numbers = range(max(1, self.attempt - _MAX_LISTS), self.attempt)
            wanted += [subjects.step(self.agent, self.conversation, "sent", f"{key}-{number}") for number in numbers]
        records = await self.bus.journal.glance(wanted)
        found = records.pop(wanted[0], None)
        if self._sent_before is None:
            lists = [record.get("ids") for record in records.values()]
            self._sent_before = frozenset(str(one) for ids in lists if isinstance(ids, list) for one in ids)
        return found is not None or msg_id in self._sent_before

    async def remember(self, msg_id: str, ack: PubAck) -> None:
        """Record that this message published under that id, and where it is stored, for all later runs."""
        sent = {"stream": ack.stream, "seq": ack.seq, "at": round(time.time(), 3), "by": self.bus.replica}
        await self.bus.journal.write(self._sent_subject(msg_id), sent, self.bus.about(self.conversation))

    def _sent_subject(self, msg_id: str) -> str:
        return subjects.step(self.agent, self.conversation, "publish", msg_id)

    def stamp(self) -> dict[str, Any]:
        """Who writes a record, and when."""
        return {"at": round(time.time(), 3), "by": self.bus.replica, "version": self.bus.pod.version}

    def concluded(self, outcome: Outcome) -> Outcome:
        """What the run came to, all its branches considered. None of them goes on beside the next run."""
        if self._branches is not None and self._branches.parked:
            # Whatever the handler made of it: gather(return_exceptions=True) catches it.
            outcome = Park(tuple(self._branches.waits.values()))
        if self.recording is not None:
            outcome = self.recording.judged(outcome)
        if not isinstance(outcome, Done):
            self.abandon()
        return outcome

    @property
    def unfinished(self) -> bool:
        """Whether tasks of this run that use the conversation still work."""
        return self._branches is not None and self._branches.working

    async def finish(self) -> None:
        """Wait for the tasks that the handler began and left; raise what one of them raised."""
        await asyncio.sleep(0)  # a task that was made just now begins
        if self._branches is not None:
            await self._branches.finish()

    def stop(self) -> None:
        """The conversation is cancelled: a handler that runs ends now. What is being settled is settled."""
        if self.task is not None and not self.stopped:
            self.stopped = True
            self.task.cancel()

    def abandon(self) -> None:
        """This run did not come to its end: what it began in tasks of its own ends with it."""
        if self._branches is not None:
            self._branches.end()

    @property
    def branches(self) -> Branches:
        """The tasks of this run."""
        if self._branches is None:
            self._branches = Branches(self.task)
        return self._branches

    @property
    def run(self) -> str:
        """What tells a replay's or fork's steps from the original's."""
        return self.delivery.headers.get(names.RUN, "")

    @property
    def cause(self) -> str:
        """The id of the message being handled; of one that was brought back, under an id of its own, the origin."""
        if self.delivery.redriven:
            return self.delivery.origin
        return self.delivery.headers.get(names.MSG_ID, self.delivery.origin)
