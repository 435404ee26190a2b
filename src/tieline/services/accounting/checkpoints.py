"""Where checkpoints are kept: the stream ACCOUNTING, newest per subject, replaced by compare-and-set."""

import asyncio
import logging
import os

from tieline import headers as names
from tieline import subjects
from tieline.errors import BadPayload
from tieline.records.checkpoint import Checkpoint
from tieline.stream import Stream, default_streams
from tieline.wire.batches import Outgoing, store_together
from tieline.wire.connection import ApiError, Connection, NoAnswer, headers_of
from tieline.wire.topology import stream_config

__all__ = ["STREAM", "Checkpoints", "Overtaken"]

log = logging.getLogger("tieline.accountant")

STREAM = "ACCOUNTING"
_HEADERS = 1024  # bytes of a message that its headers take
_OVERTAKEN = 10071  # wrong last sequence of the subject
_TRIES = 4
_PAUSE = 0.1
_NOT_FOUND = 404
_EXISTS = 10058


class Overtaken(Exception):
    """Another accountant has stored a checkpoint meanwhile."""


class Checkpoints:
    """The checkpoints of one pod. ``revision`` is that of the newest one that was loaded or stored."""

    def __init__(self, connection: Connection, pod: str) -> None:
        self._connection = connection
        self._pod = pod
        self.revision = 0

    async def ensure_stream(self) -> None:
        """Create the stream where it is missing: in a deployment that an older version applied."""
        [stream] = [stream for stream in default_streams() if stream.name == STREAM]
        try:
            await self._connection.api(f"STREAM.CREATE.{STREAM}", self._config(stream))
            log.warning("created the stream %s; `tieline apply` would have done it", STREAM)
        except ApiError as error:
            if error.err_code != _EXISTS:
                log.warning("stream %s cannot be created (%s): run `tieline apply`", STREAM, error)
        except NoAnswer as silence:
            log.warning("stream %s may not be created (%s): run `tieline apply`", STREAM, silence)

    async def load(self) -> Checkpoint | None:
        """The newest checkpoint; None where there is none. `BadPayload` where it cannot be used. `NoAnswer`."""
        for attempt in range(_TRIES):
            head = await self._read(subjects.accounting(self._pod))
            self.revision = 0 if head is None else head[0]
            if head is None:
                return None
            count = 1
            try:
                count = Checkpoint.parts(head[1])
                others = [await self._read(subjects.accounting(self._pod, part)) for part in range(1, count)]
                return Checkpoint.decode([head[1], *(other[1] for other in others if other is not None)])
            except BadPayload:
                # One of several parts may be older or newer, because another accountant is storing them.
                if attempt == _TRIES - 1 or count == 1:
                    raise
                await asyncio.sleep(_PAUSE * attempt)
        return None

    async def store(self, checkpoint: Checkpoint) -> None:
        """Replace the newest checkpoint. `Overtaken` where it is another one than `revision`; `ApiError` and `NoAnswer`
        where it could not be stored, or may be."""
        payloads = checkpoint.encode(self._connection.max_payload - _HEADERS)
        expected = {names.EXPECTED_REVISION: str(self.revision), names.MSG_ID: os.urandom(12).hex()}
        # The first part last, because its revision is what the next writer expects; a batch is stored whole or not.
        messages: list[Outgoing] = [
            (subjects.accounting(self._pod, part), payload, {}) for part, payload in enumerate(payloads[1:], 1)
        ]
        head = (subjects.accounting(self._pod), payloads[0], expected)
        refusal = await store_together(self._connection, [*messages, head])
        if refusal is not None and refusal.err_code == _OVERTAKEN:
            raise Overtaken
        if refusal is not None:
            raise refusal
        self.revision = await self._revision_of(payloads[0])

    async def _revision_of(self, payload: bytes) -> int:
        """Under which sequence a checkpoint was stored just now. A replica that answers may not have it yet."""
        for attempt in range(_TRIES):
            head = await self._read(subjects.accounting(self._pod))
            if head is not None and head[1] == payload:
                return head[0]
            if head is not None and head[0] > self.revision:
                raise Overtaken
            await asyncio.sleep(_PAUSE * attempt)
        raise NoAnswer(f"stream {STREAM} does not show what it stored")

    async def _read(self, subject: str) -> tuple[int, bytes] | None:
        """The newest message of a subject, as the stream's leader has it, and its sequence."""
        reply = await self._connection.request(f"$JS.API.DIRECT.GET.{STREAM}.{subject}")
        if reply.status is not None:
            if reply.status.code == _NOT_FOUND:
                return None
            raise BadPayload(f"the checkpoint cannot be read: {reply.status.code} {reply.status.description}")
        sequence = headers_of(reply).get("Nats-Sequence", "")
        return int(sequence) if sequence.isascii() and sequence.isdecimal() else 0, reply.payload

    def _config(self, stream: Stream) -> dict[str, object]:
        clustered = bool(self._connection.server.get("cluster"))
        return stream_config(stream, 3 if clustered else 1, {})
