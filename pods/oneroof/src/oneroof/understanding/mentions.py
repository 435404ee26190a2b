"""Which of the things that a line mentions still hold: a denied one does not, nor one that the caller corrected.

Readers replace the words that they used by underscores. What is left over at the end was not understood.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_DENIED_BEFORE: Final = re.compile(
    r"\b(?:not|nor|neither|instead of|rather than|other than|anything but|anywhere but|everything but|everywhere but|"
    r"but not|hate|never|dislike|(?:tired|sick|full) of|fed up with|can't stand|all of [a-z]+ but|cancel|"
    r"any ?(?:other )?(?:day|time|place|home|house|one) (?:but|except)|(?:all|every ?\w*|always|any) but|"
    r"except(?: for)?|apart from|aside from|besides|outside(?: of)?|without|excluding|avoid|avoiding|skip|"
    r"forget(?: about)?|never ?mind|scratch|ditch|leave out|no longer|"
    r"(?:don't|do not|doesn't|does not|didn't)(?: really)? (?:want|like|need|fancy|do|mean|care for)"
    r"(?: to (?:see|be|live))?|(?:can't|cannot|can not|couldn't) (?:do|make|manage)(?: it)?)"
    r"(?: (?:in|on|at|the|a|an|any|for|by|to|near|around|listing|number|home|house|homes|houses|anything|something|"
    r"this|it|interested|keen|really|even|looking|too|that|my)){0,4} ?$"
)
_DENIED_AFTER: Final = re.compile(
    r"(?:'s)? (?:(?:is|are|was|sounds|looks) )?(?:(?:no|not) (?:good|possible|an option|great|convenient|"
    r"going to work|gonna work)|"
    r"won't (?:work|do)|doesn't (?:work|suit)(?: me)?|does not (?:work|suit)(?: me)?|isn't (?:good|possible)|is out|"
    r"is off|is bad)\b"
)
_ALSO_DENIED: Final = re.compile(r" ?,? ?(?:or|nor|and|and not|or in|and in|nor in|or on|and on|/|&) ?(?:the )?")
_CORRECTED: Final = re.compile(
    r"\b(?:no(?! (?:later|earlier|more|less|later))|nope|wait|sorry|i mean|i meant|actually|rather|make (?:it|that)|"
    r"scratch that|correction|"
    r"hang on|hold on|or better|better make|change that to|strike that|instead)\b"
)
_MOVED: Final = re.compile(r"\bfrom (?:the )?$")
_MOVES: Final = re.compile(r"\b(?:move|moving|change|changing|switch|reschedule|push|shift|swap|bring)\b")
_TOGETHER: Final = re.compile(r"[ ,]*(?:the |on )*")
_TO: Final = re.compile(r" ?to (?:the )?")


@dataclass(frozen=True, slots=True)
class Found[T]:
    """A thing that a line mentions, between two places in its text."""

    start: int
    end: int
    value: T


@dataclass(frozen=True, slots=True)
class Standing[T]:
    """The mentions that hold, those that were denied, and the text without the words that deny."""

    kept: tuple[Found[T], ...]
    denied: tuple[Found[T], ...]
    text: str


def standing[T](found: Sequence[Found[T]], text: str, original: str) -> Standing[T]:
    """Sort ``found`` into what holds and what does not. ``original`` is the text before the readers took words out.

    "Not Ballard or Fremont" denies both; in "Friday, no, Saturday" the second replaces the first; in "move it from
    Friday to Monday" the first is the one to leave.
    """
    found = sorted(found, key=lambda one: one.start)
    denied: list[Found[T]] = []
    kept: list[Found[T]] = []
    cues: list[tuple[int, int]] = []
    for place, one in enumerate(found):
        before = found[place - 1] if place else None
        between = original[before.end : one.start] if before is not None else ""
        if cue := _cue(one, original, found[place + 1 :]):
            denied.append(one)
            cues.append(cue)
        elif before is not None and before in denied and _ALSO_DENIED.fullmatch(between):
            denied.append(one)
            cues.append((before.end, one.start))
        else:
            if kept and (marker := _CORRECTED.search(original, kept[-1].end, one.start)):
                _drop_last(kept, original)
                cues.append(marker.span())
            kept.append(one)
    for start, end in cues:
        text = text[:start] + "_" * (end - start) + text[end:]
    return Standing(tuple(kept), tuple(denied), text)


def _drop_last[T](kept: list[Found[T]], text: str) -> None:
    """Drops what was corrected, with what belongs to it: "Tuesday the 8th" is one day."""
    last = kept.pop()
    while kept and _TOGETHER.fullmatch(text[kept[-1].end : last.start]):
        last = kept.pop()


def _cue[T](one: Found[T], text: str, later: Sequence[Found[T]]) -> tuple[int, int] | None:
    """Where the words stand that deny a mention, if any do."""
    if before := _DENIED_BEFORE.search(text[: one.start]):
        return before.span()
    if after := _DENIED_AFTER.match(text, one.end):
        return after.span()
    if later and _MOVES.search(text) and _TO.fullmatch(text[one.end : later[0].start]):
        moved = _MOVED.search(text[: one.start])
        return moved.span() if moved else None
    return None


def words_taken(before: str, after: str) -> str:
    """The words of ``before`` that a reader took: those that are blank in ``after``."""
    kept = "".join(" " if new != old or old == "_" else "\0" for old, new in zip(before, after, strict=True))
    words = (before[start:end] for start, end in ((m.start(), m.end()) for m in re.finditer(" +", kept)))
    return ", ".join(word for one in words if (word := one.strip(" _,.;!?")))


def blank(text: str, start: int, end: int) -> str:
    """``text`` with what stands between two places replaced by underscores, so that no later reader sees it."""
    return text[:start] + "_" * (end - start) + text[end:]
