"""The search that a call is putting together."""

import re
from dataclasses import dataclass
from typing import Final

from oneroof.understanding import replies
from oneroof.understanding.criteria import Criteria
from oneroof.understanding.hearing import Ask, Heard
from oneroof.understanding.intents import Intent
from oneroof.understanding.reply import Reply
from oneroof.understanding.wishes import Search

_FRESH: Final = re.compile(
    r"\b(?:find|show me|show us|looking for|search for|searching for|do you have|what do you have|new search|"
    r"start over)\b"
)
_AMENDS: Final = re.compile(
    r"\b(?:instead|actually|also|too|make it|make that|what about|how about|rather|change|but|still|same|no|not|"
    r"sorry|meant)\b"
)
_AS_WELL: Final = re.compile(r"\b(too|also|as well)\b|^\W*and\b")
_DEFAULT: Final = Search()


@dataclass(slots=True)
class Searching:
    """``last`` is the search that was wished; ``pending`` waits for the caller's yes, because of ``odd`` if any."""

    last: Search | None = None
    pending: Search | None = None
    odd: str = ""

    def look(self, heard: Heard, reply: Reply) -> bool:
        """Searches, reads the search back, or asks what is missing. True if a search was wished."""
        criteria = heard.criteria
        if not criteria:
            reply.progress = True
            self._ask_place(heard, reply)
            return False
        before = self.pending or self.last
        search, sure = self._merge(heard, before)
        if search == (before or _DEFAULT):
            return self._answer_unchanged(criteria, reply)
        odd = heard.odd_for(Intent.SEARCH)
        if sure and not odd and not heard.spelled and self.pending is None:
            return self._wish(search, reply)
        reply.progress = True
        self.pending, self.odd = search, odd or self.odd
        return False

    def _merge(self, heard: Heard, before: Search | None) -> tuple[Search, bool]:
        """The search that the line leads to, and whether the caller can mean no other."""
        criteria = heard.criteria
        onto = criteria.onto(before)
        sure = criteria.sure
        if before and before.place and criteria.place and (as_well := _AS_WELL.search(heard.text)):
            sure = sure and as_well[1] is not None  # "and Fremont?" may ask for Fremont instead
            places = dict.fromkeys((before.place, *before.other_places, criteria.place, *onto.other_places))
            onto = onto.model_copy(update={"place": before.place, "other_places": tuple(places)[1:]})
        fresh = criteria.many and _FRESH.search(heard.text) and not _AMENDS.search(heard.text)
        if before is None or not fresh:
            rooms_of_what = criteria.rooms is not None and before is not None and before.baths is not None
            return onto, sure and not rooms_of_what
        anew = criteria.onto(None)
        return anew, criteria.sure and anew == onto

    def _answer_unchanged(self, criteria: Criteria, reply: Reply) -> bool:
        reply.progress = True
        if self.pending is not None:
            return False  # it is read back once more
        if criteria.cheaper or not self.last:  # "something cheaper" with no price to go below
            reply.ask(Ask.PLACE, replies.ASK_PLACE)
        elif criteria.rooms is not None:
            reply.ask(Ask.PLACE, replies.ASK_ROOMS)
        else:
            reply.say.append(replies.ALREADY)
        return False

    def _ask_place(self, heard: Heard, reply: Reply) -> None:
        strange = f"{replies.strange(heard.odd)} " if heard.odd else ""
        reply.ask(Ask.PLACE, f"{strange}{replies.ASK_PLACE}")

    def read_back(self, reply: Reply) -> None:
        """Asks whether the pending search is right, if one waits."""
        if self.pending is not None:
            reply.ask(Ask.CONFIRM, replies.confirm_search(self.pending, self.odd))

    def confirm(self, reply: Reply) -> bool:
        """The caller said yes. True if a search was wished."""
        return self.pending is not None and self._wish(self.pending, reply)

    def drop(self) -> bool:
        """The caller said no, or wants nothing any more. True if a search waited for the answer."""
        waited = self.pending is not None
        self.pending, self.odd = None, ""
        return waited

    def _wish(self, search: Search, reply: Reply) -> bool:
        self.last = search
        self.drop()
        reply.wish(search, replies.looking(search))
        return True
