"""Large payloads in an object store, and the short references that travel in their place (the claim check).

The bucket is laid out as ADR-20 has it, so that any NATS client and `nats object get` can follow a reference. It is
read by direct get and written by plain publishes: no ordered consumer, whose inbox least privilege would refuse, and no
rollup header, with which any publisher could empty the stream.
"""

import asyncio
import base64
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, to_json
from tieline.errors import BadPayload, NotAccepted, ObjectGone, Unconfirmed, Unreachable, Unsettled
from tieline.records.reading import LARGEST_INTEGER, read_digits, read_integer, read_object, read_text, read_timestamp
from tieline.wire.connection import ApiError, Connection, NoAnswer, Received, headers_of
from tieline.wire.publisher import Publisher

__all__ = ["LARGEST", "Objects"]

log = logging.getLogger("tieline.objects")

LARGEST = 64 * 1024 * 1024  # bytes of one payload or result

_BUCKET = "TIELINE"
_CHUNK = 512 * 1024  # bytes
_HEADERS = 32 * 1024  # bytes left for headers: a dead letter's hold a traceback
_BATCH = 16  # chunks in one read: 8 MiB on their way at most
_AGAIN = 86_400.0  # seconds that a stored object is referred to again; the bucket keeps it that much longer
_PATIENCE = 30.0  # seconds without a leader before a read gives up
_PAUSE = 0.5
_OVERTAKEN = 10071  # wrong last sequence: somebody stored the same content at the same time
_REFERENCE = re.compile(r"([A-Za-z0-9_-]{1,255})/(.{1,1024})\Z")
_KEY = re.compile(r"[!-)+\--=?-~]{1,512}\Z")  # tokens of a subject, without wildcards


@dataclass(frozen=True, slots=True)
class _Object:
    """What a bucket says of an object."""

    key: str  # the last tokens of its chunks' subject
    size: int
    digest: str
    revision: int
    stored: float  # seconds since 1970


