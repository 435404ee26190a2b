"""Days and times as they are spoken, on the office's clock (America/Los_Angeles).

Reads text that ``spoken_numbers`` has been over. A bare hour is read for an office that is
open from nine to six: "at three" is 15:00, "at ten" is 10:00.
"""

import re
from calendar import day_abbr, day_name, month_abbr, month_name
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from oneroof.office.hours import LOCAL

FARTHEST = timedelta(days=366)

_DAYS = {name.lower(): n for n, name in enumerate(day_name)} | {name.lower(): n for n, name in enumerate(day_abbr)}
_DAYS |= {"tues": 1, "weds": 2, "thur": 3, "thurs": 3}
_MONTHS = {name.lower(): n for n, name in enumerate(month_name) if n}
_MONTHS |= {name.lower(): n for n, name in enumerate(month_abbr) if n} | {"sept": 9}
# "sat" and "sun" are left out: in speech they are words; so are "march" and "may", so a month needs its day beside it
_DAY = "(" + "|".join(sorted((name for name in _DAYS if name not in ("sat", "sun")), key=len, reverse=True)) + ")s?"
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_NOT_A_TIME = (
    r"(?![0-9]|[.,:/][0-9]| ?(?:%|st\b|nd\b|rd\b|th\b|bed|bath|br\b|square|sq|dollar|percent|minute|hour|day|week))"
)

