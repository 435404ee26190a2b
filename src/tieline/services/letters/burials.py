"""Which messages of a consumer DLQ has a letter of, read once and then kept up to date."""

from collections import deque
from datetime import UTC, datetime

from tieline import headers as names
from tieline import subjects
from tieline.records.dead_letters import read_dead_letter
from tieline.services.letters.reading import STREAM
from tieline.wire.connection import Connection
from tieline.wire.feed import Feed

__all__ = ["Burials"]

_BEFORE = 3_600.0  # seconds that a letter may be older than the death it tells of, by differing clocks
_MOST = 100_000  # letters remembered of one consumer


class Burials:
    """Answers whether there is a letter, without reading any letter twice.

    A service that starts with a long history of advisories asks about each of them. Read for each, DLQ would be read as
    often as there are advisories. Of each consumer the newest letters are remembered.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read: dict[str, _Read] = {}

    async def has(self, consumer: str, stream: str, seq: int, died: float) -> bool:
        """Whether DLQ has a letter of this message by this consumer, which gave it up at ``died``."""
        read = self._read.get(consumer)
        if read is None or died < read.since:
            read = self._read[consumer] = _Read(died)
        if (stream, seq) not in read.messages:
            await self._read_on(consumer, read)
        return (stream, seq) in read.messages

    async def _read_on(self, consumer: str, read: "_Read") -> None:
        since = datetime.fromtimestamp(max(1.0, read.since - _BEFORE), UTC)
        start = since if read.upto is None else read.upto + 1
        pattern = subjects.dead_letter(consumer, "*", ">")
        async for letter in Feed(self._connection, STREAM, [pattern], start=start, to_end=True, headers_only=True):
            told = read_dead_letter(letter.headers.get(names.DEAD)) or {}
            read.upto = letter.seq
            read.remember((str(told.get("stream")), told.get("seq") or 0))


class _Read:
    """What was read of one consumer's letters: those since ``since``, up to the sequence ``upto`` in DLQ."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.upto: int | None = None
        self.messages: set[tuple[str, int]] = set()
        self._order: deque[tuple[str, int]] = deque()

    def remember(self, message: tuple[str, int]) -> None:
        if message not in self.messages:
            self.messages.add(message)
            self._order.append(message)
        if len(self._order) > _MOST:
            self.messages.discard(self._order.popleft())