class Objects:
    """Stores, finds and removes objects. One for each process; any number of tasks may use it."""

    def __init__(self, connection: Connection, publisher: Publisher, large: int) -> None:
        self._connection = connection
        self._publisher = publisher
        self._large = large

    @property
    def limit(self) -> int:
        """How many bytes still travel in a message of their own."""
        return min(self._large, self._room)

    async def lighten(
        self, conversation: str, payload: bytes, shown: Mapping[str, Any]
    ) -> tuple[bytes, dict[str, str]]:
        """The payload to send and its headers: ``payload`` as it is, or a reference to it where it is large.

        What is ``shown`` stands beside the reference, for readers that do not follow it. Raises `BadPayload` over
        `LARGEST` bytes, and like `Publisher.publish`.
        """
        if len(payload) <= self.limit:
            return payload, {}
        reference = await self.put(conversation, payload)
        return to_json({**shown, "tielineObject": reference}), {names.OBJECT: reference}

    async def put(self, conversation: str, content: bytes) -> str:
        """Store ``content`` for a conversation; its reference. The same content is stored once.

        A crash in between leaves parts that nothing refers to; they go with the conversation or by age.
        """
        if len(content) > LARGEST:
            raise BadPayload(
                f"a payload of {len(content):,} bytes; at most {LARGEST:,} are carried. Store it where it belongs and "
                "send its address"
            )
        sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        name = f"{subjects.token(conversation)}.{sha.rstrip('=')}"
        reference = f"{_BUCKET}/{name}"
        try:
            there = await self._find(_BUCKET, name)
        except Unsettled as silence:
            raise Unconfirmed(f"{reference}: {silence}", subject=subjects.object_meta(_BUCKET, name)) from silence
        if there is not None and time.time() - there.stored < _AGAIN:
            return reference
        key = f"{name}.{os.urandom(6).hex()}"
        chunks = await self._store(subjects.object_chunks(_BUCKET, key), content)
        info = {
            "name": name,
            "bucket": _BUCKET,
            "nuid": key,
            "size": len(content),
            "chunks": chunks,
            "digest": f"SHA-256={sha}",
            "options": {"max_chunk_size": self._chunk},
        }
        revision = 0 if there is None else there.revision
        headers = {names.MSG_ID: digest("object", key), names.EXPECTED_REVISION: str(revision)}
        try:
            # Last: an object is there when it says so, and then all of it is.
            await self._publisher.publish(subjects.object_meta(_BUCKET, name), to_json(info), headers)
        except NotAccepted as error:
            if error.err_code != _OVERTAKEN:
                raise
        return reference

    async def get(self, reference: str) -> bytes:
        """The content behind a reference, whole and checked. `ObjectGone` names an object that is gone or damaged.

        Asks again while the bucket has no leader; `Unsettled` when it does not answer for ``_PATIENCE`` seconds.
        """
        match = _REFERENCE.match(reference)
        if match is None:
            raise ObjectGone(f"{names.OBJECT}: {reference!r} is no reference (<bucket>/<name>)")
        bucket, name = match.groups()
        there = await self._find(bucket, name)
        if there is None:
            raise ObjectGone(
                f"object {reference} is gone: it is over its age, its conversation has ended, or it was never stored"
            )
        if there.size > LARGEST:
            raise ObjectGone(f"object {reference} has {there.size:,} bytes; at most {LARGEST:,} are carried")
        content = await self._read(bucket, subjects.object_chunks(bucket, there.key), there.size)
        sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        if len(content) != there.size or (there.digest and _plain(there.digest) != _plain(sha)):
            raise ObjectGone(f"object {reference} is damaged: {len(content):,} of {there.size:,} bytes, or other ones")
        return content

    async def remove(self, conversation: str) -> int:
        """Remove the objects of a conversation; how many. What cannot be removed goes by age, and the log says so."""
        chunks = subjects.object_chunks(_BUCKET, f"{subjects.token(conversation)}.>")
        stream = f"OBJ_{_BUCKET}"
        try:
            info = await self._connection.api(f"STREAM.INFO.{stream}", {"subjects_filter": chunks})
            found = info["state"].get("subjects") or {}
            stored = {subject.split(".", 3)[3].rpartition(".")[0] for subject in found}
            # What they are first: an object whose parts are gone must not be found by the next one of its content.
            for subject in [*(subjects.object_meta(_BUCKET, name) for name in stored), *([chunks] if found else [])]:
                await self._connection.api(f"STREAM.PURGE.{stream}", {"filter": subject})
        except (ApiError, NoAnswer, Unreachable) as error:
            log.warning("the large objects of conversation %s stay until they are too old: %s", conversation, error)
            return 0
        return len(stored)

    @property
    def _chunk(self) -> int:
        return min(_CHUNK, self._room)

    @property
    def _room(self) -> int:
        most = self._connection.max_payload
        return max(most - _HEADERS, most // 2)

    async def _store(self, subject: str, content: bytes) -> int:
        """One after the other: a chunk that is tried again must not come behind its successor."""
        size = self._chunk
        for number, start in enumerate(range(0, len(content), size)):
            headers = {names.MSG_ID: digest("chunk", subject, str(number))}
            await self._publisher.publish(subject, content[start : start + size], headers)
        return -(-len(content) // size)

    async def _find(self, bucket: str, name: str) -> _Object | None:
        subject = subjects.object_meta(bucket, name)
        [reply] = await self._patiently(f"OBJ_{bucket}.{subject}", None)
        if reply.status is not None:
            return None
        told, headers = read_object(reply.payload), headers_of(reply)
        revision, stored = read_digits(headers.get("Nats-Sequence")), read_timestamp(headers.get("Nats-Time-Stamp"))
        key, size = read_text((told or {}).get("nuid")), read_integer((told or {}).get("size", 0))
        if told is None or not _KEY.match(key) or size is None or revision is None or stored is None:
            self._connection.unreadable.skip("object", subject, f"OBJ_{bucket}", revision or 0)
            return None
        if told.get("deleted"):
            return None
        return _Object(key, size, read_text(told.get("digest")), revision, stored)

    async def _read(self, bucket: str, subject: str, size: int) -> bytes:
        parts: list[bytes] = []
        left, after = size, 0
        while left > 0:
            body = {"seq": after + 1, "next_by_subj": subject, "batch": _BATCH}
            replies = [r for r in await self._patiently(f"OBJ_{bucket}", body) if r.status is None]
            if not replies:
                break
            parts += [reply.payload for reply in replies]
            left -= sum(len(reply.payload) for reply in replies)
            after = read_digits(headers_of(replies[-1]).get("Nats-Sequence")) or LARGEST_INTEGER - 1
        return b"".join(parts)

    async def _patiently(self, where: str, body: Mapping[str, Any] | None) -> list[Received]:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            try:
                if body is None:
                    return [await self._connection.request(f"$JS.API.DIRECT.GET.{where}")]
                return await self._connection.request_all(f"$JS.API.DIRECT.GET.{where}", json.dumps(body).encode())
            except NoAnswer as silence:
                await self._check_bucket(where.split(".")[0])
                if loop.time() >= until:
                    raise Unsettled(f"the object store (stream {where.split('.')[0]}) does not answer") from silence
                await asyncio.sleep(_PAUSE)

    async def _check_bucket(self, stream: str) -> None:
        """A bucket of somebody else's that does not exist never answers; ours is made by `apply`, sooner or later."""
        if stream == f"OBJ_{_BUCKET}":
            return
        try:
            await self._connection.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            raise ObjectGone(f"bucket {stream.removeprefix('OBJ_')}: {error}") from error
        except NoAnswer:
            return


def _plain(digest: str) -> str:
    """As clients differ in it: with or without padding, with either alphabet."""
    return digest.removeprefix("SHA-256=").replace("+", "-").replace("/", "_").rstrip("=")
