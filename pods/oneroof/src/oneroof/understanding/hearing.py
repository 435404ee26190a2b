"""One line of a caller, read once: every number in it is given to exactly one reader.

The order matters. A telephone number holds hours, a price holds listing numbers, so each reader
blanks what it took before the next one looks.
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from oneroof.understanding.criteria import Criteria, read_criteria
from oneroof.understanding.homes import Mention, read_addresses, read_homes, read_parcels, read_picks
from oneroof.understanding.intents import Intent, decide, score
from oneroof.understanding.numbers import clean, spoken_numbers, word_set
from oneroof.understanding.phone import Phone, has_cue, read_phone
from oneroof.understanding.when import When, read_when

_NAME = re.compile(
    r"\b(?:my name is|my name's|the name is|this is|i am|i'm|it's|"
    r"name:) ([^\W\d_][\w'.-]{1,24}(?: [^\W\d_][\w'-]{1,24})?)"
)
_SURE_NAME = re.compile(r"\b(?:my name is|my name's|the name is|name:)")
_CALLING = re.compile(r"^(?: |,)*(?:calling|here|speaking)\b")
_BEFORE_NOTE = re.compile(
    r"^.*?\b(?:message|note|voicemail|voice mail)\b(?: (?:for|with|to) (?:the |your |"
    r"my )?[a-z]+)?\W*(?:(?:that|saying|to say)\b)?\W*"
)
_TOLD = re.compile(r"\b(?:tell|let) .{1,40}\bthat\b")
_NO_NOTE = re.compile(r"\b(?:please|thanks|thank you|my number is|call me|back|at|on|hi|hello|for me|[0-9]+)\b")
_NOT_A_NAME = word_set(
    "and calling from here speaking my i the a an looking not so it in at is for but with or you can could please"
)


class Ask(Enum):
    """What the office's last words asked for, which settles what a bare number is."""

    HOME = auto()
    SLOT = auto()
    PHONE = auto()
    PLACE = auto()
    NOTE = auto()


@dataclass(frozen=True, slots=True)
class Heard:
    """What one line says, before anything earlier in the call is considered."""

    text: str = field(repr=False)
    intents: dict[Intent, int]
    homes: tuple[Mention, ...]
    criteria: Criteria
    when: When
    phone: Phone
    name: str | None = None
    note: str | None = field(default=None, repr=False)

    @property
    def only_contact(self) -> bool:
        """Whether the line gives a telephone number and hardly anything else."""
        return self.phone.number is not None and not _is_note(self.text)

    @property
    def clear_homes(self) -> tuple[Mention, ...]:
        """The homes named by more than "it"."""
        return tuple(home for home in self.homes if home.kind != "it")


def is_silence(text: str) -> bool:
    """Whether nothing was said."""
    return not re.sub(r"[\W_]|\bsilence\b", "", clean(text))


def hear(line: str, now: datetime, asked: Ask | None, offers: int) -> Heard:
    """Everything ``line`` says. ``offers`` is how many homes the office named last."""
    text = spoken_numbers(clean(line))
    phone_talk = asked is Ask.PHONE or has_cue(text)
    parcels, rest = read_parcels(text, phone_talk=phone_talk)
    phone, rest = read_phone(rest, expected=asked is Ask.PHONE)
    addresses, rest = read_addresses(rest)
    signs = {intent: sign for intent, sign in score(rest).items() if _is_meant(intent, sign.at, rest)}
    known, rest = read_criteria(rest, searching=Intent.SEARCH in signs, expected=asked is Ask.PLACE and not signs)
    picks, rest = read_picks(rest, 0 if asked is Ask.SLOT else offers, expected=asked is Ask.HOME)
    when, rest = read_when(rest, now, expected=asked is Ask.SLOT)
    homes = (*parcels, *addresses, *picks, *read_homes(rest, pointing=not picks, expected=asked is Ask.HOME))
    if parcels or addresses:
        homes = tuple(home for home in homes if home.kind not in ("it", "that", "other"))
    named = any(home.kind != "it" for home in homes)
    intents = decide(signs, homes=named, weak_homes=bool(homes) and not named, criteria=bool(known), when=bool(when))
    return Heard(text, intents, homes, known, when, phone, _name(text), _note(text))


def _is_meant(intent: Intent, at: int, text: str) -> bool:
    """Whether a farewell is one: in a long line it must stand near the end."""
    return intent not in (Intent.BYE, Intent.THANKS) or at >= len(text) - 40 or text.count(" ") < 12


def _name(text: str) -> str | None:
    for found in _NAME.finditer(text):
        words = found[1].split()
        if len(words) == 2 and words[1] in _NOT_A_NAME:
            words = words[:1]
        after = text[found.start(1) + len(" ".join(words)) :]
        if words[0] not in _NOT_A_NAME and (_SURE_NAME.match(found[0]) or _CALLING.match(after)):
            return " ".join(word.strip(".'-").capitalize() for word in words)
    return None


def _note(text: str) -> str | None:
    """The message itself, if the line that announces one already holds it."""
    if _TOLD.search(text):
        return text
    if not (before := _BEFORE_NOTE.match(text)):
        return None
    note = text[before.end() :]
    return note if _is_note(note) else None


def _is_note(text: str) -> bool:
    return len(_NO_NOTE.sub(" ", text).split()) >= 3
