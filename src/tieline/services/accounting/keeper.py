"""`Keeper`: keeps the books of a pod: opens them where the newest checkpoint left off, reads on, and judges."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tieline.errors import BadPayload, NotApplied, first_of
from tieline.pod import Pod
from tieline.records.checkpoint import Checkpoint, Position
from tieline.records.reading import read_integer, read_timestamp
from tieline.services.accounting.account import Account
from tieline.services.accounting.books import Books, Floors, Hold, StreamLook
from tieline.services.accounting.checkpoints import STREAM, Checkpoints
from tieline.services.accounting.readers import Readers
from tieline.services.accounting.survey import RECORDS, StreamView, Survey, floors_after, stream_view, survey
from tieline.services.ledger import Row
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.topology import consumers_of

__all__ = ["Keeper", "Restored", "count_now", "holds_of"]

log = logging.getLogger("tieline.accountant")

_STREAM_MISSING = 10059
_SAME_APPLY = 60.0  # seconds between the first and the last stream that one `tieline apply` creates, at most
_SHRUNK = 3  # looks in a row at which a stream has less than was read of it, until that is believed
_MOST_DELETED = 50_000  # deleted messages of one stream that the server is asked to name


class Restored(Exception):
    """A stream holds less than was read of it: it was restored from a backup. The books must be kept from scratch."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """Up to where a consumer has handed out messages, and whether one of them is not acknowledged."""

    delivered: int
    waits: bool

    def may_hold(self, seq: int) -> bool:
        return self.waits and seq <= self.delivered


class Keeper:
    """The books of one pod, kept by readers in a task group. Start with `open`, then `look` as often as needed."""

    def __init__(self, connection: Connection, pod: Pod, readers: Readers) -> None:
        self._connection = connection
        self._pod = pod.name
        self._holds = holds_of(pod)
        self.checkpoints = Checkpoints(connection, pod.name)
        self.books = Books(self._holds, 0.0)
        self.readers = readers
        self.in_hand: dict[tuple[str, str], range] = {}  # the sequences that an agent's processes may be handling
        self.ages: dict[str, float | None] = {}  # the max_age of each stream
        self.is_open = False
        self.rows: list[Row] | None = None  # as of the last look
        self._lock = asyncio.Lock()
        self._shrunk = 0
        self._unborn: list[Hold] = []
        self._gone: dict[str, tuple[int, int]] = {}  # what of each stream was gone when that was last looked at

    async def open(self, *, create: bool, scratch: bool = False) -> None:
        """Load the newest checkpoint and start reading from there; without one, from the oldest message still stored.

        ``create`` the stream of checkpoints where it is missing. ``scratch``: do not use a checkpoint. Raises
        `NotApplied` where a stream of the pod is missing, and `NoAnswer`.
        """
        kept = await self._view(STREAM)
        if kept is None and create:
            await self.checkpoints.ensure_stream()
            kept = await self._view(STREAM)
        views = {name: await self._view_or_raise(name) for name in dict.fromkeys((*self.books.streams, *RECORDS))}
        checkpoint = None if kept is None else await self._load(views, scratch)
        if checkpoint is None:
            self._begin(kept, views)
        else:
            self.books = Books.of(checkpoint, self._holds)
            self._go_on(views)
        self.readers.books = self.books
        for name in views:
            self.readers.start(name)
        new = self._holds if checkpoint is None else self.books.new_holds(checkpoint)
        self._unborn = [hold for hold in new if hold.chooses_start]
        for hold in [] if checkpoint is None else new:
            self.readers.backfill(hold, self.books.positions[hold.stream].seq)
        self.is_open = True

    async def look(self) -> list[Row]:
        """Read everything that is recorded now, judge what the consumers have passed, and return the rows.

        Raises `NoAnswer` and `ApiError` where the server does not say, and `Restored`.
        """
        async with self._lock:
            ahead = self.books.ahead()
            seen = await self._surveyed()
            await self.readers.have_passed(seen.streams)
            self.books.believe({name: view.last_seq for name, view in seen.streams.items()}, ahead)
            self._note_starts(seen)
            floors, consumers = await floors_after(self._connection, self._holds, seen)
            in_flight = {
                key: _InFlight(int(info["delivered"]["stream_seq"]), bool(info["num_ack_pending"]))
                for key, info in consumers.items()
            }
            for stream in self.books.streams:
                view = seen.streams[stream]
                mine = {agent: floor for (name, agent), floor in floors.items() if name == stream}
                look = StreamLook(view.last_seq, view.now, view.max_age, mine)
                self.ages[stream] = view.max_age
                self.books.look(stream, look)
                await self._look_for_gone(view, look, in_flight)
            for hold in self._holds:
                at, key = in_flight.get((hold.stream, hold.durable)), (hold.stream, hold.agent)
                floor = floors[key].floor if key in floors else 0
                self.in_hand[key] = range(0) if at is None else range(floor + 1, at.delivered + 1)
            self.books.prune(max((view.now for view in seen.streams.values()), default=0.0))
            self.rows = self.books.rows(self.readers.behind)
            return self.rows

    async def _surveyed(self) -> Survey:
        """What the server says now, once every stream is the one that is being read."""
        while True:
            try:
                seen = await survey(self._connection, self._holds, self.books.streams)
            except ApiError as error:
                raise NoAnswer(f"a stream cannot be looked at: {error}") from error
            again = [view for name, view in seen.streams.items() if view.created != self.books.positions[name].created]
            for view in again:
                self._take_up(view)
                self.readers.start(view.name)
            if not again:
                break
        shrunk = [name for name, view in seen.streams.items() if view.last_seq < self.books.positions[name].seq]
        self._shrunk = self._shrunk + 1 if shrunk else 0
        if self._shrunk >= _SHRUNK:
            raise Restored(f"{', '.join(shrunk)}: less is stored than was read")
        if shrunk:
            raise NoAnswer(f"{', '.join(shrunk)}: the server that answers has not everything that was read")
        return seen

    def _note_starts(self, seen: Survey) -> None:
        """With which message each agent begins that has just got its account, and does not want what is older.

        Only then: what its consumer passes over later, because it was created again, is a loss.
        """
        for hold in self._unborn:
            config = seen.consumers.get((hold.stream, hold.durable), {}).get("config", {})
            account = self.books.accounts[hold.stream, hold.agent]
            account.first = read_integer(config.get("opt_start_seq")) or 0
            account.since = read_timestamp(config.get("opt_start_time")) or account.since
        self._unborn.clear()

    async def _look_for_gone(
        self, view: StreamView, look: StreamLook, in_flight: Mapping[tuple[str, str], _InFlight]
    ) -> None:
        """Find what is owed and no longer there: purged, or deleted by hand. Nobody will acknowledge it."""
        if self._gone.get(view.name) == (view.first_seq, view.deleted):
            return
        accounts = self.books.of_stream(view.name)
        deleted: Sequence[int] = ()
        if any(account.owed for account in accounts) and 0 < view.deleted <= _MOST_DELETED:
            info = await self._connection.api(f"STREAM.INFO.{view.name}", {"deleted_details": True})
            deleted = info["state"].get("deleted") or ()
        open_ones = False
        for account in accounts:
            gone = [*account.owed_between(1, view.first_seq - 1), *account.owed_at(deleted)]
            held = [seq for seq in gone if self._may_be_held(account, seq, in_flight)]
            open_ones = open_ones or bool(held)
            floors = look.floors.get(account.agent, Floors(0, 0))
            account.gone(set(gone).difference(held), self.books.look_of(account, look, floors))
        if not open_ones:
            self._gone[view.name] = (view.first_seq, view.deleted)

    def _may_be_held(self, account: Account, seq: int, in_flight: Mapping[tuple[str, str], _InFlight]) -> bool:
        """Whether a process may be handling the message, or copy, right now: then it will say how that ended."""
        hold = self.books.holds.get((account.stream, account.agent))
        if hold is None:
            return False
        durable = hold.durable if account.message_of(seq) == seq else hold.copies
        consumer = in_flight.get((hold.stream, durable))
        return consumer is not None and consumer.may_hold(seq)

    async def _load(self, views: Mapping[str, StreamView], scratch: bool) -> Checkpoint | None:
        try:
            checkpoint = await self.checkpoints.load()
        except BadPayload as error:
            log.error("%s. The sum is counted from scratch, from the oldest message still stored", error)
            return None
        if checkpoint is None or scratch:
            return None
        for name, place in checkpoint.positions.items():
            view = views.get(name)
            if view is not None and view.last_seq < place.seq and (view.created == place.created or not view.life):
                log.error("stream %s was restored from a backup older than the checkpoint: counting from scratch", name)
                return None
        return checkpoint

    def _begin(self, kept: StreamView | None, views: Mapping[str, StreamView]) -> None:
        """Keep the books from scratch. What was stored before accounting began is not judged, and neither is what is
        older than the facts that are still stored."""
        audit = views["CALL_AUDIT"]
        begun = audit.now if kept is None else kept.created
        whole = audit.first_seq <= 1
        self.books = Books(self._holds, begun if whole else max(begun, audit.first_at))
        self.books.positions = {name: Position(0, view.created, view.life) for name, view in views.items()}
        for stream in self.books.streams:
            view = views[stream]
            aged = view.max_age is not None and view.now >= view.created + view.max_age
            if aged or not whole or view.created < begun - _SAME_APPLY:
                self.books.begin(stream, view.first_seq, view.first_at)

    def _go_on(self, views: Mapping[str, StreamView]) -> None:
        for name, view in views.items():
            place = self.books.positions.get(name)
            if place is None:
                self.books.positions[name] = Position(0, view.created, view.life)
            elif place.created != view.created:
                self._take_up(view)
        self.books.positions = {name: place for name, place in self.books.positions.items() if name in views}
        audit = views["CALL_AUDIT"]
        if audit.first_seq > self.books.positions["CALL_AUDIT"].seq + 1 and audit.messages:
            log.error("facts were removed from CALL_AUDIT before they were read: what is older is not judged")
            self.books.since = max(self.books.since, audit.first_at)

    def _take_up(self, view: StreamView) -> None:
        """A stream is another one than was read: restored with everything that was read, or created again."""
        place = self.books.positions[view.name]
        if view.continues(place):
            log.warning("stream %s was restored from a backup: it is read on", view.name)
            self.books.positions[view.name] = Position(place.seq, view.created, place.life)
            return
        if not view.life:
            raise Restored(f"stream {view.name} was restored from a backup that is older than what was read")
        if view.name in self.books.streams:
            log.error("stream %s was created again: what was pending in it is lost", view.name)
        else:
            log.warning("stream %s was created again: it is read from its beginning", view.name)
        self.books.created_again(view.name, view.created, view.now, view.max_age)

    async def _view(self, stream: str) -> StreamView | None:
        try:
            return await stream_view(self._connection, stream)
        except ApiError as error:
            if error.err_code == _STREAM_MISSING:
                return None
            raise NoAnswer(f"stream {stream} cannot be looked at: {error}") from error

    async def _view_or_raise(self, stream: str) -> StreamView:
        view = await self._view(stream)
        if view is None:
            raise NotApplied(f"stream {stream} does not exist; `tieline apply` makes it")
        return view


async def count_now(connection: Connection, pod: Pod) -> Keeper:
    """The books as of now, from the newest checkpoint and what came since. Changes nothing, and reads no further.

    Raises like `Keeper.look`, and `NotApplied` where a stream of the pod is missing.
    """
    try:
        async with asyncio.TaskGroup() as group:
            keeper = Keeper(connection, pod, Readers(connection, group))
            try:
                await keeper.open(create=False)
                await keeper.look()
            finally:
                keeper.readers.stop()
    except BaseExceptionGroup as failed:
        raise first_of(failed) from None
    return keeper


def holds_of(pod: Pod) -> list[Hold]:
    """What each agent and tool of a pod takes from each stream. Records that wake parked messages are no messages."""
    declared = consumers_of(pod)
    resumes = {(consumer.stream, consumer.owner): consumer for consumer in declared if consumer.kind == "resume"}
    found = []
    for consumer in declared:
        if consumer.kind != "main":
            continue
        resume = resumes.get((consumer.stream, consumer.durable))
        found.append(
            Hold(
                stream=consumer.stream,
                agent=consumer.durable,
                filters=consumer.filters + (() if resume is None else resume.filters),
                durable=consumer.durable,
                copies=consumer.durable if resume is None else resume.durable,
                chooses_start=consumer.start != "stored",
            )
        )
    return found
