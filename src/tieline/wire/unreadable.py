"""Records that this process could not read: counted, logged once in a while, and noted in the audit.

Anybody who may publish can have written them, with a bug or on purpose. Each is skipped, and whoever skips it says so
here. The log and the notes name the subject and the sequence, never the payload.

The notes are facts on subjects of their own, one for each kind. So ``tieline report``, ``tieline doctor`` and the
metrics find them after a restart too, without reading every record again.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from tieline import subjects
from tieline.records.reading import read_text

__all__ = ["KINDS", "Kind", "Unreadable"]

log = logging.getLogger("tieline.unreadable")

type Kind = Literal[
    "advisory", "answer", "dead letter", "fact", "header", "object", "record", "schedule", "settlement", "state"
]
KINDS: tuple[Kind, ...] = get_args(Kind.__value__)

_EVERY = 60.0  # seconds between two log lines, or two notes, of one kind
_LONGEST = 200  # characters of a subject in the log


class Unreadable:
    """What one process skipped. ``counts`` is by kind, since the process started; written here only."""

    def __init__(self, send: Callable[[str, bytes], Awaitable[None]]) -> None:
        self.counts: Counter[Kind] = Counter()
        self.by: str | None = None  # who publishes notes; None for a command, which only reads
        self._send = send
        self._reported: Counter[Kind] = Counter()
        self._latest: dict[Kind, tuple[str, str, int]] = {}
        self._timers: dict[Kind, asyncio.TimerHandle] = {}
        self._sending: set[asyncio.Future[None]] = set()

    def skip(self, kind: Kind, subject: str, stream: str, seq: int) -> None:
        """Count a record that is skipped. It is ``stream``'s message ``seq``, on ``subject``."""
        self.counts[kind] += 1
        self._latest[kind] = (read_text(subject, _LONGEST), stream, seq)
        if kind not in self._timers:
            self._report(kind)

    def close(self) -> None:
        """Report what was skipped since the last report, and no more."""
        for kind, timer in self._timers.items():
            timer.cancel()
            self._say(kind)
        self._timers.clear()

    def _report(self, kind: Kind) -> None:
        if self._say(kind):
            self._timers[kind] = asyncio.get_running_loop().call_later(_EVERY, self._report, kind)
        else:
            self._timers.pop(kind, None)

    def _say(self, kind: Kind) -> bool:
        """Whether there was something to report."""
        count = self.counts[kind] - self._reported[kind]
        if not count:
            return False
        self._reported[kind] = self.counts[kind]
        subject, stream, seq = self._latest[kind]
        log.warning("skipped %d unreadable: %s; the last is message %d of %s, on %s", count, kind, seq, stream, subject)
        if self.by is not None:
            note = {"fact": "unreadable", "at": round(time.time(), 3), "by": self.by, "kind": kind, "count": count}
            note |= {"total": self.counts[kind], "subject": subject, "stream": stream, "seq": seq}
            payload = json.dumps(note).encode()
            sending = asyncio.ensure_future(self._send(subjects.unreadable(kind), payload))
            self._sending.add(sending)
            sending.add_done_callback(self._finished)
        return True

    def _finished(self, sending: asyncio.Future[None]) -> None:
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()) is not None:
            log.info("the audit has no note of what was skipped: %s", error)
