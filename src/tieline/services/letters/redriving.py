"""Sending dead letters again: each once, whatever interrupts it, to the agent that gave it up and nobody else.

For each page of letters, in this order: publish, tell the facts, remove the letters. A crash in between leaves letters
whose message was sent already. The next redrive finds that out: the id is made from the letter, so the server drops a
repeat for ten minutes; after that, a message that came back is still in its stream, or left its first attempt in the
journal. Whatever has left neither trace was never handled, and is sent again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import NotAccepted, Unconfirmed, first_of
from tieline.facts import Fact, LetterDropped, LetterRedriven
from tieline.records.reading import LATEST, MOST_ATTEMPTS, read_integer, read_origin, read_text, read_ttl
from tieline.runtime.bus import Bus, deadline_in
from tieline.services.letters.reading import STREAM, Letter, payload_of
from tieline.services.letters.target import Target, Targets
from tieline.wire.batches import store_together
from tieline.wire.connection import NoAnswer
from tieline.wire.feed import Feed
from tieline.wire.stored import remove

__all__ = ["LOOPS", "Order", "Tally", "drop", "redrive"]

LOOPS = 3  # deaths after which a message is not sent again without a person insisting

_PAGE = 500  # letters in one atomic batch; the server takes up to 1,000 messages
_PAGE_BYTES = 4 * 1024 * 1024
_REMEMBERED = 540.0  # seconds for which the server surely knows an id: its window is ten minutes
_AT_ONCE = 6  # pages: while the facts of one are collected, others are sent and removed
_MAX_WORDS, _MAX_TRACEBACK = 500, 2_000  # characters of a letter that its fact keeps
_MAX_READ = 100_000
_SINGLY = 64  # publishes at once, where a batch is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How to send again. ``rate`` is in letters a second. ``anew``: with a journal of its own, so that no step that is
    recorded is found. ``force``: although it died again and again, and to its original subject where it must be."""

    by: str
    reason: str = ""
    force: bool = False
    anew: bool = False
    to_subject: str | None = None
    rate: float | None = None
    limit: int | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the letters. ``again``: their message had been sent before, by a command that was interrupted.
    ``held``: how many are left where they are, by reason."""

    seen: int = 0
    done: int = 0
    again: int = 0
    held: Counter[str] = field(default_factory=Counter)
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # cause, agent, where to


@dataclass(frozen=True, slots=True)
class _Outgoing:
    letter: Letter
    target: Target
    payload: bytes
    headers: dict[str, str]


async def redrive(
    bus: Bus, letters: AsyncIterator[Letter], order: Order, progress: Callable[[Tally], None] = lambda _: None
) -> Tally:
    """Send letters again and remove them. ``progress`` is told after each page.

    Safe to cut off anywhere and to run again, and for two people at once. A letter that cannot be sent is counted as
    held, with the reason, and stays. Raises like `Publisher.publish` where the server stays away, and `Unconfirmed`
    where the facts cannot be stored.
    """
    redrive = _Redrive(bus, order)
    began = time.monotonic()
    one_by_one = order.rate is not None or order.limit is not None  # what is under way counts for neither yet
    room = asyncio.Semaphore(1 if one_by_one else _AT_ONCE)

    async def send(page: list[Letter]) -> None:
        try:
            await redrive.send(page)
            progress(redrive.tally)
            if order.rate is not None and not order.dry_run:
                await asyncio.sleep(began + redrive.tally.done / order.rate - time.monotonic())
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for page in _pages(letters, order, redrive.tally):
                await room.acquire()
                sending = group.create_task(send(page))
                if one_by_one:
                    await sending
    except BaseExceptionGroup as failed:
        raise first_of(failed) from None
    return redrive.tally


async def drop(bus: Bus, letters: AsyncIterator[Letter], order: Order, progress: Callable[[Tally], None]) -> Tally:
    """Remove letters for good. In this order: the fact, the letter; a crash in between tells it twice."""
    tally = Tally()
    async for page in _pages(letters, order, tally):
        tally.seen += len(page)
        tally.groups.update((letter.cause, letter.agent, "") for letter in page)
        if not order.dry_run:
            for letter in page:
                _tell(bus, LetterDropped(**_named(letter, order), subject=letter.subject))
            await bus.written()
            await remove(bus.connection, STREAM, [letter.seq for letter in page])
        tally.done += len(page)
        progress(tally)
    return tally


async def _pages(letters: AsyncIterator[Letter], order: Order, tally: Tally) -> AsyncIterator[list[Letter]]:
    """Pages of letters: smaller ones where a rate asks for it, so that they go evenly, until as many are done as the
    limit says."""
    most = _PAGE if order.rate is None else min(_PAGE, max(1, int(order.rate / 10)))
    page: list[Letter] = []
    size = 0
    async for letter in letters:
        left = most if order.limit is None else order.limit - tally.done
        if left <= 0:
            return
        page.append(letter)
        size += len(letter.payload)
        if len(page) >= min(most, left) or size >= _PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


class _Redrive:
    """One command's work."""

    def __init__(self, bus: Bus, order: Order) -> None:
        self.tally = Tally()
        self._bus = bus
        self._order = order
        self._targets = Targets(bus.connection, anywhere=order.to_subject, force=order.force)
        self._before: dict[str, frozenset[str]] = {}  # by target: ids of messages that were brought back there

    async def send(self, page: list[Letter]) -> None:
        """See the module's promise."""
        self.tally.seen += len(page)
        going = [outgoing for letter in page if (outgoing := await self._prepared(letter)) is not None]
        before = await self._sent_before(going)
        new = [outgoing for outgoing in going if outgoing.letter.seq not in before]
        if self._order.dry_run:
            refused: set[int] = set()
        else:
            refused = await self._publish(new)
        gone = [outgoing for outgoing in going if outgoing.letter.seq not in refused]
        if not self._order.dry_run:
            for outgoing in gone:
                named = _named(outgoing.letter, self._order)
                _tell(self._bus, LetterRedriven(**named, subject=outgoing.target.subject))
            await self._bus.written()
            await remove(self._bus.connection, STREAM, [outgoing.letter.seq for outgoing in gone])
        self.tally.done += len(gone)
        self.tally.again += len(before)
        self.tally.groups.update((o.letter.cause, o.letter.agent, o.target.subject) for o in gone)

    async def _prepared(self, letter: Letter) -> _Outgoing | None:
        if letter.deaths >= LOOPS and not self._order.force:
            self.tally.held[f"it died {LOOPS} times or more; --force sends it again all the same"] += 1
            return None
        target = await self._targets.of(letter)
        if isinstance(target, str):
            self.tally.held[target] += 1
            return None
        payload = await payload_of(self._bus.connection, letter)
        if payload is None:
            self.tally.held["its payload was too large to keep with its cause, and the message is gone"] += 1
            return None
        return _Outgoing(letter, target, payload, self._headers(letter, target))

    def _headers(self, letter: Letter, target: Target) -> dict[str, str]:
        """Who the message is stays; id, time to live and deadline are new, as long as the first ones were."""
        kept = names.carried(letter.headers)
        for name in (names.DEAD, names.DEADLINE, names.ORIGIN, names.SUBJECT, names.TRIED):
            kept.pop(name, None)
        kept |= {names.MSG_ID: letter.identity, names.REDRIVEN: str(letter.deaths)}
        if target.own:  # anywhere else it is a message like any
            kept |= {names.ORIGIN: letter.origin, names.SUBJECT: letter.subject, names.TRIED: str(_tried(letter))}
            if letter.edits:
                kept[names.EDITED] = str(letter.edits)
        if self._order.anew:
            kept[names.RUN] = letter.identity
        ttl = letter.told.get("ttl")
        if read_ttl(ttl) is not None:
            kept[names.TTL] = str(ttl)
        due = time.time() + (_allowed(letter) or LATEST)
        if due < LATEST:
            kept[names.DEADLINE] = datetime.fromtimestamp(due, UTC).isoformat(timespec="milliseconds")
        return kept

    async def _publish(self, going: Sequence[_Outgoing]) -> set[int]:
        """Publish, each stream's in one batch; the letters that were refused."""
        refused: set[int] = set()
        by_stream: dict[str, list[_Outgoing]] = {}
        for outgoing in going:
            whose = outgoing.letter.stream if outgoing.target.own else outgoing.target.subject
            by_stream.setdefault(whose, []).append(outgoing)
        for those in by_stream.values():
            try:
                together = [(o.target.subject, o.payload, o.headers) for o in those]
                if await store_together(self._bus.connection, together) is None:
                    continue
            except NoAnswer:
                pass  # some may be stored, or nobody listens: one by one it will be known of each
            singly = asyncio.Semaphore(_SINGLY)
            refused |= set().union(*await asyncio.gather(*(self._publish_one(one, singly) for one in those)))
        return refused

    async def _publish_one(self, outgoing: _Outgoing, singly: asyncio.Semaphore) -> set[int]:
        async with singly:
            try:
                ack = await self._bus.publisher.publish(outgoing.target.subject, outgoing.payload, outgoing.headers)
            except Unconfirmed:
                raise
            except NotAccepted as error:
                self.tally.held[str(error)] += 1
                return {outgoing.letter.seq}
        self.tally.again += ack.duplicate
        return set()

    async def _sent_before(self, going: Sequence[_Outgoing]) -> set[int]:
        """The letters whose message was brought back before the server's memory of ids begins."""
        old = [o for o in going if time.time() - o.letter.stored > _REMEMBERED]
        if not old:
            return set()
        found: set[int] = set()
        for target in {outgoing.target.subject for outgoing in old}:
            if target not in self._before:
                self._before[target] = await self._brought_back(target)
        found |= {o.letter.seq for o in old if o.headers[names.MSG_ID] in self._before[o.target.subject]}
        traces = {subject: o.letter for o in old if o.target.own for subject in _traces(o.letter)}
        for subject, record in (await self._bus.journal.glance(traces)).items():
            letter = traces[subject]
            done = subject.split(".")[3] == "over"
            if done or letter.edits <= (read_integer(record.get("edits")) or 0):  # it ran with this payload
                found.add(letter.seq)
        return found

    async def _brought_back(self, subject: str) -> frozenset[str]:
        """The ids of what was redriven to a subject, as far back as its stream remembers."""
        streams = (await self._bus.connection.api("STREAM.NAMES", {"subject": subject})).get("streams") or []
        if not streams:
            return frozenset()
        feed = Feed(self._bus.connection, streams[0], [subject], start=1, to_end=True, headers_only=True)
        return frozenset([d.headers.get(names.MSG_ID, "") async for d in feed if names.REDRIVEN in d.headers])


