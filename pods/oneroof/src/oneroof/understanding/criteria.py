"""What a caller looks for: place, rooms, price, area, water."""

import re
from dataclasses import dataclass

from oneroof.understanding.numbers import word_set
from oneroof.understanding.wishes import Search

# The words callers use for parts of Seattle; which homes lie there is for the search to know.
_KNOWN = (
    "admiral|alki|arbor heights|atlantic|ballard|beacon hill|belltown|bitter lake|blue ridge|broadview|broadway|bryant|"
    "capitol hill|cedar park|central area|central district|columbia city|crown hill|delridge|denny blaine|downtown|"
    "eastlake|fauntleroy|first hill|fremont|gatewood|genesee|georgetown|green lake|greenlake|greenwood|haller lake|"
    "hawthorne hills|high point|highland park|hillman city|interbay|international district|junction|lake city|"
    "lake forest|lakewood|laurelhurst|leschi|licton springs|lower queen anne|loyal heights|madison park|madison valley|"
    "madrona|magnolia|magnuson park|maple leaf|mapleleaf|matthews beach|meadowbrook|montlake|mount baker|mt baker|"
    "north beach|north seattle|northgate|northlake|olympic hills|phinney ridge|phinney|pinehurst|pioneer square|"
    "portage bay|queen anne|rainier beach|rainier valley|rainier view|ravenna|roosevelt|roxhill|sand point|seaview|"
    "seward park|shoreline|sodo|south lake union|south park|south seattle|sunset hill|u district|u dist|"
    "university district|view ridge|victory heights|wallingford|wedgwood|west seattle|westlake|white center|"
    "whittier heights|windermere|yesler terrace|98[01][0-9]{2}"
)
_PLACE = re.compile(r"\b(?:" + "|".join(sorted(_KNOWN.split("|"), key=len, reverse=True)) + r")\b")
_NOT_THERE = re.compile(r"\b(?:not|instead of|rather than|other than|outside of|except) (?:in )?$")
_IN_PLACE = re.compile(
    r"\b(?:in|near|around|close to|next to|over in|out in|towards) (?:the )?(?!_)((?:[a-z][a-z']*\.? ?){1,3})"
)
_PLACE_ENDS = word_set(
    "a an with under over for that and or please at on below above less more than is are to around about near of the "
    "between by if but then instead right now i we my maybe any up max which who you not so from thanks thank too it "
    "asap preferably ideally next this today tomorrow"
)
_NO_PLACE = word_set(
    "area case mind touch particular general person morning afternoon evening budget price range hour hours days day "
    "week weeks month months time minute minutes advance english spanish there here good great fact neighborhood "
    "neighbourhood city town order total years water lake school schools park home house homes houses "
    "listing listings parcel number anywhere wherever "
    "whatever sure idea"
)

_BEDS = re.compile(
    r"\b([0-9]{1,2})\+?(?: (?:or|to) [0-9]{1,2}| or more| plus)? ?-?(?:bed|beds|bedroom|bedrooms|bdrm|bdrms|br|bd)\b"
)
_BATHS = re.compile(
    r"\b([0-9]{1,2}(?:\.[0-9]{1,2})?)\+?(?: (?:or|to) [0-9]{1,2}| or more)? ?-?(?:full )?(?:bath|baths|"
    r"bathroom|bathrooms|ba)\b"
)
_AREA = re.compile(r"\b([0-9]{3,5})\+? ?(?:square feet|square foot|square ft|sq\.? ?ft|sqft|sf)\b")
_MONEY = (
    r"\$? ?([0-9]+(?:\.[0-9]+)?(?: [0-9]{2})?)"
    r"(?! ?(?:bed|bath|br\b|ba\b|square|sq|minute|hour|day|week|year|am\b|pm\b|o'clock|percent|mile|block|[0-9]))\b"
)
_BETWEEN = re.compile(r"\b(?:between|from) " + _MONEY + r" (?:and|to) " + _MONEY)
_MOST = re.compile(
    r"\b(?:under|below|less than|at most|no more than|not more than|up to|max(?:imum)?(?: of| is)?|cheaper than|"
    r"budget(?: is| of|'s)?(?: about| around| up to)?|"
    r"(?:afford|spend)(?: up to| about| around| at most)?|for less than|within) " + _MONEY
)
_LEAST = re.compile(r"\b(?:over|above|more than|at least|min(?:imum)?(?: of| is)?|starting at|no less than) " + _MONEY)
_ABOUT = re.compile(r"\b(?:around|about|roughly|for) " + _MONEY)
_AMOUNT = re.compile(r"\$ ?([0-9]+(?:\.[0-9]+)?)\b|\b([0-9]{6,8})\b")
_WATER = re.compile(
    r"\b(?:waterfront|water front|on the water|lakefront|lake front|beachfront|on the lake|waterside)\b"
)
_DRY = re.compile(r"\b(?:not|no|without|forget|doesn't have to be|don't need)(?: the| a)? (?:waterfront|water front)\b")
_CHEAPER = re.compile(r"\b(?:cheaper|less expensive|too expensive|lower price)\b")
_DEAREST = 100_000_000


