"""`Unclaimed`: calls of tools that nobody declares. Their callers get an answer, and the calls become dead letters.

The stream takes every `tool.call.*`, so a misspelt tool would wait there unheard until it is too old. Executors look
every few seconds which subjects have calls and no consumer; nothing is read where all have one.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from tieline import codec, subjects
from tieline import headers as names
from tieline.errors import NotAccepted, Unreachable, Unsettled
from tieline.outcomes import Cause
from tieline.records.reading import LARGEST_INTEGER, read_digits, read_timestamp
from tieline.runtime.attempt import conversation_of
from tieline.runtime.bus import Bus
from tieline.wire.connection import ApiError, NoAnswer, Received, headers_of
from tieline.wire.parsing import escape_subject
from tieline.wire.topology import consumer_infos

__all__ = ["Unclaimed"]

log = logging.getLogger("tieline.unclaimed")

_CALLS = subjects.tool_call("*")
_EVERY = 2.0  # seconds between looks
_GRACE = 5.0  # seconds that a call waits for its tool to be applied: pods may start in any order
_BATCH = 64


class Unclaimed:
    """One executor process's look at the calls that no consumer takes. Several may look at once: they say the same."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._streams = [
            stream.name
            for stream in bus.pod.streams.values()
            if any(subjects.overlaps(stored, _CALLS) for stored in stream.subjects)
        ]
        self._warned = False

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self.answer()
            except Unreachable:
                return  # the connection says so to whoever runs this process
            except (ApiError, NoAnswer, NotAccepted, Unsettled) as error:
                if not self._warned:
                    log.warning("calls of unknown tools cannot be answered now: %s", error)
                self._warned = True
            await asyncio.sleep(_EVERY)

    async def answer(self) -> int:
        """Answer what is there now and old enough; how many calls."""
        found = 0
        for stream in self._streams:
            for subject in await self._nobodys(stream):
                async for received in self._calls(stream, subject):
                    await self._refuse(stream, subject, received)
                    found += 1
        return found

    async def _nobodys(self, stream: str) -> list[str]:
        connection = self._bus.connection
        info = await connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": _CALLS})
        called = set(info["state"].get("subjects") or ()) - {subjects.tool_call(name) for name in self._bus.pod.tools}
        if not called:
            return []
        taken: list[str] = []
        for consumer in await consumer_infos(connection, stream):
            config = consumer["config"]
            taken += config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        return sorted(s for s in called if not any(subjects.covers(pattern, s) for pattern in taken))

    async def _calls(self, stream: str, subject: str) -> AsyncIterator[Received]:
        after = 0
        while True:
            body = {"seq": after + 1, "next_by_subj": subject, "batch": _BATCH}
            replies = await self._bus.connection.request_all(f"$JS.API.DIRECT.GET.{stream}", json.dumps(body).encode())
            page = [reply for reply in replies if reply.status is None]
            for received in page:
                if _stored(received) > time.time() - _GRACE:
                    return
                yield received
                after = _seq(received)
            if len(page) < _BATCH:
                return

    async def _refuse(self, stream: str, subject: str, received: Received) -> None:
        """In this order: a crash in between repeats what was done, under the same ids. Removed first, it were lost."""
        bus, subject = self._bus, escape_subject(subject.encode()).decode()
        name = subject.rpartition(".")[2]
        headers = headers_of(received)
        seq = _seq(received)
        origin = headers.get(names.ORIGIN) or f"{stream}-{seq}-{int(_stored(received) * 1000):x}"
        conversation = conversation_of(headers, received.payload) or f"o-{origin}"
        cause = Cause("unknown", f"there is no tool {name!r}: no pod declares it, or the one that does is not applied")
        told = _told(cause, name, bus.pod.version) | {"stream": stream, "seq": seq, "origin": origin, "by": bus.replica}
        kept = names.carried(headers) | {
            names.CONVERSATION: subjects.token(conversation),
            names.MSG_ID: codec.digest("dead", f"tool-{name}", origin, headers.get(names.RUN, "")),
            names.ORIGIN: origin,
            names.DEAD: json.dumps(told),
        }
        await bus.publisher.publish(subjects.dead_letter(f"tool-{name}", cause.kind, subject), received.payload, kept)
        step = headers.get(names.STEP, "")
        where = step if subjects.is_step(step) else subjects.tool_result(conversation)
        # The origin tells two calls of one conversation apart: equal content is taken for a repeat.
        failure = {"ok": False, "cause": cause.kind, "reason": cause.reason, "tool": name, "call": origin}
        await bus.journal.write(where, failure, {names.CONVERSATION: subjects.token(conversation)})
        await bus.connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        log.warning("tool %s [%s] dead letter: %s", name, conversation, cause.reason)


def _told(cause: Cause, tool: str, version: str) -> dict[str, Any]:
    return {
        "cause": cause.kind,
        "reason": cause.reason,
        "error": "",
        "traceback": "",
        "agent": f"tool-{tool}",
        "version": version,
        "subject": subjects.tool_call(tool),
        "at": round(time.time(), 3),
        "attempts": [],
    }


def _stored(received: Received) -> float:
    """Seconds since 1970."""
    return read_timestamp(headers_of(received).get("Nats-Time-Stamp")) or 0.0


def _seq(received: Received) -> int:
    return read_digits(headers_of(received).get("Nats-Sequence")) or LARGEST_INTEGER - 1
