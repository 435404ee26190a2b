"""The journal: records on write-once subjects of the stream STEP, and the news of them.

A record is written once; the server refuses a second writer (err_code 10077) and answers a retry of the same write
with ``duplicate``. The server repeats what it stored on ``nudge.<subject>``, so a waiter learns of it without reading;
should that core message be lost, a look about once a second for everything awaited finds it.
"""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from tieline import codec, subjects
from tieline import headers as names
from tieline.errors import NotAccepted, ObjectGone, Unreachable, Unsettled
from tieline.records.journal import UNREADABLE, read_record
from tieline.records.reading import read_digits, read_integer
from tieline.wire.connection import ApiError, Connection, Listening, NoAnswer, Received, headers_of
from tieline.wire.objects import Objects
from tieline.wire.standstill import Standstill

__all__ = ["Journal", "Record", "record_in"]

log = logging.getLogger("tieline.journal")

type Record = Mapping[str, Any]

_STREAM = "STEP"
_TAKEN = 10077  # maximum messages per subject exceeded: somebody wrote this record before
_LOOK = 1.0  # seconds between looks for records whose nudge may be lost
_BATCH = 512  # subjects in one look
_SHOWN = ("ok", "cause", "reason", "tool", "asked", "at", "by", "version")  # of a record that is too large to travel
_PATIENCE = 30.0  # seconds without a leader before a read gives up


