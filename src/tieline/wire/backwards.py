"""Reading a long stream from its end: its newest messages first, page by page, and no further than needed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from tieline.errors import NotApplied
from tieline.wire.connection import ApiError, Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed, pending

__all__ = ["Page", "newest_from", "read_backwards"]

_STREAM_MISSING = 10059
_FIRST_PAGE = 1_000  # sequences; each further page has twice as many
_LARGEST_PAGE = 50_000


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages, the newest first, without their payloads. ``left_at``: on the last page, when the oldest of them
    was stored, if the stream has more that were not read (in seconds since 1970)."""

    newest_first: tuple[Delivery, ...]
    left_at: float | None = None


async def read_backwards(
    connection: Connection, stream: str, pattern: str, most: int, *, since: datetime | None = None
) -> AsyncIterator[Page]:
    """The newest messages on a subject filter, until ``most`` of them or ``since``, those stored meanwhile left out.

    Raises like `Feed`.
    """
    first, last = await _ends(connection, stream)
    if since is not None:
        count, before = await pending(connection, stream, pattern, since)
        if not count:
            return
        first = max(first, before + 1)
    size, read = _FIRST_PAGE, 0
    while last >= first:
        start = max(first, last - size + 1)
        page: list[Delivery] = []
        async for delivery in Feed(connection, stream, [pattern], start=start, to_end=True, headers_only=True):
            if delivery.seq > last:
                break
            page.append(delivery)
        read += len(page)
        page.reverse()
        last, size = start - 1, min(size * 2, _LARGEST_PAGE)
        ended = read >= most and last >= first
        yield Page(tuple(page), page[-1].stored if ended and page else None)
        if ended:
            return


async def newest_from(connection: Connection, stream: str, pattern: str, wanted: int) -> int:
    """The sequence to read from, so that about the ``wanted`` newest messages on a subject filter are read: no fewer if
    there are so many, and less than eight times as many. 1 if there are no more than ``wanted``.

    The server counts; nothing is read. Raises like `Feed`.
    """
    if (await pending(connection, stream, pattern))[0] <= wanted:
        return 1
    first, last = await _ends(connection, stream)
    distance = wanted
    while last - distance > first:
        if (await pending(connection, stream, pattern, last - distance))[0] >= wanted:
            return last - distance
        distance *= 2
    return 1


async def _ends(connection: Connection, stream: str) -> tuple[int, int]:
    try:
        state = (await connection.api(f"STREAM.INFO.{stream}"))["state"]
    except ApiError as error:
        if error.err_code == _STREAM_MISSING:
            raise NotApplied(f"stream {stream} does not exist; `tieline apply` makes it") from error
        raise
    return int(state["first_seq"]), int(state["last_seq"])
