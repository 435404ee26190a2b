"""The office's viewings, in a real iCalendar file that any calendar program can open."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import icalendar

from oneroof.office.hours import CLOSES, LOCAL, OPENS, VIEWING_MINUTES, is_open

AGENTS: Final = 3  # viewing agents, each at one home at a time
ALTERNATIVES: Final = 3
_GRID: Final = timedelta(minutes=30)
_HORIZON_DAYS: Final = 60
_HEAD: Final = b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//OneRoof//viewings//EN\r\nCALSCALE:GREGORIAN\r\n"
_FOOT: Final = b"END:VCALENDAR\r\n"


class CalendarUnreadable(ValueError):
    """The file is torn or is no calendar. Nothing was written; ``path`` is the file."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"the calendar {path} cannot be read ({why}): restore it from a backup, "
            f"or move it away and the office starts an empty one"
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class Booked:
    """A viewing that stands. ``agent`` is the viewing agent, from 1."""

    uid: str
    home: str
    slot: datetime
    minutes: int
    agent: int

    @property
    def end(self) -> datetime:
        return self.slot + timedelta(minutes=self.minutes)


@dataclass(frozen=True, slots=True)
class Taken:
    """No viewing was made. ``alternatives`` are up to three free slots, the soonest first."""

    alternatives: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One component of the file: its bytes as they stand there and, if it takes up an agent, what it books."""

    ical: bytes
    booked: Booked | None


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The file as it was read; ``stamp`` tells whether it still is, ``body`` is all but its last line."""

    stamp: tuple[int, int, int] | None = None
    entries: tuple[_Entry, ...] = ()
    body: bytes = _HEAD

    @property
    def viewings(self) -> Sequence[Booked]:
        return [entry.booked for entry in self.entries if entry.booked]


