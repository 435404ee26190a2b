"""Speech to plain text with digits in it: "ten forty two" becomes "10 42", "1.2 million" "1200000"."""

import re
import unicodedata

LONGEST = 4_000  # characters of one line that are read; the rest cannot change what a caller wants


def word_set(words: str) -> frozenset[str]:
    """The words of a list that is written as one text."""
    return frozenset(words.split())


def _counted(words: str, start: int, step: int = 1) -> dict[str, int]:
    return {word: start + step * number for number, word in enumerate(words.split())}


_UNITS = _counted("zero one two three four five six seven eight nine", 0)
_TEENS = _counted(
    "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    10,
)
_TENS = _counted("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10)
_ORDINALS = _counted(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
    1,
) | {"thirtieth": 30}
_NUMERAL = _UNITS.keys() | _TEENS.keys() | _TENS.keys()
_MILLION = (["million"], ["mil"], ["mill"], ["m"])
_REPEATS = {"double": 2, "triple": 3}

# "one" is a number only in such company; elsewhere it stands for a home ("the second one", "a nice one")
_BEFORE_ONE = word_set(
    "at half around about past to before after till until by in number option listing for from between hour point "
    "plus and "
    "or say have need want just"
)
_AFTER_ONE = word_set(
    "bed beds bedroom bedrooms bath baths bathroom bathrooms am pm o'clock oclock hour week month day minute thirty "
    "fifteen hundred thousand million mil point or and"
)

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|[0-9]+|\s+|.")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")  # "forty-two", "three-bedroom"
# typographic quotes and dashes, by code point
_STRAIGHT = str.maketrans("\u2019\u2018\u201c\u201d\u2013\u2014\u2011", "''\"\"---")
_MULTIPLES = {"k": 1_000, "thousand": 1_000, "grand": 1_000}
_THOUSANDS = re.compile(r"(?<![0-9,.])([0-9]{1,3})((?:,[0-9]{3})+)(?!,?[0-9])")
_MULTIPLE = re.compile(r"(?<![0-9.])([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(k|thousand|grand|mm?|mil|million)\b")
_O_CLOCK = re.compile(r"\bo clock\b|\boclock\b")
_DECIMAL_COMMA = re.compile(r"\b([0-9]),([0-9]{1,2})(?= ?(?:million|mil|m)\b)")
_SUM = re.compile(r"\b([0-9]{1,3}000000) (?:and )?([0-9]{4,6})\b")
_MERIDIEM = re.compile(r"([0-9]|o'?clock|in the)\s*([ap])\.?\s?m\b\.?")


def clean(text: str) -> str:
    """One line of lower-case text without control characters, at most ``LONGEST`` characters."""
    plain = unicodedata.normalize("NFKC", text[:LONGEST])[:LONGEST].translate(_STRAIGHT).casefold()
    kept = "".join(" " if unicodedata.category(char).startswith(("C", "Z")) else char for char in plain)
    return " ".join(kept.split())


def spoken_numbers(text: str) -> str:
    """``text`` (as ``clean`` leaves it) with its spoken numbers in digits.

    Neighbouring numbers that do not form one stay apart: "two oh six" is "2 0 6", for the
    readers of phone numbers, listing numbers and times to join as each of them must.
    """
    text = _DECIMAL_COMMA.sub(r"\1.\2", text.replace("@", " at "))
    text = _O_CLOCK.sub("o'clock", text)
    digits = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), _words(text))
    digits = _MULTIPLE.sub(_multiplied, digits)
    digits = _SUM.sub(lambda found: str(int(found[1]) + int(found[2])), digits)
    return _MERIDIEM.sub(lambda found: f"{found[1]} {found[2]}m", digits)


def _multiplied(found: re.Match[str]) -> str:
    if found[2].startswith("m") and float(found[1]) >= 1000:
        return found[0]  # "1042 million" is no price
    return str(round(float(found[1]) * _MULTIPLES.get(found[2], 1_000_000)))


def _words(text: str) -> str:
    tokens = _WORD.findall(_HYPHEN.sub(" ", text))
    words = [token for token in tokens if not token.isspace()]
    gaps = _gaps(tokens)
    out: list[str] = []
    at = 0
    while at < len(words):
        digits, after = _number(words, at)
        if not digits:
            digits, after = words[at], at + 1
        out.append(gaps[at] + digits)
        at = after
    return "".join(out)


def _gaps(tokens: list[str]) -> list[str]:
    """The white space in front of each token that is a word."""
    gaps: list[str] = []
    gap = ""
    for token in tokens:
        if token.isspace():
            gap = " "
        else:
            gaps.append(gap)
            gap = ""
    return gaps


