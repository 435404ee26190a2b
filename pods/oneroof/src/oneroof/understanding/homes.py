"""Which home a caller means: a listing, a parcel, an address, or one of those just offered."""

import re
from dataclasses import dataclass
from typing import Literal

_PARCEL = re.compile(
    r"\b(?:parcel|pin|tax)(?: (?:number|no|id|pin))?\.?(?: (?:is|of))?[ #:]*((?:[0-9][ -]?){9}[0-9])(?![0-9])"
    r"|\b([0-9]{6}-[0-9]{4})\b|(?<![\w+-])(0[0-9]{9})(?![\w-])"
)
_BARE_PARCEL = re.compile(r"\b(?:about|up|for|of|is|does|home|house|property|see|visit|book|was)[ #:]*([0-9]{10})\b")
_ADDRESS = re.compile(
    r"\b([0-9]{1,5} (?:(?:n|s|e|w|ne|nw|se|sw|north|south|east|west)\.? )?(?:[a-z0-9']{2,20} ){1,3}?"
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
_LISTING = re.compile(r"(?!98[01][0-9]{2}$)[0-9]{4,5}")  # five digits may be a ZIP code of Seattle
_PICK = re.compile(r"\b(?:(1st|2nd|3rd|[4-9]th|10th)|(last|final))(?: ?(" + _NOUN + r"))?\b(?! of\b)")
_DATED = re.compile(r"(?:day|\bon|\bof),? the $|day $")
_ONLY_PICK = re.compile(r"\W*(?:option|number)?\W*([1-9])\W*(?:please\W*)?")
_OTHER = re.compile(r"\bthe other(?: " + _NOUN + r")\b|\bthe other\W*$")
_THAT = re.compile(r"\b(?:that|this|the same) " + _NOUN + r"\b")
_IT = re.compile(
    r"(?<!make )(?<!forget )(?<!is )(?<!was )(?<!does )\bit\b(?! is\b|'s\b)|\b(?:is|does|was|has) it\b|"
    r"\bthe (?:house|place|home)\b"
)

type Kind = Literal["named", "pick", "other", "that", "it", "address"]


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
    found: list[Mention] = []

    def take(match: re.Match[str]) -> str:
        index = -1 if match[2] else int(match[1][:-2])
        alone = not match[2] and index <= offers and not _DATED.search(text[: match.start()])
        if not (match[3] or alone or (expected and match[2])):
            return match[0]
        found.append(Mention("pick", match.start(), index=index))
        return "_" * len(match[0])

    return found, _PICK.sub(take, text)


def read_homes(text: str, *, pointing: bool, expected: bool = False) -> list[Mention]:
    """The homes in a text that prices, times and telephone numbers have been taken out of.

    ``pointing``: "it" and "that one" count, if no home is named; ``expected``: the office has
    just asked which, so a digit alone picks one.
    """
    found, rest = _numbered(text)
    if expected and not found and (only := _ONLY_PICK.fullmatch(rest)):
        found.append(Mention("pick", only.start(1), index=int(only[1])))
    kinds: tuple[tuple[re.Pattern[str], Kind], ...] = ((_OTHER, "other"), (_THAT, "that"), (_IT, "it"))
    for pattern, kind in kinds:
        if pointing and not found and (pointed := pattern.search(rest)):
            found.append(Mention(kind, pointed.start()))
    return sorted(found, key=lambda mention: mention.at)


def _numbered(text: str) -> tuple[list[Mention], str]:
    found: list[Mention] = []
    for match in reversed(list(_CUED.finditer(text))):
        groups = re.findall(r"[0-9]+", match[1])
        number = _joined(groups)
        if number:
            found.append(Mention("named", match.start(1), number))
        elif len(groups) == 1 and len(groups[0]) == 1 and groups[0] != "0":
            found.append(Mention("pick", match.start(1), index=int(groups[0])))
        else:
            continue
        text = text[: match.start(1)] + "_" * len(match[1]) + text[match.end(1) :]
    bare = [*_BARE.finditer(text), *_SPLIT.finditer(text)]
    digits = [(match.start(), match[1].replace(" ", "")) for match in bare]
    found += [Mention("named", at, number) for at, number in digits if _LISTING.fullmatch(number)]
    return found, text


def _joined(groups: list[str]) -> str:
    """The first groups that make four or five digits: "10 42", "1 0 4 2", "1042"."""
    digits = ""
    for group in groups:
        digits += group
        if len(digits) >= 4:
            break
    return digits if len(digits) in (4, 5) else ""