@dataclass(frozen=True, slots=True)
class Criteria:
    """What one line says; ``None`` is nothing. ``cheaper`` asks for less than the last search."""

    place: str | None = None
    beds: int | None = None
    baths: float | None = None
    max_price: int | None = None
    min_price: int | None = None
    min_sqft: int | None = None
    waterfront: bool | None = None
    cheaper: bool = False

    def __bool__(self) -> bool:
        return self != _NOTHING

    def onto(self, last: Search | None) -> Search:
        """The search that follows ``last``: what the line says replaces, the rest stays."""
        said = {
            name: value
            for name in ("place", "beds", "baths", "max_price", "min_price", "min_sqft", "waterfront")
            if (value := getattr(self, name)) is not None
        }
        if self.cheaper and last and last.max_price and self.max_price is None:
            said["max_price"] = last.max_price * 85 // 100
        if last and "max_price" in said and last.min_price and last.min_price >= said["max_price"]:
            said.setdefault("min_price", None)
        return (last or Search()).model_copy(update=said)


_NOTHING = Criteria()


def read_criteria(text: str, *, searching: bool = False, expected: bool = False) -> tuple[Criteria, str]:
    """What ``text`` asks of a home, and ``text`` with the numbers of it blanked by underscores.

    ``searching``: the line is about a search, so "in <words>" names a place though it is not a known
    one; ``expected``: the office has just asked for a place, so a name alone is one.
    """
    alone = _lone_name(text) if expected else None
    place = read_place(text, searching=searching or expected)
    beds, text = _take(_BEDS, text)
    baths, text = _take(_BATHS, text)
    area, text = _take(_AREA, text)
    low, high, text = _prices(text)
    water = None if not _WATER.search(text) else not _DRY.search(text)
    found = Criteria(
        place=place,
        beds=int(beds) if beds and 0 < int(beds) <= 20 else None,
        baths=float(baths) if baths and 0 < float(baths) <= 20 else None,
        max_price=high,
        min_price=low,
        min_sqft=int(area) if area else None,
        waterfront=water,
        cheaper=bool(_CHEAPER.search(text)),
    )
    return (Criteria(place=alone) if alone and not found else found), text


def read_place(text: str, *, searching: bool) -> str | None:
    """The neighbourhood in the caller's words, cleaned; known names first, then "in <words>"."""
    known = [match for match in _PLACE.finditer(text) if not _NOT_THERE.search(text[: match.start()])]
    if known:
        # the newest wins: "ballard, no, fremont"
        return known[-1][0]
    for match in _IN_PLACE.finditer(text) if searching else ():
        words = _name(match[1].split())
        if words and not _NOT_THERE.search(text[: match.start()]):
            return " ".join(words)
    return "seattle" if re.search(r"\bseattle\b", text) else None


def _lone_name(text: str) -> str | None:
    """A line of a few words that may be the name of a place, and nothing else."""
    words = re.findall(r"[a-z']+", text)
    name = _name([word for word in words if word not in ("um", "uh", "well", "maybe", "somewhere", "please")])
    return " ".join(name) if name and len(words) <= 4 else None


def _name(words: list[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if word.strip(".") in _PLACE_ENDS:
            break
        kept.append(word.strip("."))
    return [] if any(word in _NO_PLACE for word in kept) else kept


def _take(pattern: re.Pattern[str], text: str) -> tuple[str | None, str]:
    found: str | None = None
    for match in pattern.finditer(text):
        found = match[1]  # the newest wins
    return found, pattern.sub(lambda match: "_" * len(match[0]), text)


def _prices(text: str) -> tuple[int | None, int | None, str]:
    low = high = None
    if found := _BETWEEN.search(text):
        high = _dollars(found[2], None)
        low = _dollars(found[1], high)
        if low and high:
            return min(low, high), max(low, high), _blank(text, found)
    for match in list(_MOST.finditer(text)):
        if price := _dollars(match[1], None):
            high, text = price, _blank(text, match)
    for match in list(_LEAST.finditer(text)):
        if price := _dollars(match[1], None):
            low, text = price, _blank(text, match)
    if low is None and high is None:
        return _loose_price(text)
    return low, high, text


def _loose_price(text: str) -> tuple[int | None, int | None, str]:
    if (
        (found := _ABOUT.search(text))
        and (price := _dollars(found[1], None))
        and price == int(float(found[1].replace(" ", "")))
    ):
        near = not found[0].startswith("for")
        return (price * 9 // 10 if near else None), (price * 11 // 10 if near else price), _blank(text, found)
    if found := _AMOUNT.search(text):
        price = _dollars(found[1] or found[2], None)
        if price and price >= 50_000:
            return None, price, _blank(text, found)
    return None, None, text


def _dollars(amount: str, beside: int | None) -> int | None:
    """An amount as home prices are spoken: "850" and "8 50" are thousands, "1.2" is millions."""
    plain = amount.replace(" ", "")
    value = float(plain)
    if value < 20 and (" " not in amount):
        # "between 1 and 2 million" and "under 1.2"
        dollars = value * 1_000_000 if "." in plain or beside else 0.0
    elif value < 10_000:
        dollars = value * 1_000
    else:
        dollars = value
    return round(dollars) if 20_000 <= dollars <= _DEAREST else None


def _blank(text: str, found: re.Match[str]) -> str:
    return text[: found.start()] + "_" * (found.end() - found.start()) + text[found.end() :]