class Journal:
    """Reads, writes and awaits records. One for each process; any number of tasks may use it."""

    def __init__(self, connection: Connection, standstill: Standstill, objects: Objects) -> None:
        self._connection = connection
        self._standstill = standstill
        self._objects = objects
        self._fetching: set[asyncio.Task[None]] = set()
        self._awaited: dict[str, list[asyncio.Future[Record]]] = {}
        self._listening: dict[str, Listening] = {}
        self._looking: asyncio.Task[None] | None = None
        self._singly = False  # a batched read got no answer where single ones did

    async def write(self, subject: str, record: Record, headers: Mapping[str, str] | None = None) -> bool:
        """Write a record once. False where another writer was first: read theirs.

        A large one goes to the object store. Waits while the journal is full. Else raises like `Publisher.publish`, and
        `BadPayload` for the largest.
        """
        payload = codec.to_json(record)
        # The id is of the content: a retry of this write is the same write, another result is another writer.
        unique = codec.digest(subject, payload.decode("utf-8", "surrogatepass"))
        claim: Mapping[str, str] = {}
        if len(payload) > self._objects.limit:
            token = subject.split(".")[2]  # of step.<agent>.<conversation>.… and tool.result.<conversation>
            shown = {"callId": subjects.named_by(token), **{k: record[k] for k in _SHOWN if k in record}}
            payload, claim = await self._objects.lighten(shown["callId"] or token, payload, shown)

        async def is_taken() -> bool:
            return subject in await self._stored([subject])

        try:
            told = {**(headers or {}), **claim, names.MSG_ID: unique}
            await self._standstill.store(_STREAM, subject, payload, told, is_taken)
        except NotAccepted as error:
            # The server says 10077 also when the whole stream is full: only a record that is there is another writer's.
            if error.err_code == _TAKEN and ("per subject" in str(error) or await is_taken()):
                return False
            raise
        return True

    async def read(self, wanted: Iterable[str]) -> dict[str, Record]:
        """The records that exist among ``wanted`` subjects. `ObjectGone` where a large one can no longer be read.

        Asks again while the stream has no leader; `Unsettled` when it does not answer for ``_PATIENCE`` seconds.
        """
        return {subject: await self._whole(received) for subject, received in (await self._stored(wanted)).items()}

    async def glance(self, wanted: Iterable[str]) -> dict[str, Record]:
        """Like `read`, but large records come without what makes them large."""
        return {subject: self._record(received) for subject, received in (await self._stored(wanted)).items()}

    async def subjects(self, pattern: str) -> list[str]:
        """Where there are records, among all that ``pattern`` matches. `Unsettled` when the server does not say."""
        found: list[str] = []
        while True:
            try:
                info = await self._connection.api(
                    f"STREAM.INFO.{_STREAM}", {"subjects_filter": pattern, "offset": len(found)}
                )
            except (NoAnswer, ApiError) as error:
                raise Unsettled(f"the journal (stream {_STREAM}) does not say what it has: {error}") from error
            if info["config"].get("mirror"):  # see `tieline.wire.stream_copy`
                raise Unsettled(f"the journal (stream {_STREAM}) is being made again and is not whole yet")
            page = list(info["state"].get("subjects") or ())
            found += page
            if not page or len(found) >= (read_integer(info.get("total")) or 0):
                return found

    async def newer(self, stream: str, pattern: str, after: int) -> tuple[dict[str, Record], int]:
        """What ``stream`` has on ``pattern`` after a sequence, and the sequence to ask after next time.

        Not more than one page, oldest first: ask until there is nothing. A record that has aged out, and left a mark,
        is empty. `Unsettled` when the server does not answer.
        """
        body = json.dumps({"seq": after + 1, "next_by_subj": pattern, "batch": _BATCH}).encode()
        try:
            replies = await self._connection.request_all(f"$JS.API.DIRECT.GET.{stream}", body)
        except NoAnswer as silence:
            raise Unsettled(f"the stream {stream} does not answer: {silence}") from silence
        found = [(headers_of(reply), reply.payload) for reply in replies if reply.status is None]
        records = {
            told.get("Nats-Subject", ""): {} if names.MARKER in told else record_in(payload) for told, payload in found
        }
        return records, max((read_digits(told.get("Nats-Sequence")) or after for told, _ in found), default=after)

    async def _stored(self, wanted: Iterable[str]) -> dict[str, Received]:
        found: dict[str, Received] = {}
        remaining = list(wanted)
        for start in range(0, len(remaining), _BATCH):
            for received in await self._patiently(remaining[start : start + _BATCH]):
                found[headers_of(received).get("Nats-Subject", "")] = received
        return found

    async def _whole(self, received: Received) -> Record:
        reference = headers_of(received).get(names.OBJECT)
        return self._record(received, None if reference is None else await self._objects.get(reference))

    def _record(self, received: Received, content: bytes | None = None) -> Record:
        record = read_record(received.payload if content is None else content)
        if record is None:
            told = headers_of(received)
            seq = read_digits(told.get("Nats-Sequence")) or 0
            self._connection.unreadable.skip("record", told.get("Nats-Subject", received.subject), _STREAM, seq)
        return record or UNREADABLE

    async def _patiently(self, wanted: list[str]) -> list[Received]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                return await self._latest(wanted)
            except NoAnswer as silence:
                if loop.time() >= until:
                    raise Unsettled(f"the journal (stream {_STREAM}) does not answer: {silence}") from silence
                await asyncio.sleep(_LOOK)

    async def _latest(self, wanted: list[str]) -> list[Received]:
        if len(wanted) == 1 or self._singly:
            return await self._one_by_one(wanted)
        body = json.dumps({"multi_last": wanted, "batch": len(wanted)}).encode()
        try:
            replies = await self._connection.request_all(f"$JS.API.DIRECT.GET.{_STREAM}", body)
        except NoAnswer:
            # Credentials of least privilege read their own steps by subject, and nothing that a body names.
            found = await self._one_by_one(wanted)
            self._singly = True
            return found
        return [reply for reply in replies if reply.status is None]

    async def _one_by_one(self, wanted: list[str]) -> list[Received]:
        asked = (self._connection.request(f"$JS.API.DIRECT.GET.{_STREAM}.{subject}") for subject in wanted)
        return [reply for reply in await asyncio.gather(*asked) if reply.status is None]

    def expect(self, agent: str, subject: str) -> asyncio.Future[Record]:
        """A future for ``agent``'s record at ``subject``. Ask before causing it; `forget` when no longer wanted."""
        if agent not in self._listening:
            self._listening[agent] = self._connection.listen(subjects.nudge(subjects.steps_of(agent)), self._heard)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_lost_nudges(), name="tieline-journal")
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(subject, []).append(future)  # two runs of one message may wait for the same record
        return future

    def forget(self, subject: str, future: asyncio.Future[Record]) -> None:
        """This waiter does not wait any more."""
        waiting = self._awaited.get(subject, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._awaited.pop(subject, None)

    async def close(self) -> None:
        """Stop listening and looking."""
        working = [*self._fetching, *([] if self._looking is None else [self._looking])]
        for task in working:
            task.cancel()
        if working:
            await asyncio.wait(working)
        for listening in self._listening.values():
            await listening.stop()
        self._listening.clear()

    def _heard(self, received: Received) -> None:
        headers = headers_of(received)
        subject = headers.get("Nats-Subject", "")
        if names.OBJECT not in headers:
            self._arrived(subject, self._record(received))
        elif subject in self._awaited:
            fetching = asyncio.create_task(self._fetch(subject, received), name="tieline-journal-fetch")
            self._fetching.add(fetching)
            fetching.add_done_callback(self._fetching.discard)

    async def _fetch(self, subject: str, received: Received) -> None:
        """Get a large record for those who wait for it. What the bus does not give now, the next look asks for."""
        try:
            self._arrived(subject, await self._whole(received))
        except ObjectGone as gone:
            self._arrived(subject, gone)
        except Unsettled as error:
            log.warning("%s: %s", subject, error)
        except Unreachable:
            return  # the connection says so to whoever runs this process

    def _arrived(self, subject: str, record: Record | ObjectGone) -> None:
        for future in self._awaited.pop(subject, []):
            if future.done():
                continue
            if isinstance(record, ObjectGone):
                future.set_exception(record)
            else:
                future.set_result(record)

    async def _look_for_lost_nudges(self) -> None:
        while True:
            before = set(self._awaited)
            await asyncio.sleep(_LOOK)
            waiting = [subject for subject in before if subject in self._awaited]
            if not waiting:
                continue
            try:
                found = await self._stored(waiting)
                for subject, received in found.items():
                    await self._fetch(subject, received)
            except Unsettled as error:
                log.warning("still waiting for %d results: %s", len(waiting), error)
                continue
            except Unreachable:
                return  # the connection says so to whoever runs this process


def record_in(payload: bytes) -> Record:
    """A record as anyone may have written it: what is not a JSON object reads as a failed step, not as an exception."""
    return read_record(payload) or UNREADABLE
