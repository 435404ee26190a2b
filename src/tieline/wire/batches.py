"""Atomic batches: messages that one stream stores all or none of, with one fsync (ADR-50)."""

import asyncio
import os
from collections.abc import Mapping, Sequence

from tieline.records.reading import read_integer, read_object
from tieline.wire.connection import ApiError, Connection, NoAnswer, Received

__all__ = ["Outgoing", "store_together"]

type Outgoing = tuple[str, bytes, Mapping[str, str]]


async def store_together(connection: Connection, messages: Sequence[Outgoing]) -> ApiError | None:
    """Store subjects, payloads and headers, all or none; at most 1,000. The server's words where it refuses.

    It refuses also where an id among them was stored before. `NoAnswer` where it did not say: they may be stored.
    """
    if len(messages) == 1:
        return _refusal(await connection.request(*messages[0]))
    batch = os.urandom(12).hex()
    numbered = [
        (subject, payload, {**headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
        for number, (subject, payload, headers) in enumerate(messages, 1)
    ]
    numbered[-1][2]["Nats-Batch-Commit"] = "1"
    # The answer to the first comes while the others go out: after a no they are dropped, and the last is a no too.
    replies = await asyncio.gather(connection.request(*numbered[0]), _commit(connection, numbered[1:]))
    return _refusal(replies[0], begins=True) or _refusal(replies[1])


async def _commit(connection: Connection, numbered: list[tuple[str, bytes, dict[str, str]]]) -> Received:
    """The answer to the last of a batch, after all others were sent."""
    for subject, payload, headers in numbered[:-1]:
        await connection.send(subject, payload, headers)
    return await connection.request(*numbered[-1])


def _refusal(reply: Received, *, begins: bool = False) -> ApiError | None:
    """The server's no; None where it stored what it was sent. ``begins``: the first of several is answered by nothing.

    `NoAnswer` for an answer that is not a stream's: whether the messages are stored is not known.
    """
    if begins and not reply.payload:
        return None
    answer = read_object(reply.payload) or {}
    error = answer.get("error")
    if isinstance(error, dict):
        return ApiError(error)
    if read_integer(answer.get("seq"), least=1) is None or not isinstance(answer.get("stream"), str):
        raise NoAnswer("somebody other than a stream answered")
    return None
