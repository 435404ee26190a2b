"""Cancelled conversations: their handlers are stopped, and what comes for them later is refused.

A cancellation is a record, written once, that every process hears of at once by the server's nudge, and finds by a look
every few seconds where the nudge was lost. Messages pay nothing for it while nothing is cancelled.
"""

import asyncio
import logging
from collections.abc import Callable

from tieline import subjects
from tieline.errors import Unreachable, Unsettled
from tieline.outcomes import Cause, Done, Outcome, Refuse
from tieline.runtime.bus import Bus
from tieline.runtime.recorder import Recorder
from tieline.wire.connection import Listening, Received, headers_of
from tieline.wire.journal import Record, record_in

__all__ = ["Cancellations", "Cancelled"]

log = logging.getLogger("tieline.cancelled")

_STREAM = "CANCELLED"  # copies: all processes may read all of it, which they may not of the journal
_EVERY = 5.0  # seconds between looks for cancellations whose nudge was lost


class Cancelled:
    """The cancelled conversations that a process knows of: their ``records`` by token. Written by `Cancellations`."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def refusal(self, conversation: str) -> Refuse | None:
        """What becomes of every message of ``conversation``, if it is cancelled."""
        record = self.records.get(subjects.token(conversation))
        if record is None:
            return None
        reason = f"the conversation was cancelled by {record.get('by', 'somebody')}"
        if record.get("reason"):
            reason += f": {record['reason']}"
        return Refuse(reason, Cause("cancelled", reason))

    def interrupted(self, steps: Recorder, outcome: Outcome | None = None) -> Refuse | None:
        """What becomes of a run that was stopped, unless it came to its end first or its process stops as well."""
        if not steps.stopped:
            return None
        task = asyncio.current_task()
        others = task.uncancel() if task is not None else 0
        return None if others or isinstance(outcome, Done) else self.refusal(steps.conversation)


class Cancellations:
    """One process's knowledge of what is cancelled. ``stop`` is told the token of each conversation, once.

    ``known`` is set as soon as what was cancelled before has been read, or cannot be read now.
    """

    def __init__(self, bus: Bus, stop: Callable[[str], None]) -> None:
        self.cancelled = Cancelled()
        self.known = asyncio.Event()
        self._bus = bus
        self._stop = stop
        self._listening: Listening | None = None
        self._read = 0  # the sequence in the stream up to which cancellations were read

    async def watch(self) -> None:
        """Listen, and look for ever."""
        self._listening = self._bus.connection.listen(subjects.nudge(subjects.cancellations()), self._heard)
        while True:
            try:
                await self._look()
            except Unreachable:
                return  # the connection says so to whoever runs this process
            except Unsettled as error:
                log.info("cancellations are heard of, and cannot be looked for: %s", error)
            finally:
                self.known.set()
            await asyncio.sleep(_EVERY)

    async def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            await self._listening.stop()

    async def _look(self) -> None:
        while True:
            found, self._read = await self._bus.journal.newer(_STREAM, subjects.cancelled_copy("*"), self._read)
            if not found:
                return
            for subject, record in found.items():
                self._learn(subject.rpartition(".")[2], record)

    def _heard(self, received: Received) -> None:
        subject = headers_of(received).get("Nats-Subject", "")
        if subjects.is_step(subject):
            self._learn(subject.split(".")[2], record_in(received.payload))

    def _learn(self, conversation: str, record: Record) -> None:
        if not record:  # it has aged out
            self.cancelled.records.pop(conversation, None)
        elif conversation and conversation not in self.cancelled.records:
            self.cancelled.records[conversation] = record
            log.warning("conversation %s is cancelled by %s", conversation, record.get("by", "somebody"))
            self._stop(conversation)
