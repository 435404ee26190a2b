"""A stream's snapshot out of the server and into it again: messages, configuration and consumers with their state.

The server sends a snapshot in numbered chunks to an inbox, and goes on when they are answered; it takes one in the same
way. Both ends are noticed: what breaks in the middle is an error, and never a shorter stream.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tieline.errors import BackupFailed
from tieline.wire.connection import ApiError, Connection, NoAnswer, Received

__all__ = ["CHUNK", "Snapshot", "drop", "exported", "glimpsed", "imported"]

CHUNK = 128 * 1024
"""Bytes of one chunk: under every server's ``max_payload``, unless it was set on purpose to less."""

_WINDOW = 4 * 1024 * 1024  # bytes that the server sends ahead of our answers
_AHEAD = 16  # chunks that we send ahead of the server's
_LOOK = 0.5  # seconds between looks at the connection while nothing comes
_SILENCE = 10.0  # seconds; the server gives up after 5
_LAST = 120.0  # seconds for the last word on a restore: the server makes the stream first
_SPREAD = 4.0  # seconds for a subscription to be known on all servers; the one that restores waits for 5
_AGAIN = 0.05
_END, _NOBODY = 204, 503


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot holds, as the server says: exactly the messages of ``state``, whatever came afterwards."""

    config: Mapping[str, Any]
    state: Mapping[str, Any]


async def exported(connection: Connection, stream: str, write: Callable[[bytes], None]) -> Snapshot:
    """``write`` the snapshot of a stream, chunk by chunk, and return once the server has said that this was all.

    Raises `BackupFailed` when the connection breaks or the server gives up, and what ``write`` raises. Then the server
    stops sending by itself.
    """
    async with _exchange(connection) as (inbox, heard):
        size = min(CHUNK, connection.max_payload)
        body = {"deliver_subject": inbox, "chunk_size": size, "window_size": _WINDOW, "no_consumers": False}
        try:
            answer = await connection.api(f"STREAM.SNAPSHOT.{stream}", body)
        except (ApiError, NoAnswer) as error:
            raise BackupFailed(f"stream {stream}: the server gives no snapshot of it: {error}") from error
        expected = 1
        while (received := await heard.next(f"the snapshot of stream {stream}", _SILENCE)).payload:
            if received.reply:  # the last chunk, shorter than the others, asks for no answer
                number = int(received.reply.rpartition(".")[2])
                if number != expected:
                    raise BackupFailed(
                        f"stream {stream}: chunk {expected} of its snapshot was lost on the way; try again"
                    )
                expected += 1
            write(received.payload)
            if received.reply:
                await connection.send(received.reply, b"")
        end = received.status
        if end is not None and end.code != _END:
            raise BackupFailed(f"stream {stream}: the server broke its snapshot off: {end.code} {end.description}")
    return Snapshot(answer["config"], answer["state"])


async def imported(connection: Connection, snapshot: Snapshot, chunks: Iterable[bytes]) -> dict[str, Any]:
    """Make a stream from its snapshot; what the server says of it then.

    Raises `BackupFailed` when the server refuses, or the connection breaks. The server keeps what it has got until
    then as a stream that looks like any other: it is removed, as far as the server can be reached. Give such a stream
    a mark in its configuration to know it by.
    """
    stream = str(snapshot.config["name"])
    try:
        body = {"config": snapshot.config, "state": snapshot.state}
        to = (await connection.api(f"STREAM.RESTORE.{stream}", body))["deliver_subject"]
    except (ApiError, NoAnswer) as error:
        raise BackupFailed(f"stream {stream}: the server does not take it back: {error}") from error
    try:
        return await _send(connection, stream, str(to), chunks)
    except BaseException:
        await drop(connection, stream)
        raise


async def drop(connection: Connection, stream: str) -> bool:
    """Delete a stream; whether it is gone for certain. Not tried while disconnected: it must not happen later."""
    if not connection.connected:
        return False
    try:
        await connection.api(f"STREAM.DELETE.{stream}")
    except ApiError as error:
        return error.code == 404
    except (NoAnswer, ConnectionError):
        return False
    return True


async def glimpsed(connection: Connection, stream: str) -> int:
    """How many messages one copy of a stream has: in a cluster, that of a server that is chosen at random.

    The list of copies that the leader gives does not say it. Raises `ApiError` and `NoAnswer`.
    """
    name = f"glimpse-{os.urandom(6).hex()}"
    config = {
        "name": name,
        "ack_policy": "none",
        "deliver_policy": "all",
        "inactive_threshold": 5_000_000_000,  # nanoseconds, should we die before it is deleted
        "mem_storage": True,
        "num_replicas": 1,
    }
    answer = await connection.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
    await connection.api(f"CONSUMER.DELETE.{stream}.{name}")
    return int(answer["num_pending"])


async def _send(connection: Connection, stream: str, to: str, chunks: Iterable[bytes]) -> dict[str, Any]:
    what = f"the restore of stream {stream}"
    async with _exchange(connection) as (inbox, heard):
        owed = 0
        for number, chunk in enumerate(chunks):
            await connection.send(to, chunk, reply=inbox)
            if number == 0:
                _checked(stream, await _first_heard(connection, (to, chunk, inbox), heard, what))
                continue
            owed += 1
            if owed == _AHEAD:
                _checked(stream, await heard.next(what, _SILENCE))
                owed -= 1
        await connection.send(to, b"", reply=inbox)
        for _ in range(owed):
            _checked(stream, await heard.next(what, _SILENCE))
        return _checked(stream, await heard.next(what, _LAST))


async def _first_heard(connection: Connection, sent: tuple[str, bytes, str], heard: "_Heard", what: str) -> Received:
    """The answer to the first chunk. In a cluster our server may not know yet who takes it: it is sent again then."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _SPREAD
    to, chunk, inbox = sent
    while True:
        received = await heard.next(what, _SILENCE)
        unknown = received.status is not None and received.status.code == _NOBODY
        if not unknown or loop.time() >= until:
            return received
        await asyncio.sleep(_AGAIN)
        await connection.send(to, chunk, reply=inbox)