class Calendar:
    """The calendar at ``path``, which is made with the first booking.

    Any number of processes and threads may share a file: bookings take turns on a lock beside it,
    and readers see the file before or after a booking, never in between. Blocks on the disk, a few
    milliseconds a booking; an event loop calls it in a thread.
    """

    def __init__(self, path: Path, agents: int = AGENTS) -> None:
        self._path = path
        self._agents = agents
        self._snapshot = _Snapshot()  # replaced whole, so that threads may share it

    def book(
        self, uid: str, slot: datetime, minutes: int, home: str, summary: str, replaces: str = ""
    ) -> Booked | Taken:
        """Books a viewing of ``home``, or answers when it could be.

        ``uid`` names the booking: the same ``slot`` again gives the viewing that stands, another
        slot moves it there, or leaves it where it is when that is Taken. ``replaces`` names another booking, which
        goes when this one is made and stays when this one is Taken. ``slot`` must carry a time
        zone (ValueError). A slot outside office hours is Taken. After it returns Booked, the
        viewing survives a power cut.
        """
        if slot.tzinfo is None:
            raise ValueError(f"the slot {slot.isoformat()} has no time zone: pass one in {LOCAL.key}")
        with self._locked():
            snapshot = self._read()
            standing = next((viewing for viewing in snapshot.viewings if viewing.uid == uid), None)
            gone = {uid, replaces}
            others = [viewing for viewing in snapshot.viewings if viewing.uid not in gone]
            if standing is not None and standing.slot == slot and len(others) + 1 == len(snapshot.viewings):
                return standing
            agent = self._agent_for(others, slot, minutes, home)
            if agent is None:
                return Taken(self._free(others, slot, ALTERNATIVES, minutes, home))
            booked = Booked(uid, home, slot.astimezone(LOCAL), minutes, agent)
            kept = [entry for entry in snapshot.entries if entry.booked is None or entry.booked.uid not in gone]
            self._write((*kept, _Entry(_event(booked, summary), booked)))
            return booked

    def busy(self, day: date) -> tuple[Booked, ...]:
        """The viewings that touch ``day`` (local), by time and agent."""
        midnight = datetime.combine(day, time(), LOCAL)
        touching = [v for v in self._read().viewings if v.slot < midnight + timedelta(days=1) and v.end > midnight]
        return tuple(sorted(touching, key=lambda viewing: (viewing.slot, viewing.agent)))

    def free_slots(self, after: datetime, count: int, home: str | None = None) -> tuple[datetime, ...]:
        """The first ``count`` half-hour slots after ``after`` at which an agent (and ``home``) is free.

        Fewer than ``count`` if the next sixty days have no more.
        """
        return self._free(self._read().viewings, after, count, VIEWING_MINUTES, home)

    def _free(
        self, viewings: Sequence[Booked], after: datetime, count: int, minutes: int, home: str | None
    ) -> tuple[datetime, ...]:
        found: list[datetime] = []
        first = after.astimezone(LOCAL).date()
        for ahead in range(_HORIZON_DAYS):
            day = first + timedelta(days=ahead)
            opens, closes = datetime.combine(day, OPENS, LOCAL), datetime.combine(day, CLOSES, LOCAL)
            that_day = [viewing for viewing in viewings if viewing.slot < closes and viewing.end > opens]
            slot = opens
            while slot < closes and len(found) < count:
                if slot > after and self._agent_for(that_day, slot, minutes, home) is not None:
                    found.append(slot)
                slot += _GRID
            if len(found) >= count:
                break
        return tuple(found)

    def _agent_for(self, viewings: Sequence[Booked], slot: datetime, minutes: int, home: str | None) -> int | None:
        """The first agent who is free for a viewing of ``home``; None if none is, or the home or the office is not."""
        end = slot + timedelta(minutes=minutes)
        overlapping = [viewing for viewing in viewings if viewing.slot < end and viewing.end > slot]
        if not is_open(slot, minutes) or any(viewing.home == home for viewing in overlapping):
            return None
        engaged = {viewing.agent for viewing in overlapping}
        return next((agent for agent in range(1, self._agents + 1) if agent not in engaged), None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # a file of its own: the calendar itself is replaced at each booking, and a lock on it would go with it
        with self._path.with_name(self._path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> _Snapshot:
        stamp = self._stamp()
        snapshot = self._snapshot
        if stamp is None or stamp != snapshot.stamp:
            # a booking between the stamp and the read makes the stamp stale: that costs a second read, no more
            snapshot = self._grown(snapshot, stamp) if stamp else _Snapshot()
            self._snapshot = snapshot
        return snapshot

    def _grown(self, last: _Snapshot, stamp: tuple[int, int, int]) -> _Snapshot:
        """The file as it is. Bookings are appended, so of another process's only the new ones are parsed."""
        text = self._path.read_bytes()
        appended = text.startswith(last.body)
        fresh = _parsed(self._path, _HEAD + text[len(last.body) :] if appended else text)
        return _Snapshot(stamp, (*last.entries, *fresh) if appended else fresh, text.removesuffix(_FOOT))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _write(self, entries: tuple[_Entry, ...]) -> None:
        """Replaces the file: a crash leaves the old one or the new one, both whole."""
        folder = self._path.parent
        body = _HEAD + b"".join(entry.ical for entry in entries)
        with NamedTemporaryFile(dir=folder, prefix=self._path.name, suffix=".new", delete=False) as new:
            try:
                new.write(body + _FOOT)
                new.flush()
                os.fsync(new.fileno())
                Path(new.name).replace(self._path)
            except BaseException:
                Path(new.name).unlink(missing_ok=True)
                raise
        # the rename is durable only once the folder is on the disk
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        self._snapshot = _Snapshot(self._stamp(), entries, body)


def _event(booked: Booked, summary: str) -> bytes:
    event = icalendar.Event()
    event.add("uid", booked.uid)
    event.add("dtstamp", datetime.now(UTC))
    event.add("dtstart", booked.slot.astimezone(UTC))
    event.add("dtend", booked.end.astimezone(UTC))
    event.add("summary", summary)
    event.add("location", booked.home)
    event.add("resources", f"viewing agent {booked.agent}")
    ical: bytes = event.to_ical()
    return ical


def _parsed(path: Path, text: bytes) -> tuple[_Entry, ...]:
    if not text.rstrip().endswith(b"END:VCALENDAR"):
        raise CalendarUnreadable(path, "it ends before END:VCALENDAR")
    try:
        calendar = icalendar.Calendar.from_ical(text)
        return tuple(_Entry(part.to_ical(), _booked(part)) for part in calendar.subcomponents)
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        raise CalendarUnreadable(path, str(error) or type(error).__name__) from error


def _booked(part: icalendar.Component) -> Booked | None:
    """What an event takes up. One that another program wrote counts for the first agent."""
    if not isinstance(part, icalendar.Event) or str(part.get("status", "")).upper() == "CANCELLED":
        return None
    start, end = _moment(part.start), _moment(part.end)
    agent = str(part.get("resources", "")).rpartition(" ")[2]
    minutes = round((end - start) / timedelta(minutes=1)) or VIEWING_MINUTES
    return Booked(str(part.uid), str(part.get("location", "")), start, minutes, int(agent) if agent.isdecimal() else 1)


def _moment(value: date | datetime) -> datetime:
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), LOCAL)
    return value.replace(tzinfo=LOCAL) if value.tzinfo is None else value.astimezone(LOCAL)
