"""Rebuilds a stream under its own name, to change what the server never changes on a stream: ``deny_delete``.

Why: earlier versions made STEP with ``deny_delete`` and ``deny_purge``. nats-server 2.15.1 refuses to turn them off
(err_code 10052), and the records of ended conversations could not be removed. A stream cannot be renamed, so its
content is copied twice, by the server and with its sequences and times: from STEP to a second stream, and back.

Each stage leaves the server in a state that says what comes next, so that whoever applies next goes on from there::

    STEP denies deletes, no copy     → make the copy, a mirror of STEP; STEP is in use meanwhile
    … and the copy is a mirror       → close STEP (it takes no records), let the copy catch up, make it a stream
    … and the copy is a stream       → delete STEP
    no STEP, the copy is a stream    → make STEP a mirror of the copy
    STEP is a mirror                 → let it catch up, make its consumers go on, make it a stream that takes records
    STEP is a stream without denial  → delete the copy

At every moment one stream holds every record. While STEP is closed nobody can write, and while it is not whole nobody
can read (it answers no direct gets): publishers and readers wait, as they do for a server that is away. So a record is
never written twice, and never looks as if it were missing.

Not: a snapshot that is restored under the name. It passes through the machine that applies, which may die with the only
copy, and in a cluster the restored replicas catch up later.
"""

import asyncio
import base64
import json
import logging
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tieline import headers as names
from tieline.errors import NotApplied
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.peers import ask

__all__ = ["DENIALS", "copy_name", "is_denied", "is_rebuilt", "rebuild", "stages"]

log = logging.getLogger("tieline.topology")

type Info = dict[str, Any]

DENIALS = ("deny_delete", "deny_purge")
_ORIGINAL = "tieline.copy.of"  # in the copy's metadata: the stream's configuration, its consumers and how far they were
_MISSING, _EXISTS, _CONSUMER_EXISTS = 10059, 10058, 10148
_LOOK = 0.05
_LEASE = 10  # seconds
_FRESH = 4.0  # seconds for which a renewed lease may be trusted
_PATIENCE = 120.0  # seconds for which a copy may stand still


def copy_name(stream: str) -> str:
    """The stream that holds the content while ``stream`` is made again."""
    return f"{stream}_COPY"


def is_rebuilt(wanted: Mapping[str, Any]) -> bool:
    """Whether this is a stream that earlier versions made with ``deny_delete``: one whose subjects are written once."""
    return bool(wanted.get("discard_new_per_subject"))


def is_denied(config: Mapping[str, Any] | None) -> bool:
    """Whether the server would let nobody remove a message of the stream."""
    return any((config or {}).get(field) for field in DENIALS)


async def rebuild(connection: Connection, wanted: Mapping[str, Any]) -> bool:
    """Make a stream that denies deletes one that does not, or finish what somebody began; whether there was anything
    to do. ``wanted`` is the stream's configuration as the pod declares it.

    Safe to kill at any point and to run twice at once. Raises `NotApplied` where the server refuses or stands still:
    then run it again.
    """
    found = False
    async for stage in stages(connection, wanted):
        log.info("stream %s: %s", wanted["name"], stage)
        found = True
    return found


async def stages(connection: Connection, wanted: Mapping[str, Any]) -> AsyncGenerator[str]:
    """Do what `rebuild` does, stage by stage; each is named once it is done."""
    copying = _Copying(connection, wanted)
    if await copying.next_stage() is None:
        return
    async with _lease(connection, wanted["name"]) as lease:
        while (stage := await copying.next_stage()) is not None:
            await lease.renew()
            yield await stage(lease)


