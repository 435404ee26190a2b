"""Misspelled days, places and rooms: read as what they most resemble, and read back before anything is done."""

from functools import lru_cache
from typing import Final

from oneroof.understanding.numbers import word_set
from oneroof.understanding.place_names import DISTINCT_WORDS, NAMES
from oneroof.understanding.vocabulary import PLAIN

_DATES: Final = word_set(
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december today tomorrow tonight weekend fortnight"
)
_ROOMS: Final = word_set("bedroom bedrooms bathroom bathrooms waterfront townhouse townhouses viewing")
_TARGETS: Final = tuple(sorted(_DATES | _ROOMS | DISTINCT_WORDS))
_KNOWN: Final = PLAIN | frozenset(_TARGETS) | {word for name in NAMES for word in name.split()}
_PARTS: Final = tuple(word for word in DISTINCT_WORDS if word not in NAMES)  # of names of several words
_AROUND: Final = ".,!?;:'\"()"
_MOST_STRANGE: Final = 40  # words of a line that are compared; a line with more is no line to correct
_SHORTEST: Final = 5
_TWO_LETTERS: Final = 7  # from this length on, two letters may be wrong


def correct_spelling(text: str) -> tuple[str, tuple[str, ...]]:
    """``text`` with misspelled words replaced, and the words that were put in their place."""
    said = text.split(" ")
    strange = [place for place, word in enumerate(said) if _is_strange(word)][:_MOST_STRANGE]
    better = [(_better(word) or word) if place in strange else word for place, word in enumerate(said)]
    read = " ".join(better)
    for place, (word, other) in enumerate(zip(said, better, strict=True)):
        # "raining" is not Rainier, unless a beach or a valley follows
        part = next((one for one in _PARTS if one in other), None) if word != other else None
        if part and not any(name in read for name in NAMES if part in name.split()):
            better[place] = word
    put = tuple(other for word, other in zip(said, better, strict=True) if word != other)
    return " ".join(better), put


def _is_strange(word: str) -> bool:
    core = word.strip(_AROUND)
    return len(core) >= _SHORTEST and core.isalpha() and core not in _KNOWN


def _better(word: str) -> str | None:
    core = word.strip(_AROUND)
    better = _nearest(core)
    return word.replace(core, better) if better else None


def nearest(word: str, names: tuple[str, ...]) -> str | None:
    """The only name that is a letter or two (of a long one) away from ``word``; None where none or several are."""
    most = 2 if len(word) >= _TWO_LETTERS else 1
    for wrong in range(1, most + 1):
        close = [name for name in names if abs(len(name) - len(word)) <= wrong and _distance(word, name) == wrong]
        if close:
            return close[0] if len({name.rstrip("s") for name in close}) == 1 else None
    return None


@lru_cache(maxsize=4096)
def _nearest(word: str) -> str | None:
    return nearest(word, _TARGETS)


def _distance(one: str, other: str) -> int:
    """Letters to insert, drop, change or swap with their neighbour to get from one word to the other."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        previous, row, older = row, [i], before
        for j, wanted in enumerate(other, 1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        before = previous
    return row[-1]
