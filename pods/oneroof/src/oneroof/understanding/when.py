"""Days and times as they are spoken, on the office's clock (America/Los_Angeles).

Reads text that ``spoken_numbers`` has been over.
"""

import re
from calendar import day_name, month_name
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Final

from oneroof.office.hours import LOCAL
from oneroof.understanding.clocks import Clock, read_clocks
from oneroof.understanding.days import FARTHEST, MONTHS, Day, read_days
from oneroof.understanding.mentions import Found, blank, standing

__all__ = ["FARTHEST", "When", "read_when", "say_clock", "say_day", "say_slot", "slots_in", "to_slot"]

_SPAN: Final = r"(an?|half an?|[0-9]{1,3}(?:\.[0-9])?) (minute|hour)s?( and a half)?"
_AHEAD: Final = re.compile(rf"\bin {_SPAN}(?:'s? time)?(?: from (?:now|today))?\b|\b{_SPAN} from (?:now|today)\b")
_BARE_AHEAD: Final = re.compile(rf"^\W*{_SPAN}\W*$")
_TOGETHER: Final = re.compile(r"[ ,]*(?:the |on )*")
_RENDERED: Final = re.compile(r"\b[a-z]+day, ([a-z]+) ([0-9]{1,2}) at ([0-9]{1,2}):([0-9]{2}) ([ap])m\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class When:
    """The day and the time of day that a line names.

    ``by_name``: the day came as a weekday, so its next occurrence will do if the time has passed. ``impossible``: it
    named a day that does not exist, or one that is over. ``sure``: nobody could understand it otherwise. ``days`` and
    ``clocks`` are what the line leaves to choose from, ``not_days`` the days that it denies. ``some_day`` and
    ``some_time``: it speaks of a day or a time, and does not say which ("next week", "after three").
    """

    day: date | None = None
    clock: time | None = None
    by_name: bool = False
    impossible: bool = False
    sure: bool = True
    days: tuple[date, ...] = ()
    clocks: tuple[time, ...] = ()
    not_days: tuple[date, ...] = ()
    some_day: bool = False
    some_time: bool = False

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING: Final = When()


def read_when(text: str, now: datetime, *, expected: bool = False) -> tuple[When, str]:
    """What ``text`` says of a day and a time, and ``text`` with those words blanked by underscores.

    ``expected``: the office has just asked for a time, so a number alone is one.
    """
    local = now.astimezone(LOCAL)
    if ahead := _AHEAD.search(text) or (_BARE_AHEAD.search(text) if expected else None):
        soon = _ahead(ahead, local)
        if soon:
            return soon, blank(text, ahead.start(), ahead.end())
    days, rest = read_days(text, local.date())
    clocks, rest = read_clocks(rest, expected=expected)
    standing_days = standing(days, rest, text)
    standing_clocks = standing(clocks, standing_days.text, text)
    when = _day_of(standing_days.kept, text, local.date())
    denied = tuple(one.value.on for one in standing_days.denied if one.value.on)
    when = replace(when, not_days=denied if when.day is None and not when.days else ())
    return _with_clock(when, standing_clocks.kept, denied=bool(standing_clocks.denied)), standing_clocks.text


def _day_of(kept: Sequence[Found[Day]], text: str, today: date) -> When:
    named = [one for one in kept if one.value.on]
    others = len(kept) > len(named)
    if not named:
        over = any(one.value.over for one in kept)
        return When(impossible=over, some_day=others and not over)
    dates = tuple(dict.fromkeys(one.value.on for one in named if one.value.on))
    if len(dates) > 1:
        if len(named) != 2 or not _TOGETHER.fullmatch(text[named[0].end : named[1].start]):
            return When(days=dates)
        return _reconcile(named[0].value, named[1].value, today)
    day = next((one.value for one in named if not one.value.weekday), named[0].value)
    if others and day.weekday:
        return When(some_day=True)  # "the Friday before Christmas"
    sure = all(one.value.sure for one in named if one.value.weekday == day.weekday)
    return When(day.on, by_name=day.weekday, sure=sure and not others)


def _reconcile(one: Day, other: Day, today: date) -> When:
    """One day named twice, as in "Friday the 13th". It is not sure where weekday and date do not agree."""
    dated, weekday = (other, one) if one.weekday else (one, other)
    if dated.on is None or weekday.on is None:
        return When()
    wanted = weekday.on.weekday()
    if dated.nth and weekday.weekday:
        for ahead in range(366):
            day = today + timedelta(days=ahead)
            if day.day == dated.nth and day.weekday() == wanted:
                return When(day, sure=day == dated.on and dated.sure)
    if not weekday.weekday:
        return When(days=(one.on, other.on) if one.on and other.on else ())
    return When(dated.on, sure=dated.sure and dated.on.weekday() == wanted)


def _with_clock(when: When, kept: Sequence[Found[Clock]], *, denied: bool) -> When:
    times = tuple(dict.fromkeys(one.value.at for one in kept if one.value.at))
    if any(one.value.at is None for one in kept) or (denied and not times):
        return replace(when, some_time=True)
    if len(times) > 1:
        return replace(when, clocks=times)
    sure = when.sure and all(one.value.sure for one in kept)
    return replace(when, clock=times[0] if times else None, sure=sure)


def _ahead(found: re.Match[str], now: datetime) -> When | None:
    amount, unit, half = found.groups()[:3] if found[1] else found.groups()[3:6]
    if unit == "minute" and amount in ("a", "an"):
        return None  # "in a minute" is a pause, not an appointment
    number = 0.5 if amount.startswith("half") else 1.0 if amount in ("a", "an") else float(amount)
    number += 0.5 if half else 0
    # to the next quarter of an hour: viewings start on one
    then = now + timedelta(minutes=number * {"minute": 1, "hour": 60}[unit])
    start = then.replace(second=0, microsecond=0)
    then = start + timedelta(minutes=-start.minute % 15)
    return When(then.date(), then.time(), sure=then == start)


def to_slot(day: date, clock: time, now: datetime, *, by_name: bool) -> datetime:
    """The moment meant; a weekday whose time has passed today is the one a week later."""
    slot = datetime.combine(day, clock, LOCAL)
    return slot + timedelta(days=7) if by_name and slot <= now else slot


def say_slot(slot: datetime) -> str:
    """As the office speaks it: "Friday, November 27 at 3:00 pm". ``slots_in`` reads it back."""
    local = slot.astimezone(LOCAL)
    return f"{say_day(local.date())} at {say_clock(local.time())}"


def say_day(day: date) -> str:
    """ "Friday, November 27"."""
    return f"{day_name[day.weekday()]}, {month_name[day.month]} {day.day}"


def say_clock(clock: time) -> str:
    """ "3:00 pm"."""
    return f"{clock.hour % 12 or 12}:{clock.minute:02} {'pm' if clock.hour >= 12 else 'am'}"


def slots_in(text: str, now: datetime) -> tuple[datetime, ...]:
    """The slots that an office line names in ``say_slot``'s form, in spoken order."""
    today = now.astimezone(LOCAL).date()
    slots = []
    for month, number, hour, minute, half in _RENDERED.findall(text):
        day = _rendered_day(MONTHS.get(month.lower(), 0), int(number), today)
        if day and int(hour) <= 12 and int(minute) < 60:
            clock = time(int(hour) % 12 + (12 if half.lower() == "p" else 0), int(minute))
            slots.append(datetime.combine(day, clock, LOCAL))
    return tuple(slots)


def _rendered_day(month: int, number: int, today: date) -> date | None:
    for year in (today.year, today.year + 1):
        try:
            day = date(year, month, number)
        except ValueError:
            continue
        if day >= today - timedelta(days=60):
            return day
    return None
