"""The viewings of a call: put together piece by piece, read back where anything is unsure, then wished."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from oneroof.understanding import replies
from oneroof.understanding.hearing import Ask, Heard
from oneroof.understanding.homes import Mention
from oneroof.understanding.intents import Intent
from oneroof.understanding.offers import Offers
from oneroof.understanding.reply import Reply
from oneroof.understanding.searching import Searching
from oneroof.understanding.viewing import Viewing
from oneroof.understanding.when import When, say_slot
from oneroof.understanding.wishes import Book, Wish

_ALSO: Final = re.compile(r"\b(?:also|too|as well|another|second viewing|both)\b|^\W*(?:oh )?(?:and|then)\b")
_SAME_DAY: Final = re.compile(r"\b(?:the same|that|same) day\b")
_SAME_TIME: Final = re.compile(r"\b(?:the same|same) time\b")
_INSTEAD: Final = re.compile(r"\b(?:instead|rather|meant|mean|wrong|not|change|switch|swap|make it|other)\b")
_CORRECTION: Final = re.compile(
    r"\b(?:instead|actually|rather|no|wait|change|make it|meant|mean|wrong|not|switch|swap|sorry)\b"
)


@dataclass(slots=True)
class CallState:
    """What is known of a call so far. Written by the dialogue; the search and the offers by themselves."""

    now: datetime
    offers: Offers = field(default_factory=Offers)
    search: Searching = field(default_factory=Searching)
    phone: str | None = None
    name: str | None = None
    wished: list[Wish] = field(default_factory=list)


def corrects(text: str) -> bool:
    """Whether a line takes back something said before."""
    return _CORRECTION.search(text) is not None


class Appointments:
    """The viewing that is talked about. It is None before one is, and after the caller dropped it."""

    def __init__(self, call: CallState) -> None:
        self._call = call
        self.viewing: Viewing | None = None

    @property
    def open(self) -> bool:
        """Whether a viewing is being put together."""
        return self.viewing is not None and not self.viewing.wished

    def view(self, homes: Sequence[Mention], heard: Heard, reply: Reply) -> None:
        several = self.several(homes)
        named = homes[-1] if homes and not several else None
        done = self.viewing
        if done is None or (done.wished and (several or self._is_another(named, done, heard))):
            self.viewing = self._next_viewing(done, heard)
        self.change(named, heard, reply)
        if several and self.viewing:
            self.viewing.home = self.viewing.pick = None
            self.viewing.doubt("")
            reply.ask(Ask.HOME, replies.which_first(several))

    def is_restated(self, when: When) -> bool:
        """Whether ``when`` names the day or the time of the open viewing once more, and nothing else."""
        viewing = self.viewing
        if viewing is None or not when:
            return False
        said = When(when.day, when.clock, when.by_name, sure=when.sure)
        return said == when and when.day in (None, viewing.day) and when.clock in (None, viewing.clock)

    def add(self, named: Mention | None, heard: Heard, reply: Reply) -> None:
        """Takes a home or a time that comes without a request."""
        done = self.viewing
        as_well = done is not None and done.wished and _ALSO.search(heard.text) is not None
        if done is None or (as_well and self._is_another(named, done, heard)):
            self.viewing = self._next_viewing(done, heard)
        self.change(named, heard, reply)

    def _next_viewing(self, done: Viewing | None, heard: Heard) -> Viewing:
        """A new viewing; "the same day" and "the same time" are those of the one before."""
        new = Viewing()
        if done and _SAME_DAY.search(heard.text):
            new.day, new.by_name = done.day, done.by_name
        if done and _SAME_TIME.search(heard.text):
            new.clock = done.clock
        return new

    def several(self, homes: Sequence[Mention]) -> list[str]:
        """The different homes that a line asks to see at once; none if it is one."""
        resolved = dict.fromkeys(home for one in self._call.offers.expand(homes) if (home := self.resolve(one)))
        return list(resolved) if len(resolved) > 1 else []

    def _is_another(self, named: Mention | None, done: Viewing, heard: Heard) -> bool:
        """Whether a line asks for a second viewing rather than changes the first."""
        if named is None or named.kind == "it" or self.resolve(named) == done.home:
            return False
        return _ALSO.search(heard.text) is not None or not _CORRECTION.search(heard.text)

    def pick_slot(self, heard: Heard, reply: Reply) -> bool:
        picks = [home.index for home in heard.homes if home.kind == "pick"]
        if not picks and not heard.when and Intent.YES in heard.intents:
            picks = [1]
        slot = self._call.offers.slot_at(picks[-1]) if picks else None
        if slot is None or self.viewing is None or slot == self.viewing.slot(self._call.now):
            return False
        self.viewing.take_slot(slot)
        reply.progress = True
        return True

    def change(self, named: Mention | None, heard: Heard, reply: Reply) -> None:
        viewing = self.viewing
        if viewing is None:
            return
        reply.progress = True
        named = named or (Mention("it", 0) if viewing.home is None and viewing.pick is None else None)
        as_well = False
        if named and named.kind in ("it", "that") and self._call.offers.mixed:
            viewing.home = viewing.pick = None  # which of those the office spoke of, is asked
        elif named and (home := self.resolve(named)):
            viewing.take_home(home)
            self._call.offers.take_up(home)
            # "actually, can I see 1077": instead, or as well?
            as_well = viewing.instead_of is not None and not _INSTEAD.search(heard.text)
        elif named and named.kind != "it":
            viewing.home, viewing.pick = None, named
        if heard.when and (problem := viewing.take(heard.when, self._call.now)):
            reply.say.append(problem)
            reply.progress = False
        odd = heard.odd_for(Intent.BOOK)
        if as_well or odd or heard.spelled or not heard.when.sure:
            viewing.doubt(odd)
        elif heard.when.day and heard.when.clock:
            viewing.trust()

    def resolve(self, home: Mention) -> str | None:
        return self._call.offers.resolve(home, self.viewing.home if self.viewing else None)

    def settle(self, heard: Heard, reply: Reply) -> None:
        """Wishes the viewing once it is complete and sure, and asks for the next piece until then."""
        viewing = self.viewing
        if viewing is None:
            return
        if viewing.home is None and viewing.pick and (home := self.resolve(viewing.pick)):
            viewing.take_home(home)
            self._call.offers.take_up(home)
            reply.progress = True
        if heard.odd and not viewing.wished:
            viewing.doubt(heard.odd)  # words beside an open viewing may be about it
        slot = viewing.slot(self._call.now)
        if viewing.home and slot and not self._is_wished(viewing, slot):
            if viewing.unsure:
                self._read_back(viewing, viewing.home, slot, reply)
            elif self._call.phone:
                self._book(
                    viewing, Book(home=viewing.home, slot=slot, phone=self._call.phone, name=self._call.name), reply
                )
            else:
                self._ask_next(viewing, slot, reply)
        elif viewing.home and slot:
            viewing.trust()
            if reply.progress and not reply.say:
                reply.say.append(replies.ALREADY)
        else:
            self._ask_next(viewing, slot, reply)

    def _read_back(self, viewing: Viewing, home: str, slot: datetime, reply: Reply) -> None:
        words = replies.confirm_viewing(home, say_slot(slot), viewing.instead_of, viewing.odd)
        if reply.progress or reply.say:
            reply.ask(Ask.CONFIRM, words)

    def _book(self, viewing: Viewing, book: Book, reply: Reply) -> None:
        book = book.model_copy(update={"instead_of": viewing.instead_of})
        viewing.wished, viewing.instead_of = True, None
        reply.wish(book, replies.booking(book, say_slot(book.slot)))

    def _is_wished(self, viewing: Viewing, slot: datetime) -> bool:
        """Whether the last viewing wished is this one; a name that comes later does not change it."""
        last = next((wish for wish in reversed(self._call.wished) if isinstance(wish, Book)), None)
        same = last is not None and (last.home, last.slot, last.phone) == (viewing.home, slot, self._call.phone)
        return viewing.wished and same

    def _ask_next(self, viewing: Viewing, slot: datetime | None, reply: Reply) -> None:
        if not (reply.progress or reply.say) or reply.question.words:
            return
        offers_to_come = self._call.search.last is not None and not self._call.offers.homes
        if viewing.pick and not offers_to_come:
            viewing.pick = None  # the office named fewer homes than that
        if viewing.home is None and viewing.pick is None:
            self.ask_home(reply)
        elif slot is None:
            reply.ask(Ask.SLOT, viewing.ask_slot())
        elif self._call.phone is None:
            reply.ask(Ask.PHONE, replies.ASK_PHONE)
        else:
            reply.say.append(replies.STILL_LOOKING)

    def ask_home(self, reply: Reply) -> None:
        offers_to_come = self._call.search.last is not None and not self._call.offers.homes
        several = replies.ASK_OFFERED if len(self._call.offers.homes) > 1 else replies.ASK_HOME
        reply.ask(Ask.HOME, replies.STILL_LOOKING if offers_to_come else several)
