"""Which home a caller means: a listing, a parcel, an address, or one of those just offered."""

import re
from dataclasses import dataclass
from typing import Literal

from oneroof.understanding.mentions import Found, blank, standing

_PARCEL = re.compile(
    r"\b(?:parcel|pin|tax)(?: (?:number|no|id|pin))?\.?(?: (?:is|of))?[ #:]*((?:[0-9][ -]?){9}[0-9])(?![0-9])"
    r"|\b([0-9]{6}-[0-9]{4})\b|(?<![\w+-])(0[0-9]{9})(?![\w-])"
)
_BARE_PARCEL = re.compile(r"\b(?:about|up|for|of|is|does|home|house|property|see|visit|book|was)[ #:]*([0-9]{10})\b")
_STREET_WORD = (
    r"(?:(?!(?:the|a|an|this|that|by|see|of|for|to|in|on|at|and|or|is|it|my|our|your|i|we|up|nice|other|bed|beds|"
    r"bedroom|bedrooms|"
    r"bath|baths|bathroom|bathrooms|million|thousand|people|pm|am|half|past|oclock|please|thanks)\b)[a-z0-9']{2,20} )"
)
_ADDRESS = re.compile(
    r"\b([0-9]{1,5} (?:(?:n|s|e|w|ne|nw|se|sw|north|south|east|west)\.? )?" + _STREET_WORD + r"{1,3}?"
    r"(?:street|st|avenue|ave|road|rd|drive|dr|place|pl|boulevard|blvd|lane|ln|court|ct|terrace|way)\b"
    r"(?:\.? (?:n|s|e|w|ne|nw|se|sw|north|south|east|west|northeast|northwest|southeast|southwest)\b)?)"
)
_NOUN = r"(?:one|home|house|place|option|listing|property|apartment|townhouse)"
_CUED = re.compile(
    r"\b(?:listing|listings|mls|number|home|house|property|option|id)\b(?: (?:number|id|no))?\.?(?: is)?[ ,#:]*"
    r"((?:[0-9]{1,5}\b[ -]?){1,6})(?![0-9:/%,]*[0-9])(?! ?(?:bed|bath|square|sq|dollar|am\b|pm\b))"
)
_BARE = re.compile(
    r"(?<![$\w.,:/+-])([0-9]{4,5})(?![\w]|[,:/-][0-9]|\.[0-9])(?! ?(?:square|sq|sf\b|feet|foot|dollar|"
    r"bucks|bed|bath|percent))"
)
_SPLIT = re.compile(
    r"(?<![$\w.:/+-])(?<![0-9] )([0-9]{1,2}(?: [0-9]{1,2}){1,4})(?![\w:]| [0-9]| ?(?:bed|bath|am\b|pm\b))"
)
_LISTING = re.compile(r"(?!98[01][0-9]{2}$)[1-9][0-9]{3,4}")  # five digits may be a ZIP code of Seattle
_PICK = re.compile(r"\b(?:(1st|2nd|3rd|[4-9]th|10th)|(last|final))(?: ?(" + _NOUN + r"))?\b(?! of\b)")
_DATED = re.compile(r"(?:day|\bon|\bof),? the $|day $")
_ONLY_PICK = re.compile(r"\W*(?:option|number)?\W*([1-9])\W*(?:please\W*)?")
_OTHER = re.compile(r"\bthe other(?: " + _NOUN + r")\b|\bthe other\W*$")
_BOTH = re.compile(
    r"\bboth(?: of (?:them|those|these))?(?: homes| houses)?\b|\b(?:the )?(?:2|two) of (?:them|those|these)\b|"
    r"\ball (?:3|three|of them|of those)(?: of (?:them|those))?\b"
)
_THAT = re.compile(r"\b(?:that|this|the same) " + _NOUN + r"\b")
_IT = re.compile(
    r"(?<!make )(?<!forget )(?<!is )(?<!was )(?<!does )\bit\b(?! is\b|'s\b)|\b(?:is|does|was|has) it\b|"
    r"\bthe (?:house|place|home)\b"
)

type Kind = Literal["named", "pick", "other", "that", "it", "address", "both"]


@dataclass(frozen=True, slots=True)
class Mention:
    """One home in a line. ``at`` is its place in the text, ``value`` the number or address named;
    a ``pick`` has its position among the offers in ``index`` (from 1; -1 is the last)."""

    kind: Kind
    at: int
    value: str = ""
    index: int = 0


