"""Reading single messages of any stream by their sequence, whoever made the stream, and removing them."""

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tieline.records.reading import read_digits, read_header, read_timestamp
from tieline.wire.connection import ApiError, Connection, Received, headers_of
from tieline.wire.parsing import escape_subject

__all__ = ["Stored", "newest_message", "newest_messages", "remove", "stored_message"]

_MISSING = frozenset({10037, 10059, 10043})  # no such message; no such stream; it was deleted
_AT_ONCE = 500
_HEADER = re.compile(r"[!-9;-~]+\Z")  # what can be sent as a header's name


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it. ``at`` is when it was stored, in seconds since 1970."""

    subject: str
    seq: int
    payload: bytes
    headers: Mapping[str, str]
    at: float


async def newest_message(connection: Connection, stream: str, pattern: str) -> Stored | None:
    """The newest message on a subject filter, as the stream's leader has it; None where there is none."""
    return await _message(connection, stream, {"last_by_subj": pattern})


async def stored_message(connection: Connection, stream: str, seq: int, pattern: str | None = None) -> Stored | None:
    """The message, as the stream's leader has it; None where it, or the stream, is not there (any more).

    With a ``pattern``: the first message on such a subject from ``seq`` on.
    """
    return await _message(
        connection, stream, {"seq": seq} if pattern is None else {"seq": seq, "next_by_subj": pattern}
    )


async def _message(connection: Connection, stream: str, body: Mapping[str, Any]) -> Stored | None:
    try:
        message: dict[str, Any] = (await connection.api(f"STREAM.MSG.GET.{stream}", body))["message"]
    except ApiError as error:
        if error.err_code in _MISSING:
            return None
        raise
    return Stored(
        subject=escape_subject(str(message["subject"]).encode()).decode(),
        seq=int(message["seq"]),
        payload=base64.b64decode(message.get("data") or ""),
        headers=_headers(base64.b64decode(message.get("hdrs") or "")),
        at=datetime.fromisoformat(message["time"]).timestamp(),
    )


async def newest_messages(connection: Connection, stream: str, wanted: Sequence[str]) -> dict[str, Stored]:
    """The newest message on each of the ``wanted`` subjects that has one, as one of the stream's replicas has it.
    `NoAnswer` if none answers."""
    found: dict[str, Stored] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        page = list(dict.fromkeys(wanted[start : start + _AT_ONCE]))
        body = json.dumps({"multi_last": page, "batch": len(page)}).encode()
        for reply in await connection.request_all(f"$JS.API.DIRECT.GET.{stream}", body):
            if reply.status is None:
                message = _delivered(reply)
                found[message.subject] = message
    return found


def _delivered(reply: Received) -> Stored:
    told = headers_of(reply)
    at = read_timestamp(told.get("Nats-Time-Stamp")) or 0.0
    seq = read_digits(told.get("Nats-Sequence")) or 0
    return Stored(told.get("Nats-Subject", ""), seq, reply.payload, told, at)


async def remove(connection: Connection, stream: str, seqs: Iterable[int]) -> None:
    """Remove messages for good; those that are gone already are no error."""
    remaining = list(seqs)
    for start in range(0, len(remaining), _AT_ONCE):
        await asyncio.gather(*(_remove_one(connection, stream, seq) for seq in remaining[start : start + _AT_ONCE]))


async def _remove_one(connection: Connection, stream: str, seq: int) -> None:
    try:
        await connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    except ApiError as error:
        if error.err_code not in _MISSING:
            raise


def _headers(block: bytes) -> dict[str, str]:
    """The first value of each name in a header block, as a delivery has it."""
    found: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        try:
            key, text = name.decode("ascii").strip(), value.decode().strip(" \t")
        except UnicodeDecodeError:
            continue  # as the client library does
        if colon and _HEADER.match(key):
            found.setdefault(key, read_header(text))
    return found
