"""What a caller looks for: places, rooms, price, area, water, the kind of home."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from oneroof.understanding.mentions import Found, blank, standing
from oneroof.understanding.places import read_places
from oneroof.understanding.prices import Prices, read_prices
from oneroof.understanding.wishes import HomeType, Search

_MOST_ROOMS: Final = 20
_AT_LEAST: Final = r"(?:(?:but )?(at least|minimum(?: of)?|min|no (?:less|fewer) than) )?"
_OVER: Final = r"(?:(?<!no )(?<!not )(more than|over) )?"
_OR_MORE: Final = r"\+?(?: ?(?:or|to|-) ?[0-9]{1,2}| or more| plus| or so)? ?-?"
_BEDS: Final = re.compile(
    _AT_LEAST + _OVER + r"\b([0-9]{1,2})" + _OR_MORE + r"(?:bed|beds|bedroom|bedrooms|bdrm|bdrms|br|bd)\b(?: or more)?"
)
_BATHS: Final = re.compile(
    _AT_LEAST
    + _OVER
    + r"\b([0-9]{1,2}(?:\.[0-9]{1,2})?)"
    + _OR_MORE
    + r"(?:full )?(?:bath|baths|bathroom|bathrooms|ba)\b(?: or more)?"
)
# "at most 3 bedrooms" and "exactly 2 baths" are not what a search can do: their words are left over, and read back
_LIMITED: Final = re.compile(
    r"(?:at most|no more than|not more than|max(?:imum)?(?: of)?|up to|under|less than|fewer than|below|exactly|only|"
    r"just) $"
)
_AREA: Final = re.compile(
    r"\b(?:(at most|no more than|not more than|max(?:imum)?(?: of)?|up to|under|less than|below|smaller than|within)|"
    r"(at least|over|above|more than|min(?:imum)?(?: of)?|bigger than|larger than|no less than|from)|(about|around))? ?"
    r"([0-9]{3,5})\+? ?(?:square feet|square foot|square ft|sq\.? ?ft\.?|sqft|sf)\b(?: or (?:(more|bigger|larger)|"
    r"(less|smaller)))?"
)
_WATER: Final = re.compile(
    r"\b(?:waterfront|water front|on the water|lakefront|lake front|beachfront|on the lake|waterside|"
    r"by the water)(?: (?:home|homes|place|property))?\b"
)
_KINDS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (
        re.compile(
            r"\b(?:townhouse|townhouses|townhome|townhomes|town house|town houses|row house|row houses|rowhouse)\b"
        ),
        "townhouse",
    ),
    (re.compile(r"\b(?:single family|detached|standalone|stand alone)(?: (?:home|homes|house|houses))?\b"), "house"),
    (
        re.compile(
            r"\b(?:condo|condos|condominium|condominiums|apartment|apartments|flat|flats|loft|lofts|duplex|duplexes|"
            r"penthouse)\b"
        ),
        "other",
    ),
)
_NO: Final = re.compile(r"\b(?:no|non) ?-?$")
_OPTIONAL: Final = re.compile(
    r"\b(?:doesn't|does not|don't|do not|needn't|need not|not)(?: (?:have to|need to|necessarily|need|matter if it is))"
    r"(?: (?:be|it|the|a|by|on|to))* ?$"
)
_OPENED: Final = re.compile(
    r"\b(?:forget|never ?mind|ignore|drop|lose|any|no limit (?:on|for|to)|(?:don't|do not) care about|regardless of|"
    r"whatever|"
    r"no matter)(?: about)?(?: the| a)? (price|budget|bedrooms|beds|rooms|baths|bathrooms|size|place|area|neighborhood|"
    r"neighbourhood|waterfront)(?: limit| is fine| is ok| will do)?\b|"
    r"\b(?:the )?(price|budget|money|bedrooms|beds|baths|bathrooms|size|place|area|neighborhood|neighbourhood)"
    r" (?:doesn't matter|does not matter|is no object|isn't important|is not important|is open)\b"
)
_OPENS: Final = {
    "price": ("min_price", "max_price"),
    "budget": ("min_price", "max_price"),
    "money": ("min_price", "max_price"),
    "bedrooms": ("beds",),
    "beds": ("beds",),
    "rooms": ("beds", "baths"),
    "baths": ("baths",),
    "bathrooms": ("baths",),
    "size": ("min_sqft", "max_sqft"),
    "waterfront": ("waterfront", "not_waterfront"),
} | dict.fromkeys(("place", "area", "neighborhood", "neighbourhood"), ("place", "other_places", "not_places"))
_CHEAPER: Final = re.compile(
    r"\b(?:(?:a (?:bit|little) )?cheaper|less expensive|too expensive|lower price|too dear|too much money)\b"
)
_MAKE_IT: Final = re.compile(
    r"\b(?:make (?:it|that)|i meant|i said|i mean|rather|no,?|actually,?|change (?:it|that) to|how about|what about|"
    r"say) (at least )?([0-9]{1,2})(?: of them)?(?: instead| rather| please| actually)?\W*$"
)


@dataclass(frozen=True, slots=True)
class Criteria:
    """What one line says; ``None`` is nothing. ``cheaper`` asks for less than the last search.

    ``rooms`` is a number alone that replaces that of the last search ("make it three"). ``sure``: nobody could
    understand the line otherwise. ``opened`` are the criteria of the last search that no longer matter.
    """

    place: str | None = None
    other_places: tuple[str, ...] | None = None
    not_places: tuple[str, ...] | None = None
    home_type: HomeType | None = None
    beds: int | None = None
    baths: float | None = None
    max_price: int | None = None
    min_price: int | None = None
    min_sqft: int | None = None
    max_sqft: int | None = None
    waterfront: bool | None = None
    cheaper: bool = False
    rooms: int | None = None
    opened: tuple[str, ...] = ()
    sure: bool = True

    def __bool__(self) -> bool:
        return self != _NOTHING

    @property
    def many(self) -> bool:
        """Whether the line says enough to be a search by itself: a place, and more."""
        return self.place is not None and len(self._said()) > 1

    def onto(self, last: Search | None) -> Search:
        """The search that follows ``last``: what the line says replaces, the rest stays."""
        last = last or Search()
        said: dict[str, Any] = {name: Search.model_fields[name].get_default() for name in self.opened} | self._said()
        if self.place or self.not_places:
            said |= {"place": self.place, "other_places": self.other_places or (), "not_places": self.not_places or ()}
        if not self.place and self.not_places and last.place and last.place not in self.not_places:
            said = {name: value for name, value in said.items() if name != "place"}  # it denies what was never wanted
        if self.waterfront is not None:
            said |= {"waterfront": self.waterfront, "not_waterfront": not self.waterfront}
        if self.cheaper and last.max_price and self.max_price is None:
            said["max_price"] = last.max_price * 85 // 100
        if self.rooms is not None and last.beds is not None:
            said["beds"] = self.rooms
        _drop_contrary(said, last, "min_price", "max_price")
        _drop_contrary(said, last, "min_sqft", "max_sqft")
        return last.model_copy(update=said)

    def _said(self) -> dict[str, Any]:
        return {
            name: value
            for name in Search.model_fields
            if name not in ("kind", "other_places", "not_places", "not_waterfront")
            and (value := getattr(self, name)) is not None
        }


_NOTHING: Final = Criteria()


def _drop_contrary(said: dict[str, Any], last: Search, low: str, high: str) -> None:
    """A new limit ends the old one on the other side that it contradicts."""
    for new, old in ((high, low), (low, high)):
        before = getattr(last, old)
        if new in said and old not in said and before is not None:
            least, most = (before, said[new]) if new == high else (said[new], before)
            if least >= most:
                said[old] = None


def read_criteria(
    text: str, *, searching: bool = False, expected: bool = False, amending: bool = False, priced: bool = True
) -> tuple[Criteria, str]:
    """What ``text`` asks of a home, and ``text`` with the words of it blanked by underscores.

    ``searching``: the line is about a search, so "in <words>" names a place though it is not a known one; ``expected``:
    the office has just asked for a place, so a name alone is one; ``amending``: a search is what the call is about, so
    a number alone may change it; ``priced``: numbers may be prices.
    """
    places, text = read_places(text, searching=searching, expected=expected)
    beds, text, sure_beds = _rooms(_BEDS, text, lambda count: int(float(count)) + 1)
    baths, text, sure_baths = _rooms(_BATHS, text, lambda count: float(count) + 0.5)
    low_area, high_area, text, sure_area = _areas(text)
    prices, text = read_prices(text) if priced else (Prices(), text)
    opened, text = _read_opened(text)
    water, text, any_water = _water(text)
    kind, text = _kind(text)
    cheaper = _CHEAPER.search(text)
    text = _CHEAPER.sub(lambda match: "_" * len(match[0]), text)
    rooms = _MAKE_IT.search(text) if amending and not beds else None
    if rooms:
        text = blank(text, *rooms.span())
    found = Criteria(
        place=places.wanted[0] if places.wanted else None,
        other_places=places.wanted[1:] or None,
        not_places=places.denied or None,
        home_type=kind,
        beds=int(beds) if beds else None,
        baths=baths,
        max_price=prices.high,
        min_price=prices.low,
        min_sqft=low_area,
        max_sqft=high_area,
        waterfront=water,
        cheaper=bool(cheaper),
        opened=(*opened, *(("waterfront", "not_waterfront") if any_water else ())),
        rooms=int(rooms[2]) if rooms and 0 < int(rooms[2]) <= _MOST_ROOMS else None,
        sure=places.sure and prices.sure and not cheaper and sure_beds and sure_baths and sure_area,
    )
    return found, text


def _rooms(pattern: re.Pattern[str], text: str, more: Callable[[str], float]) -> tuple[float | None, str, bool]:
    """The least number of rooms; the newest wins. Not sure where a line names several and corrects none."""
    found = [Found(match.start(), match.end(), match) for match in pattern.finditer(text)]
    held = standing(found, text, text)
    if not held.kept:
        return None, text, True  # what is denied cannot be searched for: its words stay, and are read back
    rest = held.text
    for one in (*held.kept, *held.denied):
        rest = blank(rest, one.start, one.end)
    counts = [more(one.value[3]) if one.value[2] else float(one.value[3]) for one in held.kept]
    limited = any(_LIMITED.search(text[: one.start]) for one in held.kept)
    sure = len(set(counts)) == 1 and not limited and 0 < counts[-1] <= _MOST_ROOMS
    return counts[-1] if 0 < counts[-1] <= _MOST_ROOMS else None, rest, sure


def _read_opened(text: str) -> tuple[tuple[str, ...], str]:
    """The criteria that no longer matter: "forget the price"."""
    names: list[str] = []
    for match in list(_OPENED.finditer(text)):
        names += _OPENS[match[1] or match[2]]
        text = blank(text, *match.span())
    return tuple(names), text


def _areas(text: str) -> tuple[int | None, int | None, str, bool]:
    low = high = None
    sure = True
    for match in list(_AREA.finditer(text)):
        if match[1] or match[6]:
            high = int(match[4])
        else:
            low = int(match[4])
            sure = sure and not match[3]
        text = blank(text, *match.span())
    return low, high, text, sure


def _water(text: str) -> tuple[bool | None, str, bool]:
    """Whether the home is to be on the water or not; and whether the line says that it does not matter."""
    found = [Found(match.start(), match.end(), True) for match in _WATER.finditer(text)]
    if found and (optional := _OPTIONAL.search(text[: found[-1].start])):
        text = blank(text, optional.start(), found[-1].end)
        return None, text, True
    held = standing(found, text, text)
    rest = held.text
    for one in found:
        rest = blank(rest, one.start, one.end)
    if held.kept and (no := _NO.search(text[: held.kept[-1].start])):
        return False, blank(rest, *no.span()), False
    return (True if held.kept else False if held.denied else None), rest, False


def _kind(text: str) -> tuple[HomeType | None, str]:
    """The kind of home. A kind that the office does not have stays in the text if it is wanted, to be read back."""
    wanted: list[str] = []
    denied: list[str] = []
    for pattern, kind in _KINDS:
        held = standing([Found(match.start(), match.end(), kind) for match in pattern.finditer(text)], text, text)
        no = [one for one in held.kept if _NO.search(text[: one.start])]
        kept = [one for one in held.kept if one not in no]
        text = held.text
        for one in (*held.denied, *no):
            text = blank(text, one.start, one.end)
        for one in no:
            if found := _NO.search(text[: one.start]):
                text = blank(text, *found.span())
        wanted += [one.value for one in kept]
        denied += [one.value for one in (*held.denied, *no)]
        for one in kept:
            text = text if kind == "other" else blank(text, one.start, one.end)
    if "townhouse" in wanted and "house" not in wanted:
        return "townhouse", text
    if "house" in wanted or "townhouse" in denied:
        return ("house" if "townhouse" not in wanted else None), text
    return ("townhouse" if "house" in denied else None), text
