"""The prices that a line names, in US dollars."""

import re
from dataclasses import dataclass
from typing import Final

from oneroof.understanding.mentions import blank

_DEAREST: Final = 100_000_000
_LEAST_THOUSANDS: Final = 100  # "under 90" is no price of a home
_LEAST_LOOSE: Final = 50_000  # a plain amount of less is not the price of a home

_MONEY: Final = (
    r"\$? ?([0-9]{1,2} [0-9]{2}|[0-9]+(?:\.[0-9]+)?)"
    r"(?! ?(?:bed|bath|br\b|ba\b|square|sq|sf\b|feet|foot|ft\b|minute|hour|day|week|year|am\b|pm\b|o'clock|percent|"
    r"mile|block|or more bed|[0-9]))\b"
    r"(?: ?(?:dollars|bucks|usd))?"
)
_BETWEEN: Final = re.compile(r"\b(?:(between|from|for|range is|budget is) )?" + _MONEY + r" ?(?:and|to|-) ?" + _MONEY)
_LOW_WORDS: Final = (
    r"nothing (?:under|below|less than)|not (?:under|below|less than|cheaper than)|no (?:less|cheaper) than|"
    r"no lower than|over|above|more than|at least|"
    r"min(?:imum)?(?: of| is)?|starting at|starting from|upwards of|north of|from"
)
_HIGH_WORDS: Final = (
    r"(?:can't|cannot|can not|couldn't|won't|don't want to|do not want to|not) (?:go|spend|pay|afford|stretch)(?: to)? "
    r"(?:over|above|more than|beyond|past)|nothing (?:over|above|more than)|not (?:over|above|more than)|no (?:more|"
    r"higher|dearer) than|under|below|less than|at most|up to|upto|"
    r"max(?:imum)?(?: of| is| budget)?|cheaper than|budget(?: is| of|'s)?(?: about| around| up to)?|"
    r"(?:afford|spend|spending|pay)(?: up to| about| around| at most)?|for less than|within|top(?:s| of)?|ceiling of|"
    r"limit(?: is| of)?"
)
# "no more than" is not "more than"
_NOT_DENIED: Final = r"(?:\bbut )?(?<!\bno )(?<!\bnot )(?<!\bnothing )(?<!\bgo )(?<!\bspend )(?<!\bpay )(?<!\bafford )"
_LOW: Final = re.compile(rf"{_NOT_DENIED}\b(?:{_LOW_WORDS}) {_MONEY}")
_HIGH: Final = re.compile(rf"{_NOT_DENIED}\b(?:{_HIGH_WORDS}) {_MONEY}(?: (?:max|maximum|tops|at most))?")
_HIGH_AFTER: Final = re.compile(rf"{_MONEY} ?,?(?:max|maximum|tops|at most|or less|or under|or below|budget)\b")
_SIGNS: Final = re.compile(rf"([<>\u2264\u2265])=? ?{_MONEY}")
_PLUS: Final = re.compile(rf"{_MONEY} ?\+")
_LOW_AFTER: Final = re.compile(rf"{_MONEY} ?,?(?:minimum|min|or more|or above|or over|at least|and up|plus)\b")
_ABOUT: Final = re.compile(r"\b(around|about|roughly|approximately|for) " + _MONEY)
_AMOUNT: Final = re.compile(r"\$ ?([0-9]+(?:\.[0-9]+)?)\b|\b([0-9]{6,8})\b")


@dataclass(frozen=True, slots=True)
class Prices:
    """The limits that a line sets; None where it sets none. Not ``sure``: they are a guess ("about 700")."""

    low: int | None = None
    high: int | None = None
    sure: bool = True


def read_prices(text: str) -> tuple[Prices, str]:
    """The prices of ``text``, and ``text`` with them blanked."""
    for found in _BETWEEN.finditer(text):
        high = _dollars(found[3], 0)
        low = _dollars(found[2], high)
        as_prices = found[1] or "$" in found[0] or float(found[3].replace(" ", "")) >= _LEAST_LOOSE
        if low and high and as_prices:
            return Prices(min(low, high), max(low, high)), blank(text, *found.span())
    low = high = None
    for found in list(_SIGNS.finditer(text)):
        if price := _dollars(found[2], None):
            low, high = (price, high) if found[1] in ">\u2265" else (low, price)
            text = blank(text, *found.span())
    for pattern, is_low in ((_LOW, True), (_HIGH, False), (_HIGH_AFTER, False), (_LOW_AFTER, True), (_PLUS, True)):
        for found in list(pattern.finditer(text)):
            if price := _dollars(found[1], None):
                low, high = (price, high) if is_low else (low, price)
                text = blank(text, *found.span())
    if low is None and high is None:
        return _loose(text)
    return Prices(low, high), text


def _loose(text: str) -> tuple[Prices, str]:
    for found in _ABOUT.finditer(text):
        price = _dollars(found[2], None)
        if price and price == int(float(found[2].replace(" ", ""))):
            near = found[1] != "for"
            prices = Prices(price * 9 // 10, price * 11 // 10, sure=False) if near else Prices(None, price)
            return prices, blank(text, *found.span())
    for found in _AMOUNT.finditer(text):
        price = _dollars(found[1] or found[2], None)
        if price and price >= _LEAST_LOOSE:
            return Prices(None, price), blank(text, *found.span())
    return Prices(), text


def _dollars(amount: str, beside: int | None) -> int | None:
    """An amount as home prices are spoken: "850" and "8 50" are thousands, "1.2" is millions."""
    plain = amount.replace(" ", "")
    value = float(plain)
    if value < 20 and (" " not in amount):
        # "between 1 and 2 million" and "under 1.2"
        dollars = value * 1_000_000 if "." in plain or beside else 0.0
    elif value < _LEAST_THOUSANDS:
        dollars = 0.0
    elif value < 10_000:
        dollars = value * 1_000
    else:
        dollars = value
    return round(dollars) if 20_000 <= dollars <= _DEAREST else None
