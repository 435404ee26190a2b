"""The days that a line names: a table of phrases, each with the reader of its day."""

import re
from calendar import day_abbr, day_name, month_abbr, month_name
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice
from typing import Final

from oneroof.understanding.mentions import Found, blank

_MOST: Final = 50  # mentions that are read; more are left over, and read back
FARTHEST: Final = timedelta(days=366)

WEEKDAYS: Final = (
    {name.lower(): n for n, name in enumerate(day_name)}
    | {name.lower(): n for n, name in enumerate(day_abbr)}
    | {"tues": 1, "weds": 2, "thur": 3, "thurs": 3}
)
MONTHS: Final = (
    {name.lower(): n for n, name in enumerate(month_name) if n}
    | {name.lower(): n for n, name in enumerate(month_abbr) if n}
    | {"sept": 9}
)


def _one_of(names: dict[str, int], but: tuple[str, ...] = ()) -> str:
    return "|".join(sorted((name for name in names if name not in but), key=len, reverse=True))


# "sat" and "sun" are words too, so they need company; so do "march" and "may", which need a number beside them
_D: Final = rf"(?:{_one_of(WEEKDAYS, ('sat', 'sun'))}|(?<=on )sat|(?<=on )sun|(?<=this )sat|(?<=this )sun)"
_M: Final = rf"(?:{_one_of(MONTHS)})\.?"
_N: Final = r"(?:[12][0-9]|3[01]|0?[1-9])"
_TH: Final = r"(?:st|nd|rd|th)"
_YEAR: Final = r"(?:,? (20[0-9]{2}))?"
_COUNT: Final = r"(?:an?|[0-9]{1,2})"
_NOT_A_HOME: Final = (
    r"(?! ?(?:one|home|house|place|option|listing|property|floor|avenue|ave|street|st|bed|bath|time|thing|offer|"
    r"choice|reason|question|visit|viewing|call)\b)"
)
_SPAN: Final = re.compile(
    r"\b(?:after|before|by|until|till?|since|past|from|between|(?:later|earlier|sooner) than|not before|up to|through|"
    r"(?:day|days|week|weeks|eve) of)(?: the)? ?$"
)
_GUESS: Final = re.compile(
    r"\b(?:around|(?<!how )(?<!what )about|roughly|maybe|perhaps|possibly|probably)(?: on)?(?: the)? ?$"
)
# "the first available appointment" names no day: what follows a number alone has to allow for one
_ENDS: Final = (
    r"(?= *(?:$|[^a-z0-9 ]|(?:at|of|in|on|around|about|from|for|please|or|and|if|by|before|after|would|works|work|is|"
    r"to|then|thanks|"
    r"sounds|will|should|when|with|instead|the|my|no|not|but|say|between|maybe|can|could|i|we|it|that|suits|morning|"
    r"afternoon|evening|until|till|any|half|quarter|noon|right|today|this|next|good|fine|ok|okay|yes|correct|sure|um|er|so|1st|[0-9]+)\b))"
)
_MOST_WEEKS: Final = 8  # more are read back: "ten thirty two weeks on Saturday" is not 32 weeks
_HOLIDAYS: Final = {
    "christmas eve": (12, 24),
    "christmas day": (12, 25),
    "boxing day": (12, 26),
    "new year's eve": (12, 31),
    "new year's day": (1, 1),
    "valentine's day": (2, 14),
    "halloween": (10, 31),
    "independence day": (7, 4),
}


@dataclass(frozen=True, slots=True)
class Day:
    """A day that a line names.

    ``on`` is None where the line does not say which day ("next week"). ``sure``: nobody could mean another day.
    ``over``: it is past, or does not exist. ``weekday``: it was named by its weekday, so the next one will do if its
    time has passed. ``nth``: only the number in its month was named.
    """

    on: date | None = None
    sure: bool = True
    over: bool = False
    weekday: bool = False
    nth: int = 0


type _Reader = Callable[[re.Match[str], date], Day]


def read_days(text: str, today: date) -> tuple[list[Found[Day]], str]:
    """Every day that ``text`` names, in order, and ``text`` with their words blanked."""
    found: list[Found[Day]] = []
    for pattern, read in _TABLE:
        for match in islice(pattern.finditer(text), max(0, _MOST - len(found))):
            try:
                day = read(match, today)
            except (ValueError, OverflowError):
                day = Day(over=True)
            start, day = _hedge(text, match.start(), day)
            # "this afternoon" stays legible for the reader of the time
            end = match.start(1) - 1 if match[0].startswith("this ") and pattern is _NEAR else match.end()
            found.append(Found(start, end, day))
            text = blank(text, start, end)
    return sorted(found, key=lambda one: one.start), text