def _number(words: list[str], at: int) -> tuple[str, int]:
    """The digits of the number that starts at ``at`` and the index after it; no digits if none does."""
    word = words[at]
    if word in ("a", "an"):
        return _article(words, at)
    if word == "half" and words[at + 1 : at + 2] == ["a"] and words[at + 2 : at + 3] in _MILLION:
        return "500000", at + 3
    if word in ("o", "oh"):
        return ("0", at + 1) if _is_zero(words, at) else ("", at)
    if word in _REPEATS and at + 1 < len(words):
        digit = _digit(words[at + 1])
        return (" ".join([digit] * _REPEATS[word]), at + 2) if digit else ("", at)
    if word in _ORDINALS:
        # "give me a second" is not a home and not a date
        idle = word == "second" and at > 0 and words[at - 1] in ("a", "one", "just")
        return ("", at) if idle else (_nth(_ORDINALS[word]), at + 1)
    if word == "one" and not _counts(words, at):
        return "", at
    return _cardinal(words, at)


def _article(words: list[str], at: int) -> tuple[str, int]:
    match words[at + 1 : at + 3]:
        case ["hundred", *_]:
            return _tail(words, 1, at + 1)
        case ["thousand" | "million" as multiple, *_]:
            return f"1 {multiple}", at + 2
        case ["couple", "of"]:
            return "2", at + 3
        case _:
            return "", at


def _cardinal(words: list[str], at: int) -> tuple[str, int]:
    value, after = _small(words, at)
    if value is None:
        return "", at
    if (
        after < len(words)
        and words[after] in _ORDINALS
        and value in range(20, 100, 10)
        and _ORDINALS[words[after]] < 10
    ):
        return _nth(value + _ORDINALS[words[after]]), after + 1
    return _tail(words, value, after)


def _tail(words: list[str], value: int, after: int) -> tuple[str, int]:
    """What may follow a small number: "hundred and fifty", "point five", "and a half"."""
    if after < len(words) and words[after] == "hundred":
        value, after = value * 100, after + 1
        skip = after + 1 if words[after : after + 1] == ["and"] else after
        rest, end = _small(words, skip)
        if rest is not None and value < 10_000:
            value, after = value + rest, end
    match words[after : after + 3]:
        case ["point", decimal, *_] if _digit(decimal):
            return _decimals(words, str(value), after + 1)
        case ["and", "a", "half"]:
            return f"{value}.5", after + 3
        case _:
            return str(value), after


def _decimals(words: list[str], whole: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(words) and at - start < 3 and _digit(words[at]):
        at += 1
    return f"{whole}.{''.join(_digit(word) for word in words[start:at])}", at


def _small(words: list[str], at: int) -> tuple[int | None, int]:
    """A number below a hundred in words, or the numeral that is written there."""
    if at >= len(words):
        return None, at
    word = words[at]
    if word in _TENS:
        unit = _UNITS.get(words[at + 1], 0) if at + 1 < len(words) else 0
        return (_TENS[word] + unit, at + 2) if unit else (_TENS[word], at + 1)
    if word in _TEENS:
        return _TEENS[word], at + 1
    if word in _UNITS:
        return _UNITS[word], at + 1
    written = word.isascii() and word.isdigit() and len(word) <= 3 and not word.startswith("0")
    in_words = words[at + 1 : at + 2] in (["hundred"], ["point"]) or words[at + 1 : at + 4] == ["and", "a", "half"]
    return (int(word), at + 1) if written and in_words else (None, at)


def _counts(words: list[str], at: int) -> bool:
    before = words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    numeric = _is_numeral(before) or ((_is_numeral(after) or after in ("o", "oh")) and before != "the")
    numeric = numeric or (before in ("o", "oh") and at > 1 and _is_numeral(words[at - 2]))
    return numeric or before in _BEFORE_ONE or after in _AFTER_ONE or len(words) == 1


def _is_zero(words: list[str], at: int) -> bool:
    if at and (_is_numeral(words[at - 1]) or words[at - 1] in ("o", "oh")):
        return True
    return len(words) > at + 2 and _is_numeral(words[at + 1]) and _is_numeral(words[at + 2])


def _is_numeral(word: str) -> bool:
    return word in _NUMERAL or (word.isascii() and word.isdigit())


def _digit(word: str) -> str:
    if word in _UNITS:
        return str(_UNITS[word])
    return "0" if word in ("o", "oh") else word if len(word) == 1 and word in "0123456789" else ""


def _nth(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