def _tell(bus: Bus, fact: Fact) -> None:
    bus.observe(lambda: fact)


def _named(letter: Letter, order: Order) -> dict[str, Any]:
    return {
        "conversation": letter.conversation or f"o-{letter.origin}",
        "by": order.by,
        "letter": letter.seq,
        "agent": letter.agent,
        "origin": letter.origin,
        "deaths": letter.deaths,
        "reason": order.reason,
        "died": letter.died,
        "attempt": _tried(letter),
        "cause": letter.cause,
        "words": read_text(letter.reason, _MAX_WORDS),
        "error": read_text(letter.told.get("error"), _MAX_WORDS),
        "traceback": read_text(letter.told.get("traceback"), _MAX_READ)[-_MAX_TRACEBACK:],
    }


def _tried(letter: Letter) -> int:
    """How many attempts are behind it."""
    number = read_integer(letter.told.get("attempt"), most=MOST_ATTEMPTS)
    return names.count_in(letter.headers, names.TRIED) if number is None else number


def _traces(letter: Letter) -> list[str]:
    """Where the journal has what a redriven message leaves: its first attempt's start, or that it is done."""
    conversation = letter.conversation
    runs = {letter.headers.get(names.RUN, ""), letter.identity}  # as before, and anew
    found = []
    for key in (digest(letter.origin, run) for run in runs):
        found.append(subjects.step(letter.agent, conversation, "attempt", f"{key}-{_tried(letter) + 1}"))
        found.append(subjects.step(letter.agent, conversation, "over", key))
    return found


def _allowed(letter: Letter) -> float | None:
    """How many seconds the work had from when its message was stored until its deadline; None where it had none."""
    due, origin = deadline_in(letter.headers), read_origin(letter.origin)
    return None if due is None or origin is None else max(1.0, due - origin.at)