def _hedge(text: str, start: int, day: Day) -> tuple[int, Day]:
    """A day with the words before it: "before Friday" names no day, "maybe Friday" is not sure."""
    if span := _SPAN.search(text[:start]):
        return span.start(), replace(day, on=None, sure=True)
    if guess := _GUESS.search(text[:start]):
        return guess.start(), replace(day, sure=False)
    return start, day


def _coming(weekday: str, today: date) -> date:
    return today + timedelta(days=(WEEKDAYS[weekday] - today.weekday()) % 7)


def _in_days(match: re.Match[str], today: date) -> Day:
    count = 1 if match[1] in ("a", "an") else int(match[1])
    unit = match[2]
    days = count * {"day": 1, "week": 7, "fortnight": 14, "month": 30}[unit]
    return _as_day(today + timedelta(days=days), today, sure=unit != "month" and days <= 7 * _MOST_WEEKS)


def _weeks_from(match: re.Match[str], today: date) -> Day:
    """ "A week on Tuesday", "two weeks from tomorrow"."""
    count = {"a": 1, "an": 1, "": 1}.get(match[1] or "") or int(match[1])
    weeks = count * (2 if match[2] == "fortnight" else 1)
    base = {"today": today, "tomorrow": today + timedelta(days=1)}.get(match[4])
    sure = base is not None or (WEEKDAYS[match[4]] != today.weekday() and match[3] is None)
    sure = sure and match[1] is not None
    return _as_day(
        (base or _coming(match[4], today)) + timedelta(weeks=weeks), today, sure=sure and weeks <= _MOST_WEEKS
    )


def _week_after(match: re.Match[str], today: date) -> Day:
    """ "Tuesday week", "tomorrow week"."""
    weeks = 2 if match[2] == "fortnight" else 1
    if match[1] in ("today", "tomorrow", "this day"):
        return Day(today + timedelta(days=(match[1] == "tomorrow") + 7 * weeks))
    return Day(_coming(match[1], today) + timedelta(weeks=weeks), sure=WEEKDAYS[match[1]] != today.weekday())


def _second(match: re.Match[str], today: date) -> Day:
    """ "The Tuesday after next", "next but one Tuesday": the second from now, though some count otherwise."""
    weekday = next(group for group in match.groups() if group)
    first = _coming(weekday, today + timedelta(days=1))
    return Day(first + timedelta(days=7), sure=False)


def _count_of(match: re.Match[str], today: date) -> Day:
    """ "Three Fridays from now": some count today's, some do not."""
    first = _coming(match[2], today + timedelta(days=1))
    return _as_day(first + timedelta(weeks=max(0, int(match[1]) - 1)), today, sure=False)


def _nth_weekday(match: re.Match[str], today: date) -> Day:
    which, weekday, month, year = match.groups()
    if month.startswith(("next", "this", "the")):
        first = today.replace(day=1)
        first = (first + timedelta(days=32)).replace(day=1) if month.startswith("next") else first
        return _as_day(_weekday_in(which, WEEKDAYS[weekday], first), today)
    number = MONTHS[month.rstrip(".")]
    for candidate in [int(year)] if year else [today.year, today.year + 1]:
        day = _weekday_in(which, WEEKDAYS[weekday], date(candidate, number, 1))
        if day is None or day >= today:
            return _as_day(day, today)
    return Day(over=True)


def _weekday_in(which: str, weekday: int, first: date) -> date | None:
    """The first, second … or last such weekday of a month; None where there are fewer."""
    days = [first + timedelta(days=n) for n in range(31) if (first + timedelta(days=n)).month == first.month]
    days = [day for day in days if day.weekday() == weekday]
    if which == "last":
        return days[-1]
    return days[int(which[:-2]) - 1] if int(which[:-2]) <= len(days) else None


def _next_week(match: re.Match[str], today: date) -> Day:
    monday = today - timedelta(days=today.weekday()) + timedelta(days=7)
    weekday = next(group for group in match.groups() if group)
    return Day(monday + timedelta(days=WEEKDAYS[weekday]))


def _weekday(match: re.Match[str], today: date) -> Day:
    """A weekday alone. On that very weekday it may be today's, and "next Friday" may be this week's."""
    coming = _coming(match[2], today)
    if match[1] == "next":
        return Day(_next_week_day(match[2], today), sure=_next_week_day(match[2], today) == coming)
    return Day(coming, sure=coming != today and not match[3], weekday=True)


def _next_week_day(weekday: str, today: date) -> date:
    return today - timedelta(days=today.weekday()) + timedelta(days=7 + WEEKDAYS[weekday])


