"""Dead letters as data, and finding them: the server counts, and only what is shown is read."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.records.dead_letters import read_dead_letter
from tieline.records.reading import read_integer, read_name, read_time
from tieline.wire.connection import ApiError, Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed, pending
from tieline.wire.journal import Record
from tieline.wire.stored import Stored, stored_message

__all__ = [
    "STREAM",
    "Group",
    "Letter",
    "Listing",
    "Selection",
    "counted",
    "letters",
    "listed",
    "numbered",
    "payload_of",
]

STREAM = "DLQ"

_PAGE = 100_000  # subjects in one answer of the server
_STREAM_MISSING = 10059


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. ``seq`` is its sequence in DLQ, by which people call it; times are in seconds since 1970.

    ``told`` is what it says it died of (`Tieline-Dead`); empty where somebody else put it there, or where it cannot be
    read. The payload is empty where only headers were read.
    """

    seq: int
    stored: float
    stored_as: str
    payload: bytes
    headers: Mapping[str, str]
    told: Record

    @classmethod
    def of(cls, found: Delivery | Stored) -> "Letter":
        """The letter in a message of DLQ."""
        told = read_dead_letter(found.headers.get(names.DEAD)) or {}
        if isinstance(found, Stored):
            return cls(found.seq, found.at, found.subject, found.payload, found.headers, told)
        return cls(found.seq, found.stored, found.stored_as, found.payload, found.headers, told)

    @property
    def agent(self) -> str:
        """Who gave it up: an agent, ``tool-<name>``, or a consumer that is not Tieline's."""
        return subjects.dead_letter_parts(self.stored_as)[0]

    @property
    def cause(self) -> str:
        """In a word."""
        return subjects.dead_letter_parts(self.stored_as)[1]

    @property
    def subject(self) -> str:
        """Where the message was published to first."""
        return subjects.dead_letter_parts(self.stored_as)[2]

    @property
    def is_readable(self) -> bool:
        """Whether it says what it died of, or does not try to."""
        return names.DEAD not in self.headers or read_dead_letter(self.headers[names.DEAD]) is not None

    @property
    def stream(self) -> str:
        """The stream that its message came from; empty where it does not say so."""
        return read_name(self.told.get("stream")) or ""

    @property
    def reason(self) -> str:
        """The cause in words."""
        return str(self.told.get("reason", ""))

    @property
    def died(self) -> float:
        """When."""
        return read_time(self.told.get("at")) or self.stored

    @property
    def origin(self) -> str:
        """Who the message is."""
        return str(self.told.get("origin") or self.headers.get(names.ORIGIN) or f"{STREAM}-{self.seq}")

    @property
    def conversation(self) -> str:
        """The conversation's id; its token where only that is known."""
        token = self.headers.get(names.CONVERSATION, "")
        name = unquote(self.headers.get(names.CONVERSATION_NAME, ""), errors="replace")
        return name if name and subjects.token(name) == token else subjects.named_by(token) or token

    @property
    def deaths(self) -> int:
        """How often the message has died."""
        return 1 + names.count_in(self.headers, names.REDRIVEN)

    @property
    def identity(self) -> str:
        """This death of this message for this agent: what is sent again once, however many letters tell of it.

        A letter that people edited is another one: what an interrupted redrive sent had the old payload.
        """
        edited = (f"edited {self.edits}",) if self.edits else ()
        return digest("redrive", self.agent, self.origin, self.headers.get(names.RUN, ""), str(self.deaths), *edited)

    @property
    def edits(self) -> int:
        """How often people changed its payload, in this life and those before."""
        edits = self.told.get("edits")
        return names.count_in(self.headers, names.EDITED) + (len(edits) if isinstance(edits, list) else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which letters. ``subject`` may have wildcards; ``since`` and ``until`` are about when they died."""

    agent: str | None = None
    cause: str | None = None
    subject: str | None = None
    conversation: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def filter(self) -> str:
        """What the server can choose by."""
        return subjects.dead_letter(self.agent or "*", self.cause or "*", self.subject or ">")

    def takes(self, found: Delivery) -> bool:
        """Whether a letter that the server chose is meant."""
        if self.until is not None and found.stored >= self.until.timestamp():
            return False
        return self.conversation is None or found.headers.get(names.CONVERSATION) == subjects.token(self.conversation)


@dataclass(frozen=True, slots=True)
class Group:
    """How many letters of one agent have one cause, and their subjects, the most frequent first."""

    cause: str
    agent: str
    count: int
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """The letters of a selection: counted, and the newest of them."""

    groups: tuple[Group, ...]
    newest: tuple[Letter, ...]

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(group.count for group in self.groups)


async def listed(connection: Connection, selection: Selection, limit: int) -> Listing:
    """The groups, the largest first, and the newest ``limit`` letters without their payloads. Raises like `Feed`.

    A conversation is found by reading the headers of all; everything else by what the server counts.
    """
    if selection.conversation is not None:
        return await _read_through(connection, selection, limit)
    groups = await counted(connection, selection)
    return Listing(groups, await _newest(connection, selection, limit) if groups and limit else ())


async def counted(connection: Connection, selection: Selection) -> tuple[Group, ...]:
    """How many letters the server counts, by cause and agent, the largest group first; whatever the conversation."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for stored_as, count in (await _subjects(connection, selection.filter)).items():
        agent, cause, original = subjects.dead_letter_parts(stored_as)
        counts.setdefault((cause, agent), Counter())[original] += count
    totals = {key: found.total() for key, found in counts.items()}
    if selection.since is not None or selection.until is not None:
        asked = (_died_within(connection, selection, agent, cause) for cause, agent in counts)
        totals = dict(zip(counts, await asyncio.gather(*asked), strict=True))
    found = [
        Group(cause, agent, totals[cause, agent], tuple(name for name, _ in by_subject.most_common()))
        for (cause, agent), by_subject in counts.items()
        if totals[cause, agent]
    ]
    return tuple(sorted(found, key=lambda group: (-group.count, group.cause, group.agent)))


async def letters(connection: Connection, selection: Selection, *, headers_only: bool = False) -> AsyncIterator[Letter]:
    """The letters that are there now, oldest first; none that comes meanwhile, such as of what was sent again.

    Raises like `Feed`.
    """
    last = await _last(connection)
    start = 1 if selection.since is None else selection.since
    feed = Feed(connection, STREAM, [selection.filter], start=start, to_end=True, headers_only=headers_only)
    async for delivery in feed:
        if delivery.seq > last:
            return
        if selection.takes(delivery):
            letter = Letter.of(delivery)
            if not letter.is_readable:
                connection.unreadable.skip("dead letter", delivery.stored_as, STREAM, delivery.seq)
            yield letter


async def payload_of(connection: Connection, letter: Letter) -> bytes | None:
    """The message's payload, also where it was too large to keep with its cause; None where that message is gone."""
    if "payload" not in letter.told:
        return letter.payload
    seq = read_integer(letter.told.get("seq"), least=1)
    original = None if seq is None or not letter.stream else await stored_message(connection, letter.stream, seq)
    return None if original is None else original.payload


async def numbered(connection: Connection, seqs: Iterable[int]) -> list[Letter]:
    """The letters with these sequences, in this order, without those that are gone."""
    found = await asyncio.gather(*(stored_message(connection, STREAM, seq) for seq in dict.fromkeys(seqs)))
    return [Letter.of(message) for message in found if message is not None]


async def _subjects(connection: Connection, pattern: str) -> dict[str, int]:
    found: dict[str, int] = {}
    offset = 0
    while True:
        try:
            info = await connection.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": pattern, "offset": offset})
        except ApiError as error:
            if error.err_code == _STREAM_MISSING:
                return {}
            raise
        page: dict[str, int] = info["state"].get("subjects") or {}
        found |= page
        offset += len(page)
        if len(page) < _PAGE and offset >= int(info.get("total", 0)):
            return found


async def _last(connection: Connection) -> int:
    return int((await connection.api(f"STREAM.INFO.{STREAM}"))["state"]["last_seq"])


async def _died_within(connection: Connection, selection: Selection, agent: str, cause: str) -> int:
    pattern = subjects.dead_letter(agent, cause, selection.subject or ">")
    count, _ = await pending(connection, STREAM, pattern, selection.since)
    if selection.until is not None and selection.until.timestamp() < time.time():
        count -= (await pending(connection, STREAM, pattern, max(selection.until, selection.since or selection.until)))[
            0
        ]
    return count


async def _newest(connection: Connection, selection: Selection, limit: int) -> tuple[Letter, ...]:
    """Look back from the end in growing steps until the server counts enough, then read from there."""
    pattern, beyond = selection.filter, 0
    last = await _last(connection)
    if selection.until is not None and selection.until.timestamp() < time.time():
        beyond, last = await pending(connection, STREAM, pattern, selection.until)
    step, start = limit, last
    while start > 1:
        start = max(1, last - step + 1)
        if (await pending(connection, STREAM, pattern, start))[0] - beyond >= limit:
            break
        step *= 4
    newest: deque[Letter] = deque(maxlen=limit)
    async for delivery in Feed(connection, STREAM, [pattern], start=max(1, start), to_end=True, headers_only=True):
        if delivery.seq > last:
            break
        if selection.since is None or delivery.stored >= selection.since.timestamp():
            newest.append(Letter.of(delivery))
    return tuple(reversed(newest))


async def _read_through(connection: Connection, selection: Selection, limit: int) -> Listing:
    newest: deque[Letter] = deque(maxlen=limit)
    counts: dict[tuple[str, str], Counter[str]] = {}
    async for letter in letters(connection, selection, headers_only=True):
        newest.append(letter)
        counts.setdefault((letter.cause, letter.agent), Counter())[letter.subject] += 1
    groups = [
        Group(cause, agent, found.total(), tuple(name for name, _ in found.most_common()))
        for (cause, agent), found in counts.items()
    ]
    return Listing(tuple(sorted(groups, key=lambda group: -group.count)), tuple(reversed(newest)))