def _checked(stream: str, received: Received) -> dict[str, Any]:
    """The answer to a chunk; to the last one, what the stream is now."""
    if received.status is not None:
        raise BackupFailed(f"stream {stream}: the server stopped taking it back: {received.status.code}")
    told: dict[str, Any] = json.loads(received.payload) if received.payload else {}
    if "error" in told:
        raise BackupFailed(f"stream {stream}: the server could not take it back: {ApiError(told['error'])}")
    return told


class _Heard:
    """What came to an inbox, and whether the connection was lost meanwhile: then something may be missing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._received: asyncio.Queue[Received | None] = asyncio.Queue()

    def put(self, received: Received) -> None:
        self._received.put_nowait(received)

    def broken(self) -> None:
        self._received.put_nowait(None)

    async def next(self, what: str, patience: float) -> Received:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until:
            try:
                async with asyncio.timeout(_LOOK):
                    received = await self._received.get()
            except TimeoutError:
                if self._connection.connected:
                    continue
                received = None
            if received is None:
                raise BackupFailed(f"the connection broke in the middle of {what}; nothing of it counts, try again")
            return received
        raise BackupFailed(f"nothing came for {patience:g} s in the middle of {what}; nothing of it counts, try again")


@asynccontextmanager
async def _exchange(connection: Connection) -> AsyncIterator[tuple[str, _Heard]]:
    heard = _Heard(connection)
    inbox = f"{connection.inbox}.snapshot.{os.urandom(8).hex()}"
    listening = connection.listen(inbox, heard.put)
    connection.on_reconnect.append(heard.broken)
    try:
        yield inbox, heard
    finally:
        connection.on_reconnect.remove(heard.broken)
        await listening.stop()
