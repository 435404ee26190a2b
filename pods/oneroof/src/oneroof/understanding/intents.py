"""What a line is about, by weighted patterns over words."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Intent(StrEnum):
    """What a caller may be after in one line; several can hold at once."""

    SEARCH = "search"
    BOOK = "book"
    RESEARCH = "research"
    LOOKUP = "lookup"
    SELL = "sell"
    PERSON = "person"
    MESSAGE = "message"
    LANGUAGE = "language"
    FORGET = "forget"
    BYE = "bye"
    THANKS = "thanks"
    YES = "yes"
    NO = "no"
    REPEAT = "repeat"
    HOLD = "hold"
    GREETING = "greeting"
    HELP = "help"


STRONG: Final = 2  # enough alone; two weak signs make one

_HOMES = (
    r"(?:houses?|homes?|places?|apartments?|condos?|townhouses?|townhomes?|properties|listings|bedrooms?|beds?|"
    r"somewhere)"
)

# each enough alone
_ENOUGH: Final[Mapping[Intent, tuple[str, ...]]] = {
    Intent.SEARCH: (
        r"\b(?:looking|look|search|searching|hunting|shopping) (?:for|around|in)\b",
        (
            r"\b(?:find|get|show) (?:me |us )?(?:a|an|some|any|something|anything|homes|houses|places|"
            r"[1-9] (?:bed|bedroom)s?)\b"
        ),
        (
            r"\b(?:anything|something|what|homes|houses|places) (?:else )?(?:do you have|have you got|you have|"
            r"you've got|is available|are available|available|for sale|on the market|is there|are there|near|in|"
            r"around|under|with)\b"
        ),
        (
            r"\b(?:do you have|have you got|are there|is there|got) (?:any|anything|something|a|homes|houses|"
            r"some)\b"
        ),
        r"\b(?:anything|anywhere|something|somewhere|everything) (?:except|but|other than|apart from|not|outside)\b",
        r"\b(?:buy|buying|purchase|purchasing|move|moving) (?:a|an|in|to|into|my|our|somewhere|something)\b",
        r"\b(?:see|view|buy|want|need|like|after) (?:a|an|some|any) (?:[a-z]+ ){0,2}" + _HOMES + r"\b",
    ),
    Intent.BOOK: (
        (
            r"\b(?:book|schedule|reserve|arrange|set up|sign me up|put me down|make|"
            r"pencil me in)\b.{0,24}\b(?:viewing|appointment|tour|visit|showing|look|it|that|1st|2nd|3rd|one|"
            r"[0-9]{3,5}|_{3,}|for)\b"
        ),
        r"\b(?:viewing|viewings|appointment|a tour|tour of|showing|walk ?through|open house|reschedule)\b",
        r"\b(?:book|schedule|reschedule) (?:it|me|us|that|the|a|an|1|2|listing|[0-9])|^book\b",
        (
            r"\b(?:can|could|may|when can|when could) (?:i|we|you) (?:please )?(?:see|visit|tour|view|"
            r"come (?:by|see|over|and see)|take a look|have a look|show (?:me|us) (?:it|that|around))\b"
        ),
        (
            r"\b(?:come|drop|stop|swing) (?:by|over|and see|see|to see)\b|\blook at it\b|\b(?:see|view|visit|"
            r"tour) (?:it|that|this|the (?:1st|2nd|3rd|last|other|house|home|place)|listing|[0-9]{4})"
        ),
    ),
    Intent.RESEARCH: (
        (
            r"\b(?:worth|comps?|comparables?|comparable sales|valuation|value|valued|appraisal|appraised?|"
            r"apprais\w+|market price|fair price|overpriced|over priced|underpriced|a good deal|estimate|"
            r"price range)\b"
        ),
        (
            r"\b(?:similar|nearby|neighbou?ring|recent|comparable) (?:homes?|houses?|sales|places|ones?|"
            r"properties)\b|\b(?:houses|homes|places|ones|it) (?:like (?:it|that|this) )?(?:sell|sold|go|went|"
            r"selling|going) for\b|\bshould (?:i|we) (?:offer|pay|bid)\b"
        ),
        r"\b(?:would|could|might|will) (?:\w+ )?(?:sell|go) for\b",
        r"\bripped off\b|\boverpay|\btoo much for\b|\b(?:reasonable|fair|good) offer\b|\bcompares? (?:with|to)\b",
    ),
    Intent.LOOKUP: (
        (
            r"\b(?:tell me (?:more )?about|more about|details|information|info|describe|description|look up|"
            r"pull up|read me|the facts|specs|what can you tell me|what do you know)\b"
        ),
        (
            r"\bhow (?:many|big|large|old|much land)\b.{0,30}\b(?:it|that|this|does|is|listing|_{3,}|[0-9]{3,5}|"
            r"1st|2nd|3rd|one|house)\b|\b(?:does|has|is) (?:it|that one|this one|the (?:1st|2nd|3rd|"
            r"last) one) (?:have|got|on|still|come|a|waterfront|available|big|near)\b"
        ),
    ),
    Intent.SELL: (
        (
            r"\b(?:my|our) (?:own |old |current )?(?:[a-z]+ )?(?:house|home|place|condo|flat|apartment|property|"
            r"townhouse)\b.*"
            r"\b(?:worth|sell for|value|valued|fetch|get for|go for|bring in)\b|"
            r"\b(?:worth|value|valuation|appraisal|get for|sell for|estimate|appraise)\b.*\b(?:my|"
            r"our) (?:own )?(?:[a-z]+ )?"
            r"(?:house|home|place|condo|flat|apartment|property|townhouse)\b"
        ),
        (
            r"\b(?:sell|selling|list|listing|market|get rid of|part with|dispose of) (?:off )?(?:my|our|his|her|"
            r"their|the|a|an|this|mum's|mom's|"
            r"dad's|(?:my|our) [a-z]+(?:'s)?) (?:[a-z]+ ){0,3}?(?:houses?|homes?|places?|condos?|flats?|apartments?|"
            r"townhouses?|property|"
            r"properties|bungalow|cottage|land|lot)\b"
        ),
        (
            r"\b(?:put|putting) (?:my|our|the|it|this) (?:[a-z]+ ){0,3}(?:on|up) (?:the market|for sale)\b|"
            r"\bsell(?:ing)? up\b"
        ),
        (
            r"\b(?:want|wants|wanting|like|need|looking|look|hoping|hope|thinking|ready|decided|planning|plan|going|"
            r"trying|how do i|help me|interested in)(?: to| of| about| in)? (?:sell|selling)\b"
        ),
        (
            r"\b(?:to be|be|gets?|getting) sold\b|\bneeds? selling\b|\bi'?m selling\b|\bwe'?re selling\b|"
            r"\bi am selling\b|\bwe are selling\b|\bsell (?:with|through) you\b"
        ),
    ),
    Intent.PERSON: (
        (
            r"\b(?:speak|talk|chat|connect me|put me through|transfer me|pass me|get me|give me|"
            r"hand me|i want|i need|where is|where's)\b.{0,20}\b(?:human|person|agent|someone|somebody|"
            r"representative|rep|operator|realtor|"
            r"broker|colleague|manager|supervisor|people|man|woman|boss)\b"
        ),
        (
            r"\b(?:real|actual|live|human) (?:person|human|agent|being|operator|one)\b|^(?:agent|human|operator|"
            r"representative|person)\W*(?:please)?\W*$|\b(?:want|need|wanna have) (?:a |an |the )?(?:human|"
            r"person|agent|representative|operator|manager|supervisor|realtor|broker)\b"
        ),
        (
            r"\b(?:complaint|complain|lawyer|sue you|call me back(?! at| on)|transfer me to|"
            r"have someone call|someone (?:to )?call me|(?:ring|phone|call|get) (?:me|us) back|get back to (?:me|us)|"
            r"(?:someone|somebody|anyone|anybody|one of you|an agent) (?:\w+ ){0,2}(?:ring|phone|call|contact) (?:me|"
            r"us)|"
            r"through to (?:someone|somebody|anyone|anybody|an agent|a person|your)|"
            r"(?:not|don't want) (?:a |talking to a |to talk to a )?(?:robot|machine|bot))\b|"
            r"\b(?:anyone|anybody|someone|somebody) (?:\w+ ){0,3}(?:speak|talk) (?:to|with)\b|"
            r"\b(?:hate|stupid) (?:\w+ )?(?:robot|machine|bot)s?\b"
        ),
    ),
    Intent.MESSAGE: (
        (
            r"\b(?:leave|take|leaving|record) (?:a |you a |my |another |the |this )?(?:message|note|word|voicemail|"
            r"voice mail)\b|\bvoice ?mail\b|\bpass (?:on )?(?:a|this|along) (?:message|note)\b|\b(?:tell|"
            r"let) (?:the |your |my )?(?:agent|office|team|colleagues?|boss|manager|[a-z]+) (?:know )?that\b|"
            r"\bafter hours\b|\b(?:you are|you're|office is|are you) (?:probably |already )?closed\b"
        ),
    ),
    Intent.LANGUAGE: (
        r"\b(?:habla|hablan|espa[nñ]ol|parlez|fran[cç]ais|deutsch|portugu[eê]s)\b",
        (
            r"\b(?:speaks?|speaking|understand|talk|in) (?:spanish|french|german|italian|portuguese|japanese|hindi|"
            r"arabic|ukrainian|chinese|mandarin|cantonese|vietnamese|"
            r"somali|korean|russian|tagalog)\b"
        ),
    ),
    Intent.FORGET: (
        (
            r"\b(?:forget (?:it|that|about it|the (?:viewing|appointment|booking|whole thing))|never ?mind|"
            r"cancel|scrap that|drop it|don't book|do not book|not interested any ?more|changed my mind)\b"
        ),
    ),
    Intent.BYE: (
        (
            r"\b(?:good ?bye|bye(?: bye)?|see you|see ya|have a (?:nice|good|great) (?:day|one|evening|weekend)|"
            r"hang(?:ing)? up|that's all|that is all|that will be all|that'll be all|nothing else|gotta go|"
            r"got to go|have to go|good night|take care|i'm done|we're done|that's it|that is it)\b"
        ),
    ),
    Intent.THANKS: (
        r"\b(?:thanks|thank you|thankyou|thx|gracias|merci|danke|cheers|much appreciated|appreciate it)\b",
    ),
    Intent.YES: (
        (
            r"^\W*(?:yes|yeah|yep|yup|sure|ok|okay|please|please do|perfect|great|right|correct|sounds good|"
            r"that works|works for me|go ahead|absolutely|of course|alright|all right|fine|good|lovely|"
            r"wonderful|excellent|cool|awesome|nice)\b"
        ),
    ),
    Intent.NO: (r"^\W*(?:no|nope|nah|not really|not now|nothing)\b(?:\W+\w+){0,4}\W*$",),
    Intent.REPEAT: (
        (
            r"\b(?:say that again|repeat|pardon|come again|didn't (?:catch|hear|get)|did not (?:catch|hear|get)|"
            r"one more time|what did you say|what was that)\b|^\W*(?:what|sorry|huh|excuse me)\W*$"
        ),
    ),
    Intent.HOLD: (
        (
            r"\b(?:hold on|hang on|(?:just )?(?:a|one|1) (?:second|sec|moment|minute)|wait a|bear with me|"
            r"let me (?:think|check|see|look|find)|give me a)\b"
        ),
    ),
    Intent.GREETING: (
        (
            r"^\W*(?:hello|hi|hey|good (?:morning|afternoon|evening)|howdy|greetings|hiya|is (?:anyone|anybody|"
            r"someone) there|are you there|i'm here|still here|yes i'm here)\b"
        ),
    ),
    Intent.HELP: (
        (
            r"\b(?:what can you do|how does this work|help me|can you help|who (?:is this|am i)|who are you|"
            r"what is this|are you (?:a )?(?:real|human|robot|bot|machine|an ai|a computer))\b"
        ),
    ),
}
# two of them make one, as does one beside a home or a time
_HINTS: Final[Mapping[Intent, tuple[str, ...]]] = {
    Intent.SEARCH: (
        r"\b" + _HOMES + r" (?:in|near|around|with|under|for|on|that|by|at|below|over)\b",
        (
            r"\b(?:want|need|would like|wish|'d like|hoping|prefer|after|interested in) (?:for |to (?:buy|see|"
            r"find|get) )?(?:a|an|some|something|anything|homes|houses|[1-9])\b"
        ),
        r"\b(?:what|how) about (?:in )?[a-z]",
        r"\b(?:search|cheaper|bigger|smaller|listings|instead|neighbou?rhood)\b",
    ),
    Intent.BOOK: (r"\b(?:see|visit|view|tour|show|look at|check out|walk through)\b",),
    Intent.LOOKUP: (
        (
            r"\b(?:how much is|asking|list price|price of|cost|what is|what's|what about|how about|about|"
            r"show me|give me|hear about|is|does|know|year built|lot size|square footage)\b"
        ),
    ),
}

_COMPILED: Final = tuple(
    (intent, weight, re.compile(pattern))
    for weight, signs in ((STRONG, _ENOUGH), (1, _HINTS))
    for intent, patterns in signs.items()
    for pattern in patterns
)


@dataclass(frozen=True, slots=True)
class Sign:
    """How strongly a line speaks for an intent, and where it first does."""

    weight: int
    at: int


_REFUSED: Final = re.compile(
    r"(?<!why )\b(?:(?:don't|do not|didn't|did not|doesn't|won't|will not|wouldn't|never|can't|cannot|"
    r"no longer)(?! (?:you|we|i)\b)|"
    r"not (?:ready |here |going |trying |looking |calling |asking |planning |interested |prepared |yet |"
    r"about )?)(?: [a-z']+){0,3} ?$"
)
_REFUSABLE: Final = frozenset({Intent.SEARCH, Intent.BOOK, Intent.RESEARCH, Intent.LOOKUP, Intent.SELL})


def _is_refused(intent: Intent, text: str, at: int) -> bool:
    """Whether the caller says not to: "I don't want to book 1042"."""
    return intent in _REFUSABLE and _REFUSED.search(text[:at]) is not None


def score(text: str) -> Mapping[Intent, Sign]:
    """The intents that ``text`` shows any sign of."""
    signs: dict[Intent, Sign] = {}
    for intent, weight, pattern in _COMPILED:
        found = next((one for one in pattern.finditer(text) if not _is_refused(intent, text, one.start())), None)
        if found:
            before = signs.get(intent)
            signs[intent] = Sign(
                weight + (before.weight if before else 0), min(found.start(), before.at) if before else found.start()
            )
    return signs


def without_signs(text: str, intents: Collection[Intent]) -> str:
    """``text`` with the words that speak for ``intents`` replaced by underscores."""
    for intent, _, pattern in _COMPILED:
        if intent in intents:
            text = pattern.sub(lambda match: "_" * len(match[0]), text)
    return text


def decide(
    signs: Mapping[Intent, Sign], *, homes: bool, weak_homes: bool, criteria: bool, when: bool
) -> dict[Intent, int]:
    """The intents that hold, with their places in the line, given what else the line names.

    ``homes``: a home is named; ``weak_homes``: only by "it" or "that one".
    """
    weights = {intent: sign.weight for intent, sign in signs.items()}
    any_home = homes or weak_homes
    if any_home:
        for intent in (Intent.BOOK, Intent.LOOKUP):
            # "show me 1042" hints at both, and is a question rather than a viewing
            if weights.get(intent) == 1 and homes and (intent is Intent.LOOKUP or Intent.LOOKUP not in signs):
                weights[intent] += 1
    if when and homes and weights.get(Intent.LOOKUP, 0) < STRONG and Intent.LOOKUP in signs:
        weights[Intent.BOOK] = weights.get(Intent.BOOK, 0) + 1  # "what about Tuesday at noon for 1042?"
    if when and weights.get(Intent.BOOK, 0) >= 1 and (any_home or not criteria):
        weights[Intent.BOOK] += 2
    if Intent.SELL in weights:
        # who sells a home does not look for one, and what it may fetch is for a colleague to say
        buys = criteria and signs.get(Intent.SEARCH, Sign(0, 0)).weight >= STRONG
        for intent in (Intent.LOOKUP, Intent.RESEARCH, *(() if buys else (Intent.SEARCH,))):
            weights.pop(intent, None)
    elif criteria:
        weights[Intent.SEARCH] = weights.get(Intent.SEARCH, 0) + 2
    held = {intent for intent, weight in weights.items() if weight >= STRONG}
    if Intent.RESEARCH in held and signs.get(Intent.LOOKUP, Sign(0, 0)).weight < STRONG:
        held.discard(Intent.LOOKUP)
    if Intent.BOOK in held and signs.get(Intent.LOOKUP, Sign(0, 0)).weight < STRONG:
        held.discard(Intent.LOOKUP)
    if Intent.LOOKUP in held and Intent.BOOK in held and signs[Intent.BOOK].weight < STRONG and not when:
        held.discard(Intent.BOOK)
    asks_of_home = held & {Intent.BOOK, Intent.RESEARCH, Intent.LOOKUP}
    if Intent.RESEARCH in held and signs.get(Intent.SEARCH, Sign(0, 0)).weight < STRONG:
        held.discard(Intent.SEARCH)
    # "does 1042 have three bedrooms" names criteria but asks of one home
    if asks_of_home and any_home and signs.get(Intent.SEARCH, Sign(0, 0)).weight < STRONG:
        held.discard(Intent.SEARCH)
    if Intent.SEARCH in held and homes and not criteria:
        held.discard(Intent.SEARCH)
        held |= {Intent.LOOKUP} if not asks_of_home else set()
    return {intent: signs[intent].at if intent in signs else 0 for intent in held}
