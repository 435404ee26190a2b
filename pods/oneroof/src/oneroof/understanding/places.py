"""The places that a line names: those wanted, and those denied."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from oneroof.understanding.days import MONTHS, WEEKDAYS
from oneroof.understanding.mentions import Found, blank, standing
from oneroof.understanding.numbers import word_set
from oneroof.understanding.place_names import NAMES, PLACE, WIDE
from oneroof.understanding.spelling import nearest

_IN_PLACE: Final = re.compile(
    r"\b(?:in|near|around|close to|next to|over in|out in|towards) (?:the )?(?!_)((?:[a-z][a-z']*\.? ?){1,3})"
)
_SEATTLE: Final = re.compile(r"\b(?:in |around |within )?seattle\b")
_EITHER: Final = re.compile(
    r"[ ,]*(?:or|and|/|or maybe|or perhaps|or else|and maybe|and also|or even|or in|and in|or near|and near|"
    r"or around)?[ ,]*(?:the )?"
)
_MOVED: Final = re.compile(
    r"\b(?:(?:sell|selling|sold|list|listing|own|owned|rent|renting) (?:[a-z]+ ){1,4}(?:in|at|near)|from|we are in|"
    r"i am in|i'm in|we're in|live in|living in|lived in|based in|rent in|renting in|sold in|leaving|leave)(?: the)? $"
)
_NEAR_BUT: Final = re.compile(r"\b(?:near|close to|around|next to|by),? but\b")
_NOT_LOOKING: Final = re.compile(r"\b(?:not|never|neither|don't|do not)(?: [a-z]+)? (?:looking|searching|interested)\b")
_MOST_SPACES: Final = 2  # in the name of a place that is not known; longer ones are read back
_PLACE_ENDS: Final = word_set(
    "a an with under over for that and or please at on below above less more than is are to around about near of the "
    "between by if but then instead right now i we my maybe any up max which who you not so from thanks thank too it "
    "asap preferably ideally next this today tomorrow no except without only"
)
_NO_PLACE: Final = word_set(
    "area case mind touch particular general person morning afternoon evening budget price range hour hours days day "
    "week weeks month months time minute minutes advance english spanish there here good great fact neighborhood "
    "neighbourhood city town order total years water lake school schools park home house homes houses "
    "listing listings parcel number anywhere wherever "
    "whatever sure idea total cash hurry hand love style shape need anything something fortnight couple while moment "
    "noon spring summer autumn fall winter christmas"
) | frozenset({*WEEKDAYS, *MONTHS})
_IDLE: Final = word_set("um uh well maybe somewhere please er in near around the try let's say how about what")
_DIRECTION: Final = re.compile(r"\b(?:north|south|east|west|edge|outskirts) of $")


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a line. ``sure``: nobody could understand them otherwise."""

    wanted: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    sure: bool = True


def read_places(text: str, *, searching: bool, expected: bool) -> tuple[Places, str]:
    """The places that ``text`` names, and ``text`` with them blanked.

    ``searching``: the line is about a search, so "in <words>" names a place though it is not a known one. ``expected``:
    the office has just asked for a place, so a name alone is one.
    """
    found = [Found(match.start(), match.end(), match[1]) for match in PLACE.finditer(text)]
    exact = bool(found)
    if not found and searching:
        found = _unknown(text)
    if not found and expected and (alone := _lone_name(text)):
        found = [alone]
    if not found and (match := _SEATTLE.search(text)):
        return Places(("seattle",)), blank(text, *match.span())
    held = standing(found, text, text)
    kept, rest = list(held.kept), held.text
    denied = tuple(dict.fromkeys(one.value for one in held.denied))
    for one in kept[:-1]:
        # "we live in ballard and want to move to fremont"
        if moved := _MOVED.search(text[: one.start]):
            kept.remove(one)
            rest = blank(rest, *moved.span())
    for one in found:
        rest = blank(rest, one.start, one.end)
    wanted = tuple(dict.fromkeys(one.value for one in kept))
    resembles = nearest(wanted[0], NAMES) if wanted and not exact and wanted[0] not in NAMES else None
    wanted = (resembles,) if resembles else wanted
    sure = resembles is None and len(kept) + len(held.denied) == len(found)
    for before, after in pairwise(kept):
        if _EITHER.fullmatch(between := text[before.end : after.start]):
            sure = sure and not between.isspace()
            rest = blank(rest, before.end, after.start)
        else:
            sure = False
    sure = sure and not any(_MOVED.search(text[: one.start]) or _DIRECTION.search(text[: one.start]) for one in kept)
    sure = sure and _NEAR_BUT.search(text) is None and _NOT_LOOKING.search(text) is None
    sure = sure and (exact or not wanted or wanted[0].count(" ") < _MOST_SPACES)
    within = not wanted or any(place in WIDE or place.isdigit() for place in wanted)
    return Places(wanted, denied if within else (), sure), rest


def _unknown(text: str) -> list[Found[str]]:
    for match in _IN_PLACE.finditer(text):
        name = _name(match[1].split())
        if name:
            words = " ".join(name)
            return [Found(match.start(1), match.start(1) + len(words), words)]
    return []


def _lone_name(text: str) -> Found[str] | None:
    """A line of a few words that may be the name of a place, and nothing else."""
    words = re.findall(r"[a-z']+", text)
    if len(words) > 5 or re.search(r"[0-9]", text):
        return None
    name = _name([word for word in words if word not in _IDLE])
    spoken = " ".join(name)
    return Found(text.find(spoken), text.find(spoken) + len(spoken), spoken) if name and spoken in text else None


def _name(words: list[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if word.strip(".") in _PLACE_ENDS:
            break
        kept.append(word.strip("."))
    return [] if any(word in _NO_PLACE for word in kept) else kept