def read_parcels(text: str, *, phone_talk: bool) -> tuple[list[Mention], str]:
    """Parcel numbers, and the text without them. Goes before telephone numbers, which look alike."""
    patterns = (_PARCEL,) if phone_talk else (_PARCEL, _BARE_PARCEL)
    found: list[Mention] = []
    for pattern in patterns:
        for match in pattern.finditer(text):
            group = next(number for number in range(1, len(match.groups()) + 1) if match[number])
            found.append(Mention("named", match.start(group), re.sub(r"[^0-9]", "", match[group])))
            text = text[: match.start(group)] + "_" * len(match[group]) + text[match.end(group) :]
    return found, text


def read_addresses(text: str) -> tuple[list[Mention], str]:
    """Street addresses, and the text without them."""
    found = [Mention("address", match.start(1), match[1]) for match in _ADDRESS.finditer(text)]
    return found, _ADDRESS.sub(lambda match: "_" * len(match[0]), text)


def read_picks(text: str, offers: int, *, expected: bool = False) -> tuple[list[Mention], str]:
    """The homes named by their place among ``offers``, and the text without them.

    Goes before days: "the second" is a home while homes are on offer, "friday the second" is not.
    ``expected``: the office has just asked which home.
    """
    found: list[Found[Mention]] = []
    for match in _PICK.finditer(text):
        index = -1 if match[2] else int(match[1][:-2])
        alone = not match[2] and index <= offers and not _DATED.search(text[: match.start()])
        ends = match[2] and offers and not text[match.end() :].strip(" .,!?")
        if match[3] or alone or ends or (expected and match[2]):
            found.append(Found(match.start(), match.end(), Mention("pick", match.start(), index=index)))
    return _standing(found, text)[:2]


def read_homes(text: str, *, pointing: bool, expected: bool = False) -> tuple[list[Mention], list[Mention], str]:
    """The homes in a text that prices, times and telephone numbers have been taken out of; and those that it denies.

    ``pointing``: "it" and "that one" count, if no home is named; ``expected``: the office has just asked which, so a
    digit alone picks one. The text comes back with the homes blanked.
    """
    found, denied, rest = _numbered(text)
    if expected and not found and (only := _ONLY_PICK.fullmatch(rest)):
        found.append(Mention("pick", only.start(1), index=int(only[1])))
        rest = blank(rest, *only.span(1))
    kinds: tuple[tuple[re.Pattern[str], Kind], ...] = ((_BOTH, "both"), (_OTHER, "other"), (_THAT, "that"), (_IT, "it"))
    for pattern, kind in kinds:
        if pointing and not found and (pointed := pattern.search(rest)):
            found.append(Mention(kind, pointed.start()))
            rest = blank(rest, *pointed.span())
    return sorted(found, key=lambda mention: mention.at), denied, rest


def _standing(found: list[Found[Mention]], text: str) -> tuple[list[Mention], str, list[Mention]]:
    held = standing(found, text, text)
    rest = held.text
    for one in found:
        rest = blank(rest, one.start, one.end)
    return [one.value for one in held.kept], rest, [one.value for one in held.denied]


def _numbered(text: str) -> tuple[list[Mention], list[Mention], str]:
    found: list[Found[Mention]] = []
    rest = text
    for match in reversed(list(_CUED.finditer(text))):
        groups = re.findall(r"[0-9]+", match[1])
        number, used = _joined(groups)
        if number:
            # what follows the number is not part of it: "listing 1042 3 pm"
            end = match.start(1) + len(re.match(rf"(?:[0-9]+[ -]*){{{used}}}", match[1])[0].rstrip(" -"))  # type: ignore[index]
            found.append(Found(match.start(1), end, Mention("named", match.start(1), number)))
        elif len(groups) == 1 and len(groups[0]) == 1 and groups[0] != "0":
            found.append(Found(match.start(1), match.end(1), Mention("pick", match.start(1), index=int(groups[0]))))
    for one in found:
        rest = blank(rest, one.start, one.end)
    for match in [*_BARE.finditer(rest), *_SPLIT.finditer(rest)]:
        number = match[1].replace(" ", "")
        if _LISTING.fullmatch(number):
            found.append(Found(match.start(1), match.end(1), Mention("named", match.start(1), number)))
    kept, rest, denied = _standing(found, text)
    return kept, denied, rest


def _joined(groups: list[str]) -> tuple[str, int]:
    """The first groups that make four or five digits ("10 42", "1 0 4 2", "1042"), and how many they are."""
    digits = ""
    for used, group in enumerate(groups, 1):
        if digits and len(group) >= 4:
            return "", 0  # "three 1042": two numbers
        digits += group
        if len(digits) >= 4:
            return (digits, used) if len(digits) <= 5 else ("", 0)
    return "", 0
