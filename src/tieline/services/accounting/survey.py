"""`survey`: what the server says of streams and consumers, in an order from which conclusions can be drawn.

1. The last sequence of each stream that is consumed.
2. What its consumers owe. What they have passed was recorded before: an agent acknowledges a message after the record
   of its end is stored.
3. The last sequence of every stream, those with the records too. A reader that has passed them knows of every
   record that may explain what the consumers have passed.
4. When the readers are there: what the consumers owe, again. If nothing moved, the server's count is comparable.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tieline.records.checkpoint import Position
from tieline.records.reading import read_timestamp
from tieline.services.accounting.books import Floors, Hold
from tieline.wire.connection import ApiError, Connection

__all__ = ["RECORDS", "StreamView", "Survey", "floors_after", "stream_view", "survey"]

RECORDS = ("CALL_AUDIT", "DLQ", "STEP", "SCHEDULE")
_NANO = 1_000_000_000
_CONSUMER_MISSING = 10014
_STREAM_MISSING = 10059

type Consumers = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream as the server describes it. Times are in seconds since 1970; ``now`` is the server's."""

    name: str
    created: float
    first_seq: int
    first_at: float
    last_seq: int
    messages: int
    deleted: int
    max_age: float | None
    now: float
    leader: str | None

    @property
    def life(self) -> float:
        """When its sequences began; 0 where that is unknown, because it holds messages that are older than itself: it
        was restored from a backup."""
        return 0.0 if self.messages and self.first_at < self.created else self.created

    def continues(self, place: Position) -> bool:
        """Whether this is the stream that was read up to ``place``, or that stream restored from a backup."""
        return self.created == place.created or (self.last_seq >= place.seq > 0 and not (self.life and self.messages))


@dataclass(frozen=True, slots=True)
class Survey:
    """Streams as they were before the consumers were asked (``before``) and after, and the consumers by stream and
    name. A consumer that is not there is missing."""

    before: Mapping[str, StreamView]
    streams: Mapping[str, StreamView]
    consumers: Consumers


async def survey(connection: Connection, holds: Iterable[Hold], sources: Sequence[str]) -> Survey:
    """Steps 1 to 3. Raises `NoAnswer` where the server does not answer, and `ApiError` where a stream is missing."""
    before = await _views(connection, sources)
    consumers = await _consumers(connection, holds)
    return Survey(before, await _views(connection, dict.fromkeys((*sources, *RECORDS))), consumers)


async def floors_after(
    connection: Connection, holds: Iterable[Hold], seen: Survey
) -> tuple[dict[tuple[str, str], Floors], Consumers]:
    """Step 4: for each agent and stream what its consumers owe as of the survey, and the consumers as they are now."""
    wanted = list(holds)
    again = await _consumers(connection, wanted)
    floors: dict[tuple[str, str], Floors] = {}
    for hold in wanted:
        keys = dict.fromkeys(((hold.stream, hold.durable), (hold.stream, hold.copies)))
        infos = [seen.consumers[key] for key in keys if key in seen.consumers]
        if not infos:
            continue
        before, after = seen.before[hold.stream], seen.streams[hold.stream]
        main = seen.consumers.get((hold.stream, hold.durable))
        copies = seen.consumers.get((hold.stream, hold.copies), main)
        quiet = before.last_seq == after.last_seq and all(
            _progress(seen.consumers.get(key)) == _progress(again.get(key)) for key in keys
        )
        floors[hold.stream, hold.agent] = Floors(
            floor=_floor(main, before),
            copies_floor=_floor(copies, before),
            at_server=sum(info["num_pending"] + info["num_ack_pending"] for info in infos) if quiet else None,
        )
    return floors, again


async def stream_view(connection: Connection, stream: str) -> StreamView:
    """One stream, as its leader describes it."""
    info = await connection.api(f"STREAM.INFO.{stream}")
    state, config = info["state"], info["config"]
    return StreamView(
        name=stream,
        created=read_timestamp(info["created"]) or 0.0,
        first_seq=int(state["first_seq"]),
        first_at=max(0.0, read_timestamp(state["first_ts"]) or 0.0),
        last_seq=int(state["last_seq"]),
        messages=int(state["messages"]),
        deleted=int(state.get("num_deleted", 0)),
        max_age=config["max_age"] / _NANO if config.get("max_age") else None,
        now=read_timestamp(info.get("ts")) or time.time(),
        leader=(info.get("cluster") or {}).get("leader"),
    )


async def _views(connection: Connection, streams: Iterable[str]) -> dict[str, StreamView]:
    views = await asyncio.gather(*(stream_view(connection, stream) for stream in streams))
    return {view.name: view for view in views}


async def _consumers(connection: Connection, holds: Iterable[Hold]) -> Consumers:
    keys = dict.fromkeys(key for hold in holds for key in ((hold.stream, hold.durable), (hold.stream, hold.copies)))

    async def info(stream: str, durable: str) -> dict[str, Any] | None:
        try:
            return await connection.api(f"CONSUMER.INFO.{stream}.{durable}")
        except ApiError as error:
            if error.err_code in (_CONSUMER_MISSING, _STREAM_MISSING):
                return None
            raise

    infos = await asyncio.gather(*(info(*key) for key in keys))
    return {key: info for key, info in zip(keys, infos, strict=True) if info is not None}


def _floor(info: dict[str, Any] | None, stream: StreamView) -> int:
    """The sequence up to which a consumer owes nothing, of all that the stream held before it was asked."""
    if info is None:
        return 0
    if info["num_ack_pending"]:
        return int(info["ack_floor"]["stream_seq"])
    delivered = int(info["delivered"]["stream_seq"])
    # A consumer on another server than the stream's leader may not have its last messages yet.
    together = (info.get("cluster") or {}).get("leader") in (None, stream.leader)
    return max(delivered, stream.last_seq) if together and not info["num_pending"] else delivered


def _progress(info: dict[str, Any] | None) -> tuple[Any, ...] | None:
    if info is None:
        return None
    return info["delivered"], info["ack_floor"], info["num_pending"], info["num_ack_pending"]
