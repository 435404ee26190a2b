"""The viewing calendar: conflicts, idempotency, two processes at once, and torn files."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import icalendar
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneroof.office.calendar import AGENTS, Booked, Calendar, CalendarUnreadable, Taken
from oneroof.office.hours import LOCAL, is_open

SLOT = datetime(2026, 11, 27, 15, tzinfo=LOCAL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "office" / "viewings.ics"


def book(calendar: Calendar, uid: str, slot: datetime = SLOT, home: str = "1042") -> Booked | Taken:
    return calendar.book(uid, slot, 30, home, f"Viewing of {home}")


def test_a_booking_stands_in_a_file_that_other_programs_read(path: Path) -> None:
    booked = book(Calendar(path), "call-1")
    assert booked == Booked("call-1", "1042", SLOT, 30, agent=1)
    (event,) = icalendar.Calendar.from_ical(path.read_bytes()).walk("VEVENT")
    assert isinstance(event, icalendar.Event)
    assert (str(event.uid), event.start, event.end) == ("call-1", SLOT, SLOT + timedelta(minutes=30))
    assert Calendar(path).busy(SLOT.date()) == (booked,)


def test_the_same_uid_and_slot_is_the_same_booking(path: Path) -> None:
    first = book(Calendar(path), "call-1")
    assert book(Calendar(path), "call-1", home="1077") == first
    assert path.read_bytes().count(b"BEGIN:VEVENT") == 1


def test_the_same_uid_at_another_slot_moves_the_booking_or_leaves_it(path: Path) -> None:
    calendar = Calendar(path)
    book(calendar, "call-1")
    later = SLOT + timedelta(minutes=15)  # overlaps its own old place, which does not count
    moved = book(calendar, "call-1", later)
    assert isinstance(moved, Booked)
    assert calendar.busy(SLOT.date()) == (moved,)
    book(calendar, "call-2", SLOT + timedelta(hours=2))
    assert isinstance(book(calendar, "call-1", SLOT + timedelta(hours=2)), Taken)
    assert moved in calendar.busy(SLOT.date())


def test_a_booking_that_replaces_another_takes_its_place_or_leaves_it(path: Path) -> None:
    calendar = Calendar(path)
    first = book(calendar, "call-1")
    book(calendar, "call-2", SLOT + timedelta(hours=2), "1077")
    taken = calendar.book("call-1-b", SLOT + timedelta(hours=2), 30, "1077", "Viewing of 1077", "call-1")
    assert isinstance(taken, Taken)
    assert first in calendar.busy(SLOT.date())
    instead = calendar.book("call-1-b", SLOT, 30, "1077", "Viewing of 1077", "call-1")
    assert isinstance(instead, Booked)
    assert {viewing.uid for viewing in calendar.busy(SLOT.date())} == {"call-1-b", "call-2"}
    assert calendar.book("call-1-b", SLOT, 30, "1077", "Viewing of 1077", "call-1") == instead


def test_a_home_is_shown_once_at_a_time_and_alternatives_are_free(path: Path) -> None:
    calendar = Calendar(path)
    book(calendar, "call-1")
    taken = book(calendar, "call-2", SLOT + timedelta(minutes=15))
    assert isinstance(taken, Taken)
    assert taken.alternatives == tuple(SLOT + timedelta(minutes=minutes) for minutes in (30, 60, 90))
    assert isinstance(book(calendar, "call-2", taken.alternatives[0]), Booked)


def test_three_agents_show_three_homes(path: Path) -> None:
    calendar = Calendar(path)
    agents = [book(calendar, f"call-{number}", home=str(1000 + number)) for number in range(AGENTS)]
    assert [viewing.agent for viewing in agents if isinstance(viewing, Booked)] == [1, 2, 3]
    assert isinstance(book(calendar, "call-9", home="1009"), Taken)
    assert calendar.free_slots(SLOT - timedelta(minutes=1), 1) == (SLOT + timedelta(minutes=30),)


@pytest.mark.parametrize("hour", [3, 8, 18, 23])
def test_outside_office_hours_nothing_is_booked(path: Path, hour: int) -> None:
    taken = book(Calendar(path), "call-1", SLOT.replace(hour=hour))
    assert isinstance(taken, Taken)
    assert len(taken.alternatives) == 3
    assert all(is_open(slot) for slot in taken.alternatives)
    assert not path.exists()


def test_a_slot_without_a_zone_is_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="time zone"):
        book(Calendar(path), "call-1", SLOT.replace(tzinfo=None))


def test_events_of_other_programs_are_kept_and_respected(path: Path) -> None:
    path.parent.mkdir()
    foreign = icalendar.Calendar()
    foreign.add("prodid", "-//another//EN")
    foreign.add("version", "2.0")
    event = icalendar.Event()
    event.add("uid", "dentist")
    event.add("dtstart", SLOT.astimezone(UTC))
    event.add("summary", "Dentist; all, day")
    foreign.add_component(event)
    path.write_bytes(foreign.to_ical())
    booked = book(Calendar(path), "call-1")
    assert isinstance(booked, Booked)
    assert booked.agent == 2
    assert "Dentist; all, day" in [str(e["summary"]) for e in icalendar.Calendar.from_ical(path.read_bytes()).events]


@given(cut=st.floats(0, 0.999))
@settings(max_examples=30)
def test_a_torn_file_is_an_error_that_names_it(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    path = tmp_path_factory.mktemp("torn") / "viewings.ics"
    book(Calendar(path), "call-1")
    book(Calendar(path), "call-2", home="1077")
    whole = path.read_bytes()
    torn = whole[: int(len(whole.rstrip()) * cut)]
    path.write_bytes(torn)
    with pytest.raises(CalendarUnreadable, match=r"viewings\.ics .* restore it from a backup"):
        book(Calendar(path), "call-3", home="1103")
    assert path.read_bytes() == torn


@given(st.lists(st.tuples(st.integers(0, 19), st.sampled_from(["1042", "1077", "1103", "1200"])), max_size=25))
@settings(max_examples=20, deadline=None)
def test_no_agent_and_no_home_is_booked_twice(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[int, str]]
) -> None:
    calendar = Calendar(tmp_path_factory.mktemp("many") / "viewings.ics")
    for number, (quarter, home) in enumerate(wanted):
        book(calendar, str(number), SLOT.replace(hour=9) + timedelta(minutes=15 * quarter), home)
    viewings = calendar.busy(SLOT.date())
    for one in viewings:
        for other in viewings:
            if one.uid < other.uid and one.slot < other.end and other.slot < one.end:
                assert one.agent != other.agent
                assert one.home != other.home


_RACER = """
import sys
from datetime import timedelta
from pathlib import Path
from oneroof.office.calendar import Calendar
from datetime import datetime
calendar = Calendar(Path(sys.argv[1]))
slot = datetime.fromisoformat(sys.argv[2])
sys.stdin.readline()
for number in range(30):
    calendar.book(f"{sys.argv[3]}-{number}", slot + timedelta(days=number), 30, sys.argv[3], "race")
"""


def test_two_processes_lose_no_booking(path: Path) -> None:
    command = [sys.executable, "-c", _RACER, str(path), SLOT.astimezone(UTC).isoformat()]
    racers = [subprocess.Popen([*command, home], stdin=subprocess.PIPE, text=True) for home in ("1042", "1077")]
    for racer in racers:
        racer.communicate("go\n", timeout=30)
    assert [racer.returncode for racer in racers] == [0, 0]
    days = [SLOT.date() + timedelta(days=number) for number in range(30)]
    calendar = Calendar(path)
    assert [{viewing.home for viewing in calendar.busy(day)} for day in days] == [{"1042", "1077"}] * 30


def test_a_booking_by_another_process_is_seen(path: Path) -> None:
    one, other = Calendar(path), Calendar(path)
    book(one, "call-1")
    assert len(other.busy(SLOT.date())) == 1
    book(one, "call-2", home="1077")
    assert len(other.busy(SLOT.date())) == 2
    path.unlink()
    assert other.busy(SLOT.date()) == ()
    assert other.busy(date(2027, 1, 1)) == ()
