"""Telephone numbers as they are spoken or written, in E.164."""

import re
from dataclasses import dataclass, field

import phonenumbers

from oneroof.understanding.mentions import blank

_RUN = re.compile(r"(?<![\w$.:/])\+?\(?[0-9](?:[0-9()\-., ]{0,60}[0-9])?")
_CUE = re.compile(
    r"\b(?:my (?:phone |cell |mobile |new |other )?(?:number|phone|cell|mobile)|phone number|callback number|"
    r"(?:call|phone|ring|reach|text) me(?: back)?(?: at| on)|number is|area code|it is a (?:cell|mobile))\b"
)
_DENIED = re.compile(r"\b(?:not|instead of|rather than|no longer) $")
_MOST_GROUPS = 24  # digit groups of one run that are tried as a number


@dataclass(frozen=True, slots=True)
class Phone:
    """The number that a line gives, or ``impossible`` if what it gives cannot be one."""

    number: str | None = field(default=None, repr=False)
    impossible: bool = False


def read_phone(text: str, *, expected: bool = False) -> tuple[Phone, str]:
    """The telephone number in ``text``, and ``text`` with it blanked by underscores.

    ``expected``: the office has just asked for one, so digits that are none are an impossible one.
    """
    cue = _CUE.search(text)
    wrong = False
    last: str | None = None  # "206 555 0142, no, 0143": the newest number counts
    rest = text
    for run in _RUN.finditer(text):
        if found := _number_in(run[0]):
            last = found[0]
            while found:
                start, end = found[1] + run.start(), found[2] + run.start()
                denied = _DENIED.search(rest[:start])
                rest = blank(rest, denied.start() if denied else start, end)
                found = _number_in(run[0][: found[1]])
            continue
        size = sum(char.isdigit() for char in run[0])
        after_cue = cue is not None and 0 <= run.start() - cue.end() < 12
        listings = all(len(group) in (4, 5) for group in re.findall(r"[0-9]+", run[0]))
        wrong = wrong or (size > 10 and not listings) or (size >= 3 and after_cue)
        wrong = wrong or (size >= 7 and expected and not listings)
    if last is not None:
        return Phone(last), rest
    if wrong or (expected and re.fullmatch(r"\W*[0-9][0-9\W]*", text)):
        return Phone(impossible=True), _RUN.sub(_blank_long, text)
    return Phone(), text


def phone_number(given: str) -> str | None:
    """The one number that ``given`` is, in E.164; None if it is not a number that can be called."""
    return read_phone(given, expected=True)[0].number


def has_cue(text: str) -> bool:
    """Whether the line speaks of a telephone number."""
    return _CUE.search(text) is not None


def _blank_long(found: re.Match[str]) -> str:
    size = sum(char.isdigit() for char in found[0])
    return "_" * len(found[0]) if size >= 3 else found[0]


def _number_in(run: str) -> tuple[str, int, int] | None:
    """The number in a run of digit groups, and where it stands.

    A listing number or an hour may run into it ("1042, 206 555 0142"), so every window of groups
    is tried, the last and the plain ten digits first.
    """
    if run.startswith("+"):
        number = _valid(run)
        return (number, 0, len(run)) if number else None
    groups = list(re.finditer(r"[0-9]+", run))[-_MOST_GROUPS:]
    for size in (10, 11):
        for last in range(len(groups) - 1, -1, -1):
            digits = ""
            for first in range(last, -1, -1):
                digits = groups[first][0] + digits
                if len(digits) >= size:
                    break
            else:
                continue
            if len(digits) == size and (size == 10 or digits.startswith("1")) and (number := _valid(digits)):
                return number, groups[first].start(), groups[last].end()
    return None


def _valid(digits: str) -> str | None:
    try:
        number = phonenumbers.parse(digits, "US")
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
