"""Yes and no, as an answer to what the office read back."""

import re
from typing import Final

_LEAD: Final = r"^\W*(?:(?:oh|um|uh|er|well|erm|ah|hm),? )*"
_YES: Final = re.compile(
    _LEAD + r"(?:yes|yeah|yep|yup|yea|aye|sure|ok|okay|correct|right|exactly|perfect|great|please do|indeed|absolutely|"
    r"definitely|"
    r"of course|sounds (?:good|great|right)|that works|fine|go ahead|do (?:it|that|so)|please|si|sí|ja|it is|i did|"
    r"i do|spot on|you got it|"
    r"you've got it|that's (?:right|it|correct|fine|good|the one|what i (?:said|meant|want))|that is (?:right|it|"
    r"correct|fine)|"
    r"lovely|brilliant|wonderful|all right|alright|good)\b"
)
_NO: Final = re.compile(
    _LEAD
    + r"(?:no|nope|nah|not (?:that|really|quite|right)|wrong|that's (?:not|wrong)|that is (?:not|wrong)|that isn't|"
    r"incorrect|neither|"
    r"i didn't|i did not|don't|do not)\b"
)
_YES_ANYWHERE: Final = re.compile(r"\b(?:yes|yeah|yep|right|correct|exactly|please|fine|perfect)\b")
_BUT: Final = re.compile(r"\b(?:but|not|no|except|wait|don't|actually|only|unless|if|instead|rather)\b")


def is_yes(text: str) -> bool:
    """Whether a line agrees, without any but."""
    return _YES.match(text) is not None and _BUT.search(text) is None


def says_yes(text: str) -> bool:
    """Whether a line that repeats what was read back agrees somewhere: "December fourth, yes"."""
    return _YES_ANYWHERE.search(text) is not None and _BUT.search(text) is None


def is_no(text: str) -> bool:
    """Whether a line disagrees."""
    return _NO.match(text) is not None
