"""Words that a caller may say without changing what is wanted, and what is left over of a line without them.

A word that no reader used and that is not listed here was not understood. If the line leads to a viewing or a search,
the office reads back what it understood before it does anything.
"""

import re
from typing import Final

from oneroof.understanding.numbers import word_set

_POLITE: Final = word_set(
    "hi hello hey hiya howdy good morning afternoon evening please pls plz thanks thank thankyou thx cheers ta "
    "kindly "
    "sorry excuse pardon "
    "welcome dear sir madam mate guys folks bye goodbye much appreciated appreciate lovely lot lots brilliant great "
    "perfect "
    "wonderful fantastic excellent awesome cool nice fine ok okay alright sure yes yeah yep yup yea aye right "
    "correct exactly "
    "absolutely definitely certainly indeed course obviously all"
)
_HESITANT: Final = word_set(
    "um umm uh uhm er erm ah ahem hm hmm hmmm mm well so oh ooh like just actually really maybe perhaps probably "
    "basically literally honestly anyway anyhow now then there here also too again still already quite rather pretty "
    "kind sort kinda sorta bit little you know mean meant suppose guess think thinking thought wonder wondering hope "
    "hoping let's let lets me see look listen wait hang hold on second moment minute thing things way better best"
)
_PRONOUNS: Final = word_set(
    "i i'm i'd i'll i've im id ill ive my mine me we we're we'd we'll we've our ours us you you're you'd you'll "
    "you've your yours he he's she she's they they're "
    "them it it's its it'd it'll that that's this these those one ones someone somebody anyone anybody something "
    "anything "
    "who what what's which when where how why there's here's myself ourselves somewhere anywhere place"
)
_GRAMMAR: Final = word_set(
    "a an the and of in on at for to from with by as is are was were be been being am do does did done doing has have "
    "had having will would can could shall should may might must get got getting gets go going gone come coming comes "
    "came gonna wanna gotta it'll if because since while s d ll re ve m t into over up out off around about near "
    "close side part area neighborhood neighbourhood district down"
)
_ASKING: Final = word_set(
    "want wants wanted wanting need needs needed needing like liked love loved looking look looks searching search "
    "find finding found show showing showings view viewing viewings viewed visit visiting see seeing seen tour "
    "touring book "
    "booking booked schedule scheduling scheduled reschedule reserve arrange arranging appointment appointments make "
    "making made set put pop drop swing stop pencil check walk through give gimme take taking took tell know hear help "
    "interested interest available availability possible works work working suit suits sounds sound keen prefer "
    "preferably ideally fancy hunt hunting shopping buy buying purchase purchasing move moving live living settle "
    "afford spend spending pay paying budget price priced prices range cost costs money "
    "sale market listed listing listings number numbers mls parcel id offer offered details detail information info "
    "time times slot o'clock oclock clock change changed changing switch swap bring push "
    "call calling called phone telephone cell mobile reach text ring name speaking try trying use using meet meeting "
    "open house "
    "start starting free worth value estimate comps comparable comparables wife husband partner kids family "
    "mum mom dad mother father son daughter friend same another cheapest seattle instead else per haven't say says said"
)
_HOMES: Final = word_set(
    "home homes house houses place places property properties bed beds bedroom bedrooms bath baths bathroom bathrooms "
    "room rooms square feet foot ft sqft sq dollars dollar usd bucks"
)

PLAIN: Final = _POLITE | _HESITANT | _PRONOUNS | _GRAMMAR | _ASKING | _HOMES

# Phrases of words that mean something elsewhere; they say nothing here.
_IDLE: Final = re.compile(
    r"^\W*(?:no|nope|nah)\b(?=\W*(?:,|\.|!|;|wait|sorry|that|thanks|thank|$|_|i |the |make|actually|not|let|hang|"
    r"hold|it'?s|on |at |in |for |we ))|"
    r"\bno (?:wait|sorry|worries|problem|rush|hurry|bother|matter|pressure|idea|thanks|thank you|actually)\b|"
    r"\bif (?:that's|that is|it's|it is|you|i may|possible|at all)(?: (?:ok|okay|possible|alright|all right|fine|"
    r"don't mind|do not mind|"
    r"can|could|please|not too much trouble|would))?\b|\bat all\b|\bwhy don't (?:we|i|you)\b|\bwhy not\b|"
    r"\b(?:don't|do not|can't|cannot|couldn't|won't|wouldn't) (?:you|we|i)\b|\bwouldn't mind\b|\bcan't wait\b|"
    r"\bi don't (?:mind|suppose|know)\b|\bdon't (?:worry|mind)\b|\bnot a problem\b|\b(?:1st|first) of all\b|"
    r"\bany ?(?:chance|luck|way)\b|\bgot any\b|\b(?:some|any)(?: more)? (?=homes|houses|places|listings|properties|_|"
    r"thing|time)|\bany_|"
    r"\bhave any\b|\bthere any\b|\bsee any\b|\bdo you\b|\blooking to\b|\bon second thought\b|\bno good\b|"
    r"\bone of\b|\bmore about\b|\bsome\b|\b(?:thanks|thank you) a lot\b|\ba lot\b|\bor something(?: like that)?\b|"
    r"\bor so\b|\bin total\b|\bthe other one\b|\bnot bad\b|\bor not\b|\bnext to\b|\b(?:good|what|which|that|same|any|"
    r"nice|lovely|great|another) (?:day|days|date)\b|\bday and time\b|\bof the day\b|\bsharp\b|\bon the dot\b|"
    r"\bsame but\b"
)
_WORD: Final = re.compile(r"[a-z0-9$][a-z0-9$%.:/'-]*|[^\W_a-z0-9]+")
_NEIGHBOURS: Final = 3  # plain words between two that were not understood that are shown with them


def find_left_over(text: str) -> str:
    """The words of ``text`` that were not understood, as they were said; empty if there are none.

    ``text``: what the readers left, with everything they used replaced by underscores.
    """
    text = _IDLE.sub(lambda match: "_" * len(match[0]), text)
    strange = [match for match in _WORD.finditer(text) if not _is_plain(match[0].strip(".,:'-/"))]
    if not strange:
        return ""
    parts: list[str] = []
    start, end = strange[0].span()
    for match in strange[1:]:
        between = text[end : match.start()]
        if "_" in between or len(between.split()) > _NEIGHBOURS or re.search(r"[,.;!?]", between):
            parts.append(text[start:end])
            start = match.start()
        end = match.end()
    parts.append(text[start:end])
    return ", ".join(part.strip(" .,:'-/") for part in parts)


def _is_plain(word: str) -> bool:
    return not word or word in PLAIN or word.removesuffix("'s") in PLAIN
