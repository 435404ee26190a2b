"""The times of day that a line names.

A bare hour is read for an office that is open from nine to six: "at three" is 15:00, "at ten" is 10:00. "Half four" is
half past four.
"""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import islice
from typing import Final

from oneroof.office.hours import CLOSES, OPENS, VIEWING_MINUTES
from oneroof.understanding.mentions import Found, blank

_MOST: Final = 50  # mentions that are read; more are left over, and read back
_FIRST: Final = OPENS
_LAST: Final = (datetime.combine(datetime(2000, 1, 1), CLOSES) - timedelta(minutes=VIEWING_MINUTES)).time()

_NOT_A_TIME: Final = (
    r"(?![0-9]|[.,:/][0-9]| ?(?:%|st\b|nd\b|rd\b|th\b|bed|bath|br\b|square|sq|dollar|percent|minute|hour|day|week|"
    r"month|year|people|kid|person|of us|home|house|listing|thousand|million))"
)
_PART: Final = r"(?:,? ?(?:in the |this |at |on the )?(morning|afternoon|evening|night)\b|,? ?(am|pm)\b)?"
_OCLOCK: Final = r"(?: o'?clock)?"

_HAND: Final = re.compile(
    r"\b(half|(?:a )?quarter|5|10|20|25|[0-9]{1,2}(?= minutes?)) ?(minutes? )?(past|after|to|before|til|till|of) "
    r"(?:([0-9]{1,2})|(noon|midnight))" + _NOT_A_TIME + _OCLOCK + _PART
)
_HALF: Final = re.compile(r"\bhalf ([0-9]{1,2})" + _NOT_A_TIME + r"(?! million)" + _OCLOCK + _PART)
_NAMED: Final = re.compile(
    r"\b(noon|midday|mid day|midnight|(?:the )?(?:1st|first) thing|as (?:early|soon) as (?:possible|you can|i can)|"
    r"(?:the )?(?:earliest|soonest)(?: (?:possible|you have|you can do|you've got|slot|time|appointment|available))*|"
    r"asap|"
    r"as late as (?:possible|you can)|last thing|(?:the )?latest (?:possible|slot|time|appointment)|"
    r"lunch ?time|lunch|tea ?time|breakfast|dinner ?time|midmorning|mid morning|mid afternoon|midafternoon|"
    r"close of business|end of the day|end of day|after work|before work|any ?time|some ?time|whenever)\b"
)
_DIGITS: Final = re.compile(r"\b([0-9]{1,2})(?:[:.]| ?h ?)([0-9]{2})" + _NOT_A_TIME + _OCLOCK + _PART)
_MILITARY: Final = re.compile(r"\b([01][0-9]|2[0-3])([0-5][0-9]) ?(?:hours|hrs|h)\b" + _PART)
_PAIR: Final = re.compile(
    r"\b([0-9]{1,2}) (?:0 ([0-9])|([0-5][0-9]))(?= ?(?:am|pm)\b| in the | o'?clock)" + _OCLOCK + _PART
)
_LEAD: Final = (
    r"(?:\bat|\bthen|\baround|\babout|\broughly|\bafter|\bbefore|\bby|\bfrom|\bbetween|\buntil|\btill|\bpast|\bmake it|"
    r"\bmake that|\b(?:change|move|push|switch|bring|put|shift|moved|changed) (?:it|that)(?: back| forward)? to|"
    r"\bsay|\bthan|_[,.;]?|\bthe time is|\btime) (?:like |about |around |say |exactly |precisely )?"
)
_AT_PAIR: Final = re.compile(_LEAD + r"([0-9]{1,2}) (?:0 ([0-9])|([0-5][0-9]))" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_HOUR: Final = re.compile(
    r"\b([0-9]{1,2})(?:ish)?(?: ?o'?clock" + _PART + r"|(?:,? ?in the (morning|afternoon|evening))\b| ?(am|pm)\b)"
)
_AT_HOUR: Final = re.compile(_LEAD + r"([0-9]{1,2})(?: ?-?ish)?\b" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_ISH: Final = re.compile(r"\b([0-9]{1,2})(?: ?-?ish)\b" + _PART)
_ANOTHER: Final = re.compile(
    r"(?:or|and|to|-|till|until|no,?|no wait,?) (?:at )?([0-9]{1,2})\b" + _NOT_A_TIME + "(?! [0-9])" + _PART
)
_BARE_HOUR: Final = re.compile(r"\b([0-9]{1,2})(?:ish)?\b" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_BARE_PAIR: Final = re.compile(r"\b([0-9]{1,2}) ?(?:0 ([0-9])|([0-5][0-9]))\b" + _NOT_A_TIME + "(?! [0-9])" + _PART)
_SHIFT: Final = re.compile(
    r"\b(?:(?:an?|half an?|[0-9]{1,2}) (?:hours?|minutes?) |a (?:bit|little|while) |much |slightly |somewhat )?"
    r"(?:earlier|later)\b(?! (?:than|in|on|this|next))"
)

# Words beside a time that make it a span ("after three"), or a guess ("around three").
_SPAN_BEFORE: Final = re.compile(
    r"\b(?:after|before|by|from|between|until|till|later than|earlier than|past|sooner than|not before|no later than|"
    r"no earlier than|any ?time|"
    r"some ?time)(?: (?:about|around|at|like|say))? ?$"
)
_SPAN_AFTER: Final = re.compile(
    r" ?(?:or (?:later|earlier|after|so later)|onwards?|at the (?:latest|earliest)|and (?:after|later)|(?:to|past|"
    r"till?)(?= *(?:$|[,.?!_]|please\b|on\b|for\b|at\b|in\b))|plus)\b"
)
_GUESS_BEFORE: Final = re.compile(
    r"\b(?:around|(?<!how )(?<!what )about|roughly|approximately|approx|circa|maybe|perhaps|possibly|"
    r"(?<!'d )(?<!would )like|near|close to|nearly|almost|"
    r"just after|just before|towards)"
    r"(?: at| about| like)? ?$"
)
_GUESS_AFTER: Final = re.compile(
    r" ?-?(?:ish\b|or so\b|or thereabouts\b|roughly\b|maybe\b|perhaps\b|sharpish\b|give or take\b)"
)


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day that a line names; ``at`` is None where it does not say which ("after three")."""

    at: time | None = None
    sure: bool = True


def read_clocks(text: str, *, expected: bool) -> tuple[list[Found[Clock]], str]:
    """Every time of day in ``text``, in order, and ``text`` with their words blanked.

    ``expected``: the office has just asked for a time, so a number alone is one.
    """
    found: list[Found[Clock]] = []
    part = _part(text)
    bare = (_BARE_PAIR, _BARE_HOUR) if expected else ()
    patterns = (_HAND, _HALF, _NAMED, _DIGITS, _MILITARY, _PAIR, _AT_PAIR, *bare[:1], _HOUR, _AT_HOUR, _ISH, *bare[1:])
    for pattern in patterns:
        for match in islice(pattern.finditer(text), max(0, _MOST - len(found))):
            _take(pattern, match, text, part, found)
        for one in found:
            text = blank(text, one.start, one.end)
    if found:  # "at three or four"
        for match in islice(_ANOTHER.finditer(text), _MOST):
            if any(0 <= match.start() - one.end <= 3 for one in found):
                _take(_ANOTHER, match, text, part, found)
        for one in found:
            text = blank(text, one.start, one.end)
    elif match := _SHIFT.search(text):
        found.append(Found(match.start(), match.end(), Clock()))
        text = blank(text, match.start(), match.end())
    return sorted(found, key=lambda one: one.start), text


def _take(pattern: re.Pattern[str], match: re.Match[str], text: str, part: str, found: list[Found[Clock]]) -> None:
    clock = _named(match[1]) if pattern is _NAMED else _clock(pattern, match, part)
    if clock is None:
        return
    start, end = match.start(), match.end()
    if pattern in (_AT_PAIR, _AT_HOUR, _ANOTHER):
        start = match.start(1)  # the word before it says what kind of time it is
    before, after = text[:start], text[end:]
    if span := _SPAN_BEFORE.search(before):
        clock, start = Clock(), span.start()
    elif guess := _GUESS_BEFORE.search(before):
        clock, start = Clock(clock.at, sure=False), guess.start()
    if span := _SPAN_AFTER.match(after):
        clock, end = Clock(), end + span.end()
    elif guess := _GUESS_AFTER.match(after):
        clock, end = Clock(clock.at, sure=False), end + guess.end()
    if "ish" in match[0]:
        clock = Clock(clock.at, sure=False)
    found.append(Found(start, end, clock))


def _named(words: str) -> Clock:
    if words in ("noon", "midday", "mid day"):
        return Clock(time(12))
    if words == "midnight":
        return Clock(time(0))
    if words.endswith(("1st thing", "first thing")) or words.startswith("as early"):
        return Clock(_FIRST, sure=False)
    if words.startswith(("as late", "last thing")):
        return Clock(_LAST, sure=False)
    return Clock()


def _clock(pattern: re.Pattern[str], match: re.Match[str], part: str) -> Clock | None:
    groups = match.groups()
    meridiem = next((group for group in groups[1:] if group in ("am", "pm")), None)
    own = next((group for group in groups[1:] if group in ("morning", "afternoon", "evening", "night")), None)
    if pattern is _HAND:
        return _hand(match, meridiem, own or part)
    hour, minute = int(groups[0]), 30 if pattern is _HALF else 0
    if pattern in (_DIGITS, _MILITARY, _PAIR, _AT_PAIR, _BARE_PAIR):
        minute = int(next(group for group in groups[1:-2] if group))
    at = _time(hour, minute, meridiem, own or part)
    return None if at is None else Clock(at)


def _hand(match: re.Match[str], meridiem: str | None, part: str | None) -> Clock | None:
    amount, spelled, side, hour, named = match.groups()[:5]
    minutes = {"half": 30, "quarter": 15, "a quarter": 15}.get(amount) or int(amount)
    base = _time(int(hour), 0, meridiem, part) if hour else time(12 if named == "noon" else 0)
    if base is None or minutes > 59 or (side == "of" and amount not in ("quarter", "a quarter", "5", "10", "20")):
        return None
    # "quarter to one" is 12:45, so the hour decides the half of the day before minutes are taken off
    signed = minutes if side in ("past", "after") else -minutes
    at = (datetime.combine(datetime(2000, 1, 2), base) + timedelta(minutes=signed)).time()
    # "ten to three" may be a span of hours, and "quarter of three" means different things to different people
    sure = side != "of" and not (
        side in ("to", "til", "till", "before", "after") and amount in ("5", "10") and not spelled
    )
    return Clock(at, sure=sure)


def _part(text: str) -> str:
    """The part of the day that the whole line names, if it names one."""
    found = set(re.findall(r"(?<!good )(?<!^)\b(morning|afternoon|evening)\b", text))
    return found.pop() if len(found) == 1 else ""


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
