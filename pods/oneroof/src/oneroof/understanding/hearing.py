"""One line of a caller, read once: every number in it is given to exactly one reader.

The order matters. A telephone number holds hours, a price holds listing numbers, so each reader
blanks what it took before the next one looks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto

from oneroof.understanding.criteria import Criteria, read_criteria
from oneroof.understanding.days import read_days
from oneroof.understanding.homes import Mention, read_addresses, read_homes, read_parcels, read_picks
from oneroof.understanding.intents import STRONG, Intent, Sign, decide, score, without_signs
from oneroof.understanding.languages import language_of
from oneroof.understanding.mentions import blank, words_taken
from oneroof.understanding.numbers import clean, spoken_numbers, word_set
from oneroof.understanding.phone import Phone, has_cue, read_phone
from oneroof.understanding.spelling import correct_spelling
from oneroof.understanding.vocabulary import find_left_over
from oneroof.understanding.when import When, read_when

_NAME = re.compile(
    r"\b(?:my name is|my name's|(?:the )?name is|this is|i am|i'm|it's|"
    r"name:) ([^\W\d_][\w'.-]{1,24}(?: [^\W\d_][\w'-]{1,24})?)"
)
_SURE_NAME = re.compile(r"\b(?:my name is|my name's|(?:the )?name is|name:)")
_CALLING = re.compile(r"^(?: |,)*(?:calling|here|speaking)\b")
_BEFORE_NOTE = re.compile(
    r"^.*?\b(?:message|note|voicemail|voice mail)\b(?: (?:for|with|to) (?:the |your |"
    r"my )?[a-z]+)?\W*(?:(?:that|saying|to say)\b)?\W*"
)
_TOLD = re.compile(r"\b(?:tell|let) .{1,40}\bthat\b")
_NO_NOTE = re.compile(r"\b(?:please|thanks|thank you|my number is|call me|back|at|on|hi|hello|for me|[0-9]+)\b")
_SAID_BY_SIGNS = frozenset(
    {Intent.PERSON, Intent.MESSAGE, Intent.RESEARCH, Intent.LOOKUP, Intent.FORGET, Intent.LANGUAGE, Intent.BYE}
    | {Intent.REPEAT, Intent.HOLD, Intent.HELP, Intent.SELL}
)
_LONG_NUMBER = 5  # digits
_MOST_ODD = 12  # words
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
    CONFIRM = auto()


@dataclass(frozen=True, slots=True)
class Context:
    """What the call is about when a line is said.

    ``asked``: what the office has just asked for. ``offers``: how many homes it named last. ``amending``: a search is
    what was talked about last, so a number alone may change it.
    """

    asked: Ask | None = None
    offers: int = 0
    amending: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a line that were read as criteria, as a day and a time, and as homes."""

    criteria: str = ""
    when: str = ""
    homes: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one line says, before anything earlier in the call is considered.

    ``odd`` are the words that nobody understood, ``spelled`` says that misspelled words were read as others: before a
    viewing or a search comes of such a line, it is read back. ``not_homes`` are the homes that it denies. ``words`` are
    those that each reader took, for where nothing comes of what it read.
    """

    text: str = field(repr=False)
    intents: dict[Intent, int]
    homes: tuple[Mention, ...]
    criteria: Criteria
    when: When
    phone: Phone
    name: str | None = None
    note: str | None = field(default=None, repr=False)
    odd: str = field(default="", repr=False)
    spelled: bool = False
    language: str | None = None
    not_homes: tuple[Mention, ...] = ()
    words: Words = field(default_factory=lambda: Words())

    def odd_for(self, intent: Intent) -> str:
        """The words that were not understood, or that say nothing of a viewing or of a search."""
        unused = [self.odd]
        if intent is Intent.SEARCH and Intent.BOOK not in self.intents:
            unused.append(self.words.when)
            if not self.intents.keys() & {Intent.RESEARCH, Intent.LOOKUP}:
                unused.append(self.words.homes)
        if intent is Intent.BOOK and Intent.SEARCH not in self.intents:
            unused.append(self.words.criteria)
        return ", ".join(filter(None, unused))

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


def hear(line: str, now: datetime, context: Context) -> Heard:
    """Everything ``line`` says."""
    asked, plain = context.asked, clean(line)
    spelled, put = correct_spelling(plain)
    text, said = spoken_numbers(spelled), spoken_numbers(plain)
    parcels, rest = read_parcels(text, phone_talk=asked is Ask.PHONE or has_cue(text))
    phone, rest = read_phone(rest, expected=asked is Ask.PHONE)
    addresses, rest = read_addresses(rest)
    name, rest = _read_name(rest)
    signs = {intent: sign for intent, sign in score(rest).items() if _is_meant(intent, sign.at, rest)}
    read = _read(rest, now, context, signs)
    homes = (*parcels, *addresses, *read.homes)
    if parcels or addresses:
        homes = tuple(home for home in homes if home.kind not in ("it", "that", "other"))
    named = any(home.kind != "it" for home in homes)
    weak = bool(homes) and not named
    intents = decide(signs, homes=named, weak_homes=weak, criteria=bool(read.criteria), when=bool(read.when))
    return Heard(
        said,
        intents,
        homes,
        read.criteria,
        read.when,
        phone,
        name,
        _note(said),
        odd=_displayable(find_left_over(without_signs(read.rest, intents.keys() & _SAID_BY_SIGNS))),
        spelled=bool(put),
        language=language_of(plain),
        not_homes=read.not_homes,
        words=read.words,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """What the readers that share the numbers of a line took, and what they left."""

    criteria: Criteria
    when: When
    homes: tuple[Mention, ...]
    not_homes: tuple[Mention, ...]
    words: Words
    rest: str


def _read(text: str, now: datetime, context: Context, signs: Mapping[Intent, Sign]) -> _Read:
    asked = context.asked
    criteria, first = read_criteria(
        text,
        searching=Intent.SEARCH in signs,
        expected=asked is Ask.PLACE and not signs,
        amending=context.amending,
        priced=not _speaks_of_time(text, now, asked, signs),
    )
    picks, second = read_picks(first, 0 if asked is Ask.SLOT else context.offers, expected=asked is Ask.HOME)
    when, third = read_when(second, now, expected=asked is Ask.SLOT)
    pointed, not_homes, rest = read_homes(third, pointing=not picks, expected=asked is Ask.HOME)
    clear = any(one.kind == "named" for one in (*pointed, *not_homes))
    homes = words_taken(third, rest) if clear else words_taken(first, second)
    words = Words(_displayable(words_taken(text, first)), _displayable(words_taken(second, third)), _displayable(homes))
    return _Read(criteria, when, (*picks, *pointed), tuple(not_homes), words, rest)


def _speaks_of_time(text: str, now: datetime, asked: Ask | None, signs: Mapping[Intent, Sign]) -> bool:
    """Whether the numbers of a line are hours rather than prices: "from nine thirty to ten thirty on Friday"."""
    if asked is Ask.SLOT:
        return True
    days, _ = read_days(text, now.date())
    return bool(days) and Intent.BOOK in signs and signs.get(Intent.SEARCH, Sign(0, 0)).weight < STRONG


def _displayable(odd: str) -> str:
    """What was not understood as the office may say it: no long numbers, which may be a telephone's, and no novels."""
    words = [word for word in odd.split() if sum(char.isdigit() for char in word) < _LONG_NUMBER]
    if sum(char.isdigit() for word in words for char in word) >= _LONG_NUMBER:
        words = [word for word in words if not any(char.isdigit() for char in word)]
    return " ".join(words[:_MOST_ODD]) or ("that number" if odd else "")


def _is_meant(intent: Intent, at: int, text: str) -> bool:
    """Whether a farewell is one: in a long line it must stand near the end."""
    return intent not in (Intent.BYE, Intent.THANKS) or at >= len(text) - 40 or text.count(" ") < 12


def _read_name(text: str) -> tuple[str | None, str]:
    """The caller's name, and ``text`` without it."""
    for found in _NAME.finditer(text):
        words = found[1].split()
        if len(words) == 2 and words[1] in _NOT_A_NAME:
            words = words[:1]
        end = found.start(1) + len(" ".join(words))
        if words[0] not in _NOT_A_NAME and (_SURE_NAME.match(found[0]) or _CALLING.match(text[end:])):
            return " ".join(word.strip(".'-").capitalize() for word in words), blank(text, found.start(), end)
    return None, text


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
