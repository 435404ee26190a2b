"""`Feed`: what a stream holds and will hold, in order and without gaps, for readers that settle nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from tieline.errors import ConsumerGone, NotApplied
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery
from tieline.wire.temporary_consumer import TemporaryConsumer

__all__ = ["Feed", "pending"]

_BATCH = 256
_PAUSE = 0.5
_LOOK = 1.0  # seconds without a message, after which one that reads to the end looks whether there is one still
_STREAM_MISSING = 10059
_PLACES = 12  # consumers created until one is on the server of the stream's leader; the server chooses where


class Feed:
    """An asynchronous iterator of deliveries that need no answer. Heals itself: it continues after the last one read.

    Each iteration reads through a consumer of its own on the server. However the iteration ends (the end of the stream,
    ``break``, an exception, cancellation), that consumer is deleted in the background: see `TemporaryConsumer`.
    Raises `Unreachable` when the connection is closed and `NotApplied` when the stream does not exist.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        filters: Sequence[str],
        *,
        start: int | datetime | None = None,
        to_end: bool = False,
        headers_only: bool = False,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._filters = list(filters)
        self._start = start
        self._to_end = to_end
        self._headers_only = headers_only
        self._last: int | None = None  # sequence of the last message given out, or before the first that may be
        self._pending = 0  # messages still to come when the consumer was made
        self._consumer: PullConsumer | None = None  # that is read now
        self._processed = 0  # how many of its deliveries the caller has taken, and asked for the next

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            temporary = await self._create()
            consumer = PullConsumer(self._connection, self._stream, temporary.name, acked=False)
            expected = 1
            self._consumer, self._processed = consumer, 0
            try:
                if self._to_end and not self._pending:
                    return
                while (batch := await self._next(consumer, expected)) is not None:
                    for delivery in batch:
                        if delivery.nth != expected:
                            break  # one was lost on the way: read again from the last one
                        expected += 1
                        self._last = delivery.seq
                        yield delivery
                        self._processed = delivery.nth
                        if self._to_end and not delivery.left:
                            return
                    else:
                        if batch:
                            continue
                    break
                else:
                    return
            except ConsumerGone:
                await asyncio.sleep(_PAUSE)  # the server restarted: it keeps no memory of feeds
            finally:
                try:
                    await consumer.close()
                finally:
                    temporary.discard()

    async def _next(self, consumer: PullConsumer, expected: int) -> list[Delivery] | None:
        """What comes next; None where nothing will, because what was still to come has been deleted meanwhile. Empty
        where some was lost on the way."""
        suspect = False
        while True:
            try:
                async with asyncio.timeout(_LOOK if self._to_end else None):
                    return await consumer.fetch(_BATCH)
            except TimeoutError:
                if suspect:
                    return []
            with suppress(ApiError, NoAnswer):
                info = await self._connection.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.durable}")
                if not info["num_pending"] and int(info["delivered"]["consumer_seq"]) < expected:
                    return None
                suspect = not info["num_pending"]  # delivered, and not here: it may be on its way

    async def has_caught_up(self, leader: str | None) -> bool:
        """Whether the caller has processed everything that the stream held before this call. ``leader`` is the server
        that leads the stream (None: no cluster): a consumer elsewhere may not have seen the last messages yet, and is
        replaced by another one."""
        consumer = self._consumer
        if consumer is None:
            return False
        try:
            info = await self._connection.api(f"CONSUMER.INFO.{self._stream}.{consumer.durable}")
        except (ApiError, NoAnswer):
            return False  # it was just lost; the next one comes
        if (info.get("cluster") or {}).get("leader") not in (None, leader):
            consumer.break_off()
            return False
        if consumer is not self._consumer or info["num_pending"]:
            return False
        return int(info["delivered"]["consumer_seq"]) <= self._processed

    async def position(self) -> tuple[int, int]:
        """How many messages there are to read now, and the sequence before the first that may be one."""
        (await self._create()).discard()
        return self._pending, self._last or 0

    async def _create(self) -> TemporaryConsumer:
        """A consumer on the server of the stream's leader. Those that came to be elsewhere are discarded."""
        tries = 0
        while True:
            tries += 1
            temporary = TemporaryConsumer(self._connection, self._stream, self._config())
            try:
                answer = await self._created(temporary)
                if tries > _PLACES or await self._leads(answer):
                    break
            except BaseException:
                temporary.discard()
                raise
            temporary.discard()
        self._pending = int(answer.get("num_pending", 0))
        # Where it begins, should the server die before the first message: "from now on" is from now, not from then.
        self._last = max(self._last or 0, int(answer["delivered"]["stream_seq"]))
        return temporary

    async def _created(self, temporary: TemporaryConsumer) -> dict[str, Any]:
        """What the server says about the new consumer. Raises like `Feed`."""
        while True:
            try:
                return await temporary.create()
            except NoAnswer:
                await asyncio.sleep(_PAUSE)
            except ApiError as error:
                if error.err_code == _STREAM_MISSING:
                    raise NotApplied(f"stream {self._stream} does not exist; `tieline apply` makes it") from error
                raise NotApplied(f"stream {self._stream} cannot be read: {error}") from error

    def _config(self) -> dict[str, Any]:
        return {
            "ack_policy": "none",
            "filter_subjects": self._filters,
            "mem_storage": True,
            "num_replicas": 1,
            "headers_only": self._headers_only,
            **self._position(),
        }

    async def _leads(self, answer: dict[str, Any]) -> bool:
        """Whether the consumer was put where the stream's leader is. On another server it sees what that one has: one
        that was just restarted may have nothing yet, and says so without an error."""
        where = (answer.get("cluster") or {}).get("leader")
        if not where:
            return True  # no cluster
        try:
            info = await self._connection.api(f"STREAM.INFO.{self._stream}")
        except (ApiError, NoAnswer):
            return True  # nobody leads now, or we may not ask
        return (info.get("cluster") or {}).get("leader") in (where, None)

    def _position(self) -> dict[str, Any]:
        if self._last is not None:
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last + 1}
        match self._start:
            case int(seq):
                return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, seq)}
            case datetime() as when:
                return {"deliver_policy": "by_start_time", "opt_start_time": when.astimezone().isoformat()}
            case None:
                return {"deliver_policy": "new"}


async def pending(
    connection: Connection, stream: str, subject: str, start: int | datetime | None = None
) -> tuple[int, int]:
    """How many messages a stream holds on a filter from ``start`` on (None: from the first), and the sequence before.

    The server counts; nothing is read. Raises like `Feed`.
    """
    feed = Feed(connection, stream, [subject], start=1 if start is None else start)
    return await feed.position()