_PART = r"(?:,? ?(?:in the |this |at |on the )?(morning|afternoon|evening|night)\b|,? ?(am|pm)\b)?"
_HAND = re.compile(
    r"\b(half|(?:a )?quarter|5|10|20|25|[0-9]{1,2}(?= minutes?)) ?(?:minutes? )?(past|after|to|before|til|till) "
    r"(?:([0-9]{1,2})|(noon|midnight))" + _NOT_A_TIME + r"(?: o'?clock)?" + _PART
)
_CLOCK = re.compile(r"\b([0-9]{1,2})(?:[:.]| ?h ?)([0-9]{2})" + _NOT_A_TIME + r"(?: o'?clock)?" + _PART)
_PAIR = re.compile(
    r"\b([0-9]{1,2}) (?:0 ([0-9])|([0-5][0-9]))(?= ?(?:am|pm)\b| in the | o'?clock)(?: o'?clock)?" + _PART
)
_AT_PAIR = re.compile(
    r"(?:\bat|\baround|\babout|\bby|\bmake it|\bsay|_,?) ([0-9]{1,2}) (?:0 ([0-9])|([0-5][0-9]))"
    + _NOT_A_TIME
    + "(?! [0-9])"
    + _PART
)
_HOUR = re.compile(r"\b([0-9]{1,2})(?: ?o'?clock" + _PART + r"|(?:,? ?in the (morning|afternoon|evening))| ?(am|pm)\b)")
_AT_HOUR = re.compile(
    r"(?:\bat|\bthen|\baround|\babout|\bby|\bafter|\bbefore|\bfrom|\bbetween|\bmake it|\bsay|_,?) (?:like |"
    r"about |around )?([0-9]{1,2})(?:ish)?\b" + _NOT_A_TIME + "(?! [0-9])" + _PART
)
_BARE_HOUR = re.compile(r"\b([0-9]{1,2})(?:ish)?\b" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_BARE_PAIR = re.compile(r"\b([0-9]{1,2}) ?(?:0 ([0-9])|([0-5][0-9]))\b" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_NOON = re.compile(r"\b(noon|midday|mid day|midnight)\b")

_AHEAD = re.compile(
    r"\b(?:in )?(an?|half an?|[0-9]{1,3}(?:\.[0-9])?) (minute|hour|day|week|"
    r"month)s?( and a half)?(?: from now| from today)?\b"
)
_AGO = re.compile(
    r"\b(?:yesterday|last (?:night|week|month|weekend|" + _DAY + r")|[a-z0-9]+ (?:hour|day|week|month)s? ago)\b"
)
_AFTER_TOMORROW = re.compile(r"\bthe day after tomorrow\b|\bday after tomorrow\b")
_NEAR = re.compile(r"\b(today|tonight|this (?:morning|afternoon|evening)|tomorrow|tmrw)\b")
_WEEK_FROM = re.compile(r"\b(?:a week from|a week on) " + _DAY + r"\b|\b" + _DAY + " week\\b")
_WEEKDAY = re.compile(r"\b(?:(next|this|coming|this coming) )?" + _DAY + r"\b(?: (next week))?")
_WEEKEND = re.compile(r"\b(?:(next) |this |the )?weekend\b")
_MONTH_DAY = re.compile(r"\b" + _MONTH + r" (?:the )?([0-9]{1,2})(?:st|nd|rd|th)?\b(?![:.]?[0-9])")
_DAY_MONTH = re.compile(r"\b([0-9]{1,2})(?:st|nd|rd|th)?(?: of)? " + _MONTH + r"\b")
_ISO = re.compile(r"\b(20[0-9]{2})-([01]?[0-9])-([0-3]?[0-9])\b")
_SLASHED = re.compile(r"\b(1[0-2]|0?[1-9])/([0-3]?[0-9])(?:/(20[0-9]{2}))?\b")
_NTH = re.compile(
    r"\b(?:the |on )?([0-9]{1,2})(?:st|nd|rd|th)\b(?! (?:one|home|house|place|option|listing|floor|avenue|"
    r"ave|street|st)\b)"
)

_RENDERED = re.compile(r"\b[a-z]+day, ([a-z]+) ([0-9]{1,2}) at ([0-9]{1,2}):([0-9]{2}) ([ap]m)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class When:
    """The day and the time of day that a line names. ``by_name``: the day came as a weekday, so
    its next occurrence will do if the time has passed. ``impossible``: it named a day that does
    not exist, or one that is over."""

    day: date | None = None
    clock: time | None = None
    by_name: bool = False
    impossible: bool = False

    def __bool__(self) -> bool:
        return self.day is not None or self.clock is not None or self.impossible


def read_when(text: str, now: datetime, *, expected: bool = False) -> tuple[When, str]:
    """What ``text`` says of a day and a time, and ``text`` with those words blanked by underscores.

    ``expected``: the office has just asked for a time, so a number alone is one.
    """
    local = now.astimezone(LOCAL)
    ago = _AGO.search(text)
    if ago:
        return When(impossible=True), _blank(text, ago)
    ahead = _AHEAD.search(text) if re.search(r"\bin\b|from (?:now|today)", text) or expected else None
    if ahead and (soon := _ahead(ahead, local)):
        return (soon, _blank(text, ahead)) if soon.clock else _with_clock(soon, _blank(text, ahead), expected)
    day, rest = _read_day(text, local)
    return _with_clock(day, rest, expected)


def _with_clock(day: When, text: str, expected: bool) -> tuple[When, str]:
    clock, rest = _read_clock(text, expected)
    return When(day.day, clock, day.by_name, day.impossible), rest


def to_slot(day: date, clock: time, now: datetime, *, by_name: bool) -> datetime:
    """The moment meant; a weekday whose time has passed today is the one a week later."""
    slot = datetime.combine(day, clock, LOCAL)
    return slot + timedelta(days=7) if by_name and slot <= now else slot


def say_slot(slot: datetime) -> str:
    """As the office speaks it: "Friday, November 27 at 3:00 pm". ``slots_in`` reads it back."""
    local = slot.astimezone(LOCAL)
    return f"{say_day(local.date())} at {say_clock(local.time())}"


def say_day(day: date) -> str:
    return f"{day_name[day.weekday()]}, {month_name[day.month]} {day.day}"


def say_clock(clock: time) -> str:
    return f"{clock.hour % 12 or 12}:{clock.minute:02} {'pm' if clock.hour >= 12 else 'am'}"


def slots_in(text: str, now: datetime) -> tuple[datetime, ...]:
    """The slots that an office line names in ``say_slot``'s form, in spoken order."""
    today = now.astimezone(LOCAL).date()
    slots = []
    for month, number, hour, minute, meridiem in _RENDERED.findall(text):
        day = _in_year(_MONTHS.get(month.lower(), 0), int(number), today)
        clock = _time(int(hour), int(minute), meridiem.lower(), "")
        if day and clock:
            slots.append(datetime.combine(day, clock, LOCAL))
    return tuple(slots)


def _blank(text: str, found: re.Match[str]) -> str:
    return text[: found.start()] + "_" * (found.end() - found.start()) + text[found.end() :]


def _ahead(found: re.Match[str], now: datetime) -> When | None:
    amount, unit, half = found.groups()
    if unit == "minute" and amount in ("a", "an"):
        return None  # "in a minute" is a pause, not an appointment
    number = 0.5 if amount.startswith("half") else 1.0 if amount in ("a", "an") else float(amount)
    number += 0.5 if half else 0
    span = number * {"minute": 1, "hour": 60, "day": 1440, "week": 10080, "month": 43200}[unit]
    if timedelta(minutes=span) > FARTHEST:
        return When(impossible=True)
    then = now + timedelta(minutes=span)
    if unit not in ("minute", "hour"):
        return When(then.date())
    # to the next quarter of an hour: viewings start on one
    then = then.replace(second=0, microsecond=0) + timedelta(minutes=-then.minute % 15)
    return When(then.date(), then.time())


def _read_day(text: str, now: datetime) -> tuple[When, str]:
    today = now.date()
    for pattern, read in _DAY_READERS:
        if found := pattern.search(text):
            when = read(found, today)
            if when:
                # "this afternoon" stays legible for the reader of the time
                kept = text if found[0].startswith("this ") and "noon" in found[0] else _blank(text, found)
                return when, kept
    return When(), text


def _near(found: re.Match[str], today: date) -> When:
    return When(today + timedelta(days=1) if found[1] in ("tomorrow", "tmrw") else today)


def _week_from(found: re.Match[str], today: date) -> When:
    ahead = (_DAYS[found[1] or found[2]] - today.weekday()) % 7
    return When(today + timedelta(days=ahead + 7))


def _weekday(found: re.Match[str], today: date) -> When:
    number = _DAYS[found[2]]
    if found[1] == "next" or found[3]:
        monday = today - timedelta(days=today.weekday()) + timedelta(days=7)
        return When(monday + timedelta(days=number))
    return When(today + timedelta(days=(number - today.weekday()) % 7), by_name=True)


def _weekend(found: re.Match[str], today: date) -> When:
    ahead = (5 - today.weekday()) % 7
    return When(today + timedelta(days=ahead + (7 if found[1] else 0)), by_name=True)


def _month_day(found: re.Match[str], today: date) -> When:
    return _dated(_in_year(_MONTHS[found[1]], int(found[2]), today), today)


def _day_month(found: re.Match[str], today: date) -> When:
    return _dated(_in_year(_MONTHS[found[2]], int(found[1]), today), today)


def _iso(found: re.Match[str], today: date) -> When:
    return _dated(_date(int(found[1]), int(found[2]), int(found[3])), today)


def _slashed(found: re.Match[str], today: date) -> When:
    year, month, day = found[3], int(found[1]), int(found[2])
    return _dated(_date(int(year), month, day) if year else _in_year(month, day, today), today)


def _nth(found: re.Match[str], today: date) -> When:
    number = int(found[1])
    month = today.replace(day=1)
    for _ in range(3):
        day = _date(month.year, month.month, number)
        if day and day >= today:
            return When(day)
        month = (month + timedelta(days=32)).replace(day=1)
    return When(impossible=True)


def _dated(day: date | None, today: date) -> When:
    return When(day) if day and today <= day <= today + FARTHEST else When(impossible=True)


def _in_year(month: int, number: int, today: date) -> date | None:
    """The nearest such day: one up to two months back is over rather than nearly a year away."""
    day = _date(today.year, month, number)
    if day and day < today - timedelta(days=60):
        return _date(today.year + 1, month, number)
    return day


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


_DAY_READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], date], When]], ...] = (
    (_AFTER_TOMORROW, lambda _, today: When(today + timedelta(days=2))),
    (_NEAR, _near),
    (_WEEK_FROM, _week_from),
    (_ISO, _iso),
    (_MONTH_DAY, _month_day),
    (_DAY_MONTH, _day_month),
    (_WEEKDAY, _weekday),
    (_SLASHED, _slashed),
    (_WEEKEND, _weekend),
    (_NTH, _nth),
)