def _month_day(month: str, number: str, year: str | None, today: date) -> Day:
    month_number = MONTHS[month.rstrip(".")]
    if year:
        return _as_day(_date(int(year), month_number, int(number)), today)
    day = _date(today.year, month_number, int(number))
    if day and day < today - timedelta(days=60):
        # one up to two months back is over rather than nearly a year away
        day = _date(today.year + 1, month_number, int(number))
    if day is None and month_number == 2 and int(number) == 29:
        day = _date(today.year + 1, 2, 29)
    return _as_day(day, today)


def _slashed(match: re.Match[str], today: date) -> Day:
    month, number, year = match.groups()
    if int(month) > 12:  # the day first, as the British write
        month, number = number, month
    if int(month) > 12:
        return Day(over=True)
    day = _date(int(year), int(month), int(number)) if year else None
    if not year:
        day = _month_day(list(MONTHS)[int(month) - 1], number, None, today).on
    return _as_day(day, today, sure=int(number) > 12 or month == number)


def _nth(match: re.Match[str], today: date) -> Day:
    """ "The 9th": of this month, or of the next if it is over; not sure where this month is too short for it."""
    number, month = int(match[1]), match[2]
    first = today.replace(day=1)
    if month:
        first = (first + timedelta(days=32)).replace(day=1) if month == "next" else first
        return _as_day(_date(first.year, first.month, number), today)
    sure = _date(first.year, first.month, number) is not None
    for _ in range(4):
        day = _date(first.year, first.month, number)
        if day and day >= today:
            return Day(day, sure=sure, nth=number)
        first = (first + timedelta(days=32)).replace(day=1)
    return Day(over=True)


def _holiday(match: re.Match[str], today: date) -> Day:
    month, number = _HOLIDAYS[match[1]]
    day = date(today.year, month, number)
    return Day(day if day >= today else date(today.year + 1, month, number), sure=False)


def _thanksgiving(_: re.Match[str], today: date) -> Day:
    for year in (today.year, today.year + 1):
        day = _weekday_in("4th", 3, date(year, 11, 1))
        if day and day >= today:
            return Day(day, sure=False)
    return Day()


def _as_day(day: date | None, today: date, *, sure: bool = True) -> Day:
    return Day(day, sure=sure) if day and today <= day <= today + FARTHEST else Day(over=True)