class _Lease:
    """Only one process at a time may delete a stream that another might just have made again."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = f"state.${stream}-copy"  # no conversation has a token with a $
        self._revision = 0
        self._renewed = 0.0

    async def take(self) -> bool:
        """False while somebody else has it."""
        try:
            await self.renew()
        except NotApplied:
            return False
        return True

    async def renew(self) -> None:
        """Raises `NotApplied` where somebody else has it."""
        began = time.monotonic()
        headers = {names.TTL: str(_LEASE), names.EXPECTED_REVISION: str(self._revision)}
        try:
            reply = await self._connection.request(self._subject, b"", headers)
        except NoAnswer as silence:
            raise NotApplied(f"stream {self._stream}: its copy cannot be guarded, apply again: {silence}") from silence
        answer = json.loads(reply.payload or b"{}")
        if "error" in answer:
            raise NotApplied(f"stream {self._stream}: another process is copying it ({ApiError(answer['error'])})")
        self._revision, self._renewed = int(answer["seq"]), began

    async def release(self) -> None:
        headers = {names.TTL: "1", names.EXPECTED_REVISION: str(self._revision)}
        await self._connection.request(self._subject, b"", headers)

    def check(self) -> None:
        """Right before a deletion: a process that was frozen in between must not go on."""
        if time.monotonic() - self._renewed > _FRESH:
            raise NotApplied(f"stream {self._stream}: this process was too slow while copying it; apply again")


@asynccontextmanager
async def _lease(connection: Connection, stream: str) -> AsyncIterator[_Lease]:
    lease = _Lease(connection, stream)
    until = time.monotonic() + 6 * _LEASE
    while not await lease.take():
        if time.monotonic() > until:
            raise NotApplied(f"stream {stream}: another process has been copying it for {6 * _LEASE} s; apply again")
        await asyncio.sleep(_LOOK * 5)
    yield lease  # not released where anything failed: what was sent may still be under way
    await lease.release()


class _Copying:
    """The stages, and which of them is next."""

    def __init__(self, connection: Connection, wanted: Mapping[str, Any]) -> None:
        self._connection = connection
        self._wanted = dict(wanted)
        self._name = str(wanted["name"])
        self._copy = copy_name(self._name)

    async def next_stage(self) -> Any:
        """What to do now; None where nothing is left."""
        stream, copy = await self._info(self._name), await self._info(self._copy)
        if copy is None:
            if stream is None or not is_denied(stream["config"]):
                return None
            return self._make_copy
        following = bool(copy["config"].get("mirror"))
        if stream is None:
            return self._make_stream_again
        if stream["config"].get("mirror"):
            return self._open
        if not is_denied(stream["config"]):
            return self._delete_copy
        if following:
            return self._close
        whole = _is_closed(stream) and copy["state"]["last_seq"] == stream["state"]["last_seq"]
        return self._delete_stream if whole else self._delete_copy  # an older version opened it again

    async def _make_copy(self, _: _Lease) -> str:
        info = await self._needed(self._name)
        await self._create(self._copy, {"mirror": {"name": self._name}, "num_replicas": info["config"]["num_replicas"]})
        return f"copied to {self._copy}"

    async def _close(self, lease: _Lease) -> str:
        info = await self._needed(self._name)
        if not _is_closed(info):
            closed = {"subjects": [_closed(self._name)], "republish": None}
            info = await self._update(info["config"] | closed)
        await self._caught_up(self._copy, int(info["state"]["last_seq"]), lease)
        copy = dict((await self._needed(self._copy))["config"])
        copy.pop("mirror", None)
        copy["subjects"] = [_closed(self._copy)]
        original = {"config": info["config"], "consumers": await self._consumers()}
        copy["metadata"] = (copy.get("metadata") or {}) | {_ORIGINAL: _packed(original)}
        await self._update(copy)
        return "closed: it takes no records until it is made again"

    async def _delete_stream(self, lease: _Lease) -> str:
        lease.check()
        await self._delete(self._name)
        return "deleted, to be made again from its copy"

    async def _make_stream_again(self, _: _Lease) -> str:
        copy = await self._needed(self._copy)
        fields = {"mirror": {"name": self._copy}, "num_replicas": copy["config"]["num_replicas"]}
        await self._create(self._name, fields)
        return "made again as a mirror of its copy"

    async def _open(self, lease: _Lease) -> str:
        copy = await self._needed(self._copy)
        await self._caught_up(self._name, int(copy["state"]["last_seq"]), lease)
        original = _unpacked(copy["config"]["metadata"][_ORIGINAL])
        for consumer in original["consumers"]:
            await self._resume(consumer["config"], int(consumer["floor"]))
        own = {field: self._wanted[field] for field in ("subjects", "republish", "allow_direct", *DENIALS)}
        await self._update(original["config"] | own)
        return "takes records again"

    async def _delete_copy(self, lease: _Lease) -> str:
        lease.check()
        await self._delete(self._copy)
        return f"its copy {self._copy} is deleted"

    async def _caught_up(self, mirror: str, last: int, lease: _Lease) -> None:
        """Return once ``mirror`` has everything; what became too old in the meantime may be missing."""
        seen, until = -1, time.monotonic() + _PATIENCE
        while True:
            at = int((await self._needed(mirror))["state"]["last_seq"])
            if at >= last:
                return
            if at > seen:
                seen, until = at, time.monotonic() + _PATIENCE
            elif time.monotonic() > until:
                raise NotApplied(
                    f"stream {self._name}: its copy stands at {at} of {last} messages. Is there room on the disk? "
                    "Nothing is lost; apply again"
                )
            await lease.renew()
            await asyncio.sleep(_LOOK)

    async def _consumers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            answer = await self._api(f"CONSUMER.LIST.{self._name}", {"offset": len(found)})
            page = answer.get("consumers") or []
            found += page
            if not page or len(found) >= int(answer.get("total", 0)):
                break
        return [
            {"config": info["config"], "floor": info["ack_floor"]["stream_seq"]}
            for info in found
            if info["config"].get("durable_name")
        ]

    async def _resume(self, config: Mapping[str, Any], floor: int) -> None:
        """Make a consumer as it was, to go on behind what was acknowledged."""
        name = str(config["durable_name"])
        body = {"stream_name": self._name, "config": config, "action": "create"}
        await self._api(f"CONSUMER.CREATE.{self._name}.{name}", body, allowed=_CONSUMER_EXISTS)
        await self._api(f"CONSUMER.RESET.{self._name}.{name}", {"seq": floor + 1})

    async def _create(self, name: str, fields: Mapping[str, Any]) -> None:
        """A mirror: nobody reads it before it is whole, and it holds whatever its origin does."""
        config = {"name": name, "storage": "file", "allow_direct": False, "max_bytes": -1, **fields}
        await self._api(f"STREAM.CREATE.{name}", config, allowed=_EXISTS)

    async def _update(self, config: Mapping[str, Any]) -> Info:
        return await self._api(f"STREAM.UPDATE.{config['name']}", config)

    async def _delete(self, name: str) -> None:
        await self._api(f"STREAM.DELETE.{name}", allowed=_MISSING)

    async def _needed(self, name: str) -> Info:
        info = await self._info(name)
        if info is None:
            raise NotApplied(f"stream {self._name}: {name} is gone while it was being copied; apply again")
        return info

    async def _info(self, name: str) -> Info | None:
        info = await self._api(f"STREAM.INFO.{name}", allowed=_MISSING)
        return None if "error" in info else info

    async def _api(self, endpoint: str, body: Mapping[str, Any] | None = None, allowed: int = 0) -> Info:
        try:
            return await ask(self._connection, endpoint, None if body is None else dict(body))
        except ApiError as error:
            if error.err_code == allowed:
                return {"error": str(error)}
            raise NotApplied(f"stream {self._name} cannot be copied ({endpoint}): {error}; apply again") from error
        except NoAnswer as silence:
            raise NotApplied(f"stream {self._name}: {endpoint}: {silence}; apply again") from silence


def _packed(value: object) -> str:
    """As text: metadata is small, and a hundred consumers have a hundred similar configurations."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def _unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def _closed(stream: str) -> str:
    """The subject of a stream that nobody is to publish to."""
    return f"tieline.closed.{stream}"


def _is_closed(info: Info) -> bool:
    return list(info["config"].get("subjects") or ()) == [_closed(info["config"]["name"])]