def _read_clock(text: str, expected: bool) -> tuple[time | None, str]:
    if (found := _HAND.search(text)) and (clock := _hand(found)):
        return clock, _blank(text, found)
    if found := _NOON.search(text):
        return (time(0) if found[1] == "midnight" else time(12)), _blank(text, found)
    pairs = (_CLOCK, _PAIR, _AT_PAIR, _BARE_PAIR) if expected else (_CLOCK, _PAIR, _AT_PAIR)
    for pattern in pairs:
        for found in pattern.finditer(text):
            groups = found.groups()
            minute = next(part for part in groups[1:-2] if part)
            if clock := _time(int(groups[0]), int(minute), groups[-1], groups[-2] or _part(text)):
                return clock, _blank(text, found)
    for pattern in (_HOUR, _AT_HOUR, _BARE_HOUR) if expected else (_HOUR, _AT_HOUR):
        for found in pattern.finditer(text):
            hour, *parts = found.groups()
            meridiem = next((part for part in parts if part in ("am", "pm")), None)
            part = next((part for part in parts if part not in (None, "am", "pm")), None)
            if clock := _time(int(hour), 0, meridiem, part or _part(text)):
                return clock, _blank(text, found)
    return None, text


def _part(text: str) -> str:
    """The part of the day that the whole line names, if it names one."""
    found = re.search(r"\b(morning|afternoon|evening)\b", text)
    return found[1] if found else ""


def _hand(found: re.Match[str]) -> time | None:
    amount, side, hour, named, part, meridiem = found.groups()
    minutes = {"half": 30, "quarter": 15, "a quarter": 15}.get(amount) or int(amount)
    base = _time(int(hour), 0, meridiem, part) if hour else time(12 if named == "noon" else 0)
    if base is None or minutes > 59:
        return None
    # "quarter to one" is 12:45, so the hour decides the half of the day before minutes are taken off
    signed = minutes if side in ("past", "after") else -minutes
    return (datetime.combine(date(2000, 1, 2), base) + timedelta(minutes=signed)).time()


def _time(hour: int, minute: int, meridiem: str | None, part: str | None) -> time | None:
    if hour > 23 or minute > 59:
        return None
    if hour > 12 or hour == 0:
        return time(hour, minute)
    if meridiem:
        return time(hour % 12 + (12 if meridiem == "pm" else 0), minute)
    if part:
        later = part in ("afternoon", "evening", "night")
        return time(hour % 12 + 12 if later else hour, minute)
    return time(hour + 12 if hour < 9 else hour, minute)