def _date(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None


_NEAR: Final = re.compile(r"\b(?:today|tonight|tomorrow|tmrw|tmw|this (morning|afternoon|evening))\b")
_PERIOD: Final = rf"(?:the )?(?:week|month|year|weekend|{_M})"
_SOME_DAY: Final = (
    rf"\b(?:on )?(?:an?|any|every|each|some|most|all) (?:other )?(?:{_D})s?\b|"
    rf"\b(?:the )?(?:1st|2nd|3rd|4th|5th) (?:{_D})\b|\b{_M},? 20[0-9]{{2}}\b|"
    rf"\b(?:(?:at |by |before |towards |around |after )?the )?(?:end|start|beginning|middle|1st half|2nd half|"
    rf"1st week|2nd week|3rd week|"
    rf"last week|last day|early part) of (?:next |this )?{_PERIOD}\b|"
    rf"\b(?:early|late|later|mid|middle of|end of|start of|sometime|some time|any time|anytime|one day|a day|"
    rf"earlier) ?,?-? ?"
    rf"(?:in |on |during )?(?:next |this |the )?(?:week|month|year|weekend|{_M})\b|"
    r"\b(?:the )?(?:day|week|weekend|month) (?:after|before)(?: (?:next|that|this))?\b|\bthe (?:following|"
    r"coming) (?:week|weekend|"
    r"month)\b|"
    r"\b(?:next|this|at the|over the|during the|in the) (?:week|weekend|month|year|spring|summer|autumn|fall|winter)\b|"
    r"\b(?:on )?(?:a )?(?:weekday|weekdays|weekend|weekends|weeknight|weekday evening)\b|"
    r"\b(?:in|before|after|around|over|by|until|till) (?:the )?"
    rf"(?:(?:new year|christmas|xmas|easter|holidays|thanksgiving)\b|{_M}(?! ?[0-9](?!st thing))\b)|"
    r"\b(?:an?|[0-9]{1,2}) (?:day|week|month)s? (?:later|earlier|after|before)\b|"
    r"\b(?:back|forward) (?:an?|[0-9]{1,2}) (?:day|week)s?\b|"
    r"\b(?:soon|one of these days|another day|a different day|any day|some day|someday|whenever)\b"
)

# The longest phrases first: each takes its words out of the text before the next looks.
_TABLE: Final[tuple[tuple[re.Pattern[str], _Reader], ...]] = (
    (
        re.compile(
            rf"\byesterday\b|\blast (?:night|week|month|weekend|year|{_D})\b(?! (?:of|in) )|"
            r"\b(?:an?|[0-9]+|few|couple of) (?:hour|day|week|month|year)s? ago\b"
        ),
        lambda _match, _today: Day(over=True),
    ),
    (
        re.compile(r"\b(?:the )?(?:day after tomorrow|overmorrow)\b"),
        lambda _match, today: Day(today + timedelta(days=2)),
    ),
    (
        re.compile(
            r"\b(?:on )?(?:the )?(christmas eve|christmas day|boxing day|new year's eve|new year's day|"
            r"valentine's day|halloween|independence day)\b"
        ),
        _holiday,
    ),
    (re.compile(r"\bon thanksgiving(?: day)?\b|\bthanksgiving day\b|^thanksgiving\b"), _thanksgiving),
    (
        re.compile(
            rf"\b(?:({_COUNT}) )?(week|fortnight)s? (?:on|from|after)? ?(this |next |coming )?(today|tomorrow|{_D})\b"
        ),
        _weeks_from,
    ),
    (re.compile(rf"\b(today|tomorrow|this day|{_D}),? (week|fortnight)\b"), _week_after),
    (
        re.compile(
            rf"\b(?:the )?({_D}) after next\b|\bnext but 1 ({_D})\b|\bnext but one ({_D})\b|"
            rf"\b({_D}) (?:but one|but 1)\b|\b(?:the )?next ({_D}) but (?:one|1)\b|\b(?:the )?({_D}) next but (?:one|"
            rf"1)\b|"
            rf"\b(?:the )?({_D}) after (?:that|this)\b|\b(?:the )?2nd ({_D}) from now\b"
        ),
        _second,
    ),
    (
        re.compile(
            rf"\b(?:on )?(?:the )?(1st|2nd|3rd|4th|5th|last) ({_D}) (?:of|in)? ?({_M}|next month|this month|"
            rf"the month){_YEAR}\b"
        ),
        _nth_weekday,
    ),
    (re.compile(rf"\b([0-9]{{1,2}}) ({_D})s from (?:now|today)\b"), _count_of),
    (
        re.compile(r"\b(20[0-9]{2})[-/.]([01]?[0-9])[-/.]([0-3]?[0-9])\b"),
        lambda match, today: _as_day(_date(int(match[1]), int(match[2]), int(match[3])), today),
    ),
    (
        re.compile(rf"\b(?:on )?(?:the )?({_N}){_TH} of ({_M}){_YEAR}\b"),
        lambda match, today: _month_day(match[2], match[1], match[3], today),
    ),
    (
        re.compile(rf"\b({_M}) (?:the )?({_N}){_TH}?(?![0-9:]|[.,][0-9]| ?(?:am|pm|o'clock|thing)\b){_YEAR}\b"),
        lambda match, today: _month_day(match[1], match[2], match[3], today),
    ),
    (
        re.compile(rf"\b(?:on )?(?:the )?({_N}){_TH}?(?: of)? ({_M}){_YEAR}\b"),
        lambda match, today: _month_day(match[2], match[1], match[3], today),
    ),
    (re.compile(r"\b(3[01]|[12][0-9]|0?[1-9])/(3[01]|[12][0-9]|0?[1-9])(?:/(20[0-9]{2}))?\b(?![/0-9])"), _slashed),
    (
        re.compile(rf"\bin ({_COUNT}) (day|week|fortnight|month)(?:'s|s'|s)?(?: time| from (?:now|today))?\b"),
        _in_days,
    ),
    (re.compile(rf"\b({_COUNT}) (day|week|fortnight|month)s? (?:from now|from today|hence)\b"), _in_days),
    (
        re.compile(rf"\b({_D}),? (?:of )?next week\b|\bnext week,? (?:on )?(?:the )?({_D})\b"),
        _next_week,
    ),
    (re.compile(_SOME_DAY), lambda _match, _today: Day()),
    (_NEAR, lambda match, today: Day(today + timedelta(days=match[0] in ("tomorrow", "tmrw", "tmw")))),
    (
        re.compile(rf"\b(?:on )?(?:(next|this|this coming|coming|the coming|the following) )?({_D})(?<!')(s(?!'))?\b"),
        _weekday,
    ),
    (
        re.compile(
            rf"\b(?:(?:on )?the |on |, |_,? ?|^|or (?:the )?|and (?:the )?)({_N}){_TH}\b(?: of (next|"
            rf"this) month)?{_NOT_A_HOME}{_ENDS}"
        ),
        _nth,
    ),
)
