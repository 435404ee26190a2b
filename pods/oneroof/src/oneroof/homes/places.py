"""Seattle neighbourhoods by name and by position.

The records give a position, not a neighbourhood. The name used for a home is that of the nearest of 46
well-known neighbourhood centres: an approximation, wrong near borders, never a street address.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Final

# A flat map is exact to metres over a city: kilometres east and north of the centre of Seattle.
_CENTRE: Final = (47.61, -122.33)
_KM_PER_DEGREE_NORTH: Final = 111.2
_KM_PER_DEGREE_EAST: Final = 75.1

_CENTRES: Final[dict[str, tuple[float, float]]] = {
    "Admiral": (47.580, -122.387),
    "Alki": (47.577, -122.407),
    "Arbor Heights": (47.509, -122.378),
    "Ballard": (47.669, -122.384),
    "Beacon Hill": (47.568, -122.308),
    "Belltown": (47.615, -122.345),
    "Bitter Lake": (47.726, -122.349),
    "Broadview": (47.721, -122.361),
    "Bryant": (47.671, -122.287),
    "Capitol Hill": (47.624, -122.319),
    "Central District": (47.608, -122.302),
    "Columbia City": (47.560, -122.287),
    "Crown Hill": (47.695, -122.374),
    "Delridge": (47.550, -122.362),
    "Downtown": (47.605, -122.334),
    "Eastlake": (47.641, -122.326),
    "Fauntleroy": (47.524, -122.390),
    "Fremont": (47.654, -122.350),
    "Georgetown": (47.546, -122.320),
    "Green Lake": (47.680, -122.335),
    "Greenwood": (47.692, -122.355),
    "Haller Lake": (47.720, -122.333),
    "High Point": (47.541, -122.371),
    "Highland Park": (47.527, -122.347),
    "Lake City": (47.719, -122.295),
    "Laurelhurst": (47.660, -122.279),
    "Leschi": (47.601, -122.290),
    "Madison Park": (47.634, -122.281),
    "Madrona": (47.613, -122.289),
    "Magnolia": (47.648, -122.400),
    "Maple Leaf": (47.696, -122.316),
    "Montlake": (47.640, -122.303),
    "Mount Baker": (47.578, -122.289),
    "Northgate": (47.708, -122.325),
    "Phinney Ridge": (47.674, -122.354),
    "Queen Anne": (47.637, -122.357),
    "Rainier Beach": (47.512, -122.263),
    "Ravenna": (47.676, -122.302),
    "Seward Park": (47.551, -122.262),
    "South Park": (47.529, -122.322),
    "University District": (47.661, -122.313),
    "View Ridge": (47.683, -122.274),
    "Wallingford": (47.660, -122.334),
    "Wedgwood": (47.690, -122.294),
    "West Seattle Junction": (47.561, -122.387),
    "Westwood": (47.522, -122.368),
}

# Names that callers use for several neighbourhoods at once.
_DISTRICTS: Final[dict[str, tuple[str, ...]]] = {
    "Rainier Valley": ("Columbia City", "Rainier Beach", "Seward Park"),
    "West Seattle": (
        "Admiral",
        "Alki",
        "Arbor Heights",
        "Delridge",
        "Fauntleroy",
        "High Point",
        "Highland Park",
        "West Seattle Junction",
        "Westwood",
    ),
}

# ZIP codes by the neighbourhoods that lie mostly in them: as approximate as these are.
_ZIP_CODES: Final[dict[str, tuple[str, ...]]] = {
    "98101": (
        "Belltown",
        "Downtown",
    ),
    "98102": (
        "Eastlake",
        "Capitol Hill",
    ),
    "98103": (
        "Fremont",
        "Green Lake",
        "Greenwood",
        "Phinney Ridge",
        "Wallingford",
    ),
    "98104": ("Downtown",),
    "98105": (
        "Bryant",
        "Laurelhurst",
        "Ravenna",
        "University District",
    ),
    "98106": (
        "Delridge",
        "Highland Park",
    ),
    "98107": ("Ballard",),
    "98108": (
        "Beacon Hill",
        "Georgetown",
        "South Park",
    ),
    "98109": ("Queen Anne",),
    "98112": (
        "Capitol Hill",
        "Madison Park",
        "Montlake",
    ),
    "98115": (
        "Bryant",
        "Maple Leaf",
        "Ravenna",
        "View Ridge",
        "Wedgwood",
    ),
    "98116": (
        "Admiral",
        "Alki",
        "West Seattle Junction",
    ),
    "98117": (
        "Ballard",
        "Crown Hill",
    ),
    "98118": (
        "Columbia City",
        "Rainier Beach",
        "Seward Park",
    ),
    "98119": ("Queen Anne",),
    "98121": ("Belltown",),
    "98122": (
        "Central District",
        "Leschi",
        "Madrona",
    ),
    "98125": (
        "Lake City",
        "Northgate",
    ),
    "98126": (
        "Delridge",
        "High Point",
    ),
    "98133": (
        "Bitter Lake",
        "Haller Lake",
    ),
    "98136": (
        "Arbor Heights",
        "Fauntleroy",
    ),
    "98144": (
        "Beacon Hill",
        "Leschi",
        "Mount Baker",
    ),
    "98146": (
        "Arbor Heights",
        "Westwood",
    ),
    "98177": ("Broadview",),
    "98178": ("Rainier Beach",),
    "98199": ("Magnolia",),
}

_ALIASES: Final[dict[str, str]] = {
    "alaska junction": "West Seattle Junction",
    "alki beach": "Alki",
    "cap hill": "Capitol Hill",
    "cd": "Central District",
    "central area": "Central District",
    "greenlake": "Green Lake",
    "mt baker": "Mount Baker",
    "north beacon hill": "Beacon Hill",
    "phinney": "Phinney Ridge",
    "the junction": "West Seattle Junction",
    "u district": "University District",
    "udistrict": "University District",
    "wedgewood": "Wedgwood",
}

_CLOSE_ENOUGH: Final = 0.84  # lets one or two misheard letters pass; lower confuses Greenwood with Wedgwood


@dataclass(frozen=True, slots=True)
class Place:
    """A part of Seattle that callers name, and the neighbourhoods it takes in (itself, if it is one)."""

    name: str
    neighbourhoods: tuple[str, ...]


def kilometres(latitude: float, longitude: float) -> tuple[float, float]:
    """Kilometres east and north of the centre of Seattle, on a flat map."""
    return (longitude - _CENTRE[1]) * _KM_PER_DEGREE_EAST, (latitude - _CENTRE[0]) * _KM_PER_DEGREE_NORTH


_CENTRES_KM: Final = {name: kilometres(*centre) for name, centre in _CENTRES.items()}


def neighbourhood(latitude: float, longitude: float) -> str:
    """The name of the nearest neighbourhood centre: an approximation (see the module)."""
    here = kilometres(latitude, longitude)
    return min(_CENTRES_KM, key=lambda name: math.dist(here, _CENTRES_KM[name]))


def places() -> tuple[Place, ...]:
    """Every place that ``resolve`` can answer with, by name."""
    every = {name: (name,) for name in _CENTRES} | _DISTRICTS | _ZIP_CODES
    return tuple(Place(name, every[name]) for name in sorted(every))


def _spoken(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]", " ", text.lower()).split())


_PLACES: Final = {_spoken(place.name): place for place in places()}
_BY_SPOKEN: Final = _PLACES | {alias: _PLACES[_spoken(name)] for alias, name in _ALIASES.items()}


_EVERYWHERE: Final = {"seattle", "anywhere", "anywhere in seattle", "all of seattle", "everywhere"}


def find_place(spoken: str) -> Place | None:
    """The place of just this name, or of a usual short form; None for anything that is only like one."""
    words = _spoken(spoken)
    return _BY_SPOKEN.get(words) or _BY_SPOKEN.get(words.removeprefix("in ").removeprefix("the "))


def is_everywhere(spoken: str) -> bool:
    """Whether ``spoken`` leaves the place open."""
    return _spoken(spoken).removeprefix("in ") in _EVERYWHERE


def resolve(spoken: str) -> Place | None:
    """The place a caller means by ``spoken``, or None.

    Finds a name, a usual short form ("cap hill"), either inside a sentence ("something in queen anne please"),
    or a name misheard by a letter or two ("balard"). The longest name in a sentence wins.
    """
    words = _spoken(spoken)
    if words in _BY_SPOKEN:
        return _BY_SPOKEN[words]
    within = [name for name in _BY_SPOKEN if f" {name} " in f" {words} "]
    if within:
        return _BY_SPOKEN[max(within, key=len)]
    if any(letter.isdigit() for letter in words):
        return None  # a ZIP code that is one digit off is another place
    close = difflib.get_close_matches(words, _BY_SPOKEN, n=1, cutoff=_CLOSE_ENOUGH)
    return _BY_SPOKEN[close[0]] if close else None
