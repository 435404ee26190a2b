"""The offline rules: a call is folded over line by line, and nothing else is remembered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from oneroof.office.hours import LOCAL, is_open
from oneroof.understanding import replies
from oneroof.understanding.hearing import Ask, Heard, hear, is_silence
from oneroof.understanding.homes import Mention
from oneroof.understanding.intents import Intent
from oneroof.understanding.offers import Offers
from oneroof.understanding.smalltalk import Question, answer
from oneroof.understanding.viewing import Viewing
from oneroof.understanding.when import say_slot
from oneroof.understanding.wishes import Book, Escalate, Line, Lookup, Research, Search, Turn, Voicemail, Wish

_PATIENCE: Final = 3  # silences, or lines not understood, in a row
_LONGEST_NOTE: Final = 1_000

_CORRECTION = re.compile(r"\b(?:instead|actually|rather|no|wait|change|make it|meant|sorry)\b")
_CANCEL = re.compile(r"\b(?:cancel|don't book|do not book|forget the)\b")

type _Asks = type[Research | Lookup]


@dataclass(slots=True)
class _Reply:
    """One turn in the making. ``progress``: the line was of use; ``served``: there is something to answer."""

    say: list[str] = field(default_factory=list)
    wants: list[Wish] = field(default_factory=list)
    progress: bool = False
    hang_up: bool = False


class Rules:
    """Understanding by patterns, offline. Never raises for anything a caller can say."""

    async def __call__(self, transcript: Sequence[Line], now: datetime) -> Turn:
        return understand(transcript, now)


def understand(transcript: Sequence[Line], now: datetime) -> Turn:
    """The office's turn after the last line of ``transcript``.

    A ``now`` without a time zone is a ValueError.
    """
    if now.tzinfo is None:
        raise ValueError(f"now must carry a time zone, and {now.isoformat()} has none: pass datetime.now(UTC)")
    call = Dialogue(now.astimezone(LOCAL))
    turn = Turn(say=replies.GREETING)
    for line in transcript:
        if line.who == "office":
            call.office(line)
        else:
            turn = call.caller(line.text)
    answered = bool(transcript) and transcript[-1].who == "office"
    return Turn(say=replies.LISTENING) if answered else turn


class Dialogue:
    """The state of one call, made anew from its transcript on every turn."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._offers = Offers()
        self._last_said = ""
        self._phone: str | None = None
        self._name: str | None = None
        self._search: Search | None = None
        self._viewing: Viewing | None = None
        self._waiting: list[tuple[_Asks, Mention | None]] = []  # asked of a home that is not known yet
        self._topic: _Asks | None = None
        self._question = Question()
        self._wished: list[Wish] = []
        self._silences = 0
        self._unclear = 0

    def office(self, line: Line) -> None:
        """Takes note of what the office said: homes and slots that the caller may now pick from."""
        self._offers.hear(line, self._now)
        self._last_said = line.text or self._last_said

    def caller(self, text: str) -> Turn:
        """The office's turn after ``text``."""
        if is_silence(text):
            return self._silence()
        self._silences = 0
        asked, self._question = self._question, Question()
        heard = hear(text, self._now, asked.ask, len(self._offers.homes or self._offers.slots))
        reply = _Reply()
        if not self._message(text, heard, asked.ask, reply):
            self._requests(heard, reply)
            self._settle_waiting(reply)
            self._settle_viewing(reply)
            if not reply.progress and not reply.say:
                self._small_talk(heard, asked, reply)
        self._finish(heard, asked, reply)
        return Turn(say=" ".join(reply.say), wants=tuple(reply.wants), hang_up=reply.hang_up)

    def _silence(self) -> Turn:
        self._silences += 1
        over = self._silences >= _PATIENCE
        return Turn(say=replies.GONE if over else replies.STILL_THERE, hang_up=over)

    def _message(self, text: str, heard: Heard, asked: Ask | None, reply: _Reply) -> bool:
        """A message for whoever comes in next. True if the line was one, or asked to leave one."""
        if asked is Ask.NOTE and not heard.only_contact and not heard.intents.keys() & {Intent.PERSON, Intent.MESSAGE}:
            if (
                heard.intents.keys() & {Intent.FORGET, Intent.NO, Intent.BYE, Intent.THANKS}
                and len(heard.text.split()) < 8
            ):
                return False
            self._take_contact(heard, reply)
            return self._record(text, reply)
        if Intent.MESSAGE not in heard.intents:
            return False
        self._take_contact(heard, reply)
        if heard.note:
            return self._record(heard.note, reply)
        reply.progress = True
        self._ask(Ask.NOTE, replies.SPEAK_NOW, reply)
        return True

    def _record(self, text: str, reply: _Reply) -> bool:
        self._wish(Voicemail(phone=self._phone, note=" ".join(text.split())[:_LONGEST_NOTE]), reply, replies.NOTED)
        if self._phone is None:
            self._ask(Ask.PHONE, replies.ASK_CALLBACK, reply)
        else:
            reply.say.append(replies.ANYTHING_ELSE)
        return True

    def _requests(self, heard: Heard, reply: _Reply) -> None:
        """Everything that the line asks for or adds, in the order in which it depends on itself."""
        self._take_contact(heard, reply)
        dropped = Intent.FORGET in heard.intents and self._forget(heard, reply)
        if Intent.LANGUAGE in heard.intents:
            self._escalate("the caller asks for another language", replies.LANGUAGE, reply)
        elif Intent.PERSON in heard.intents:
            self._escalate("the caller asks for a person", replies.TO_A_PERSON, reply)
        if Intent.SEARCH in heard.intents:
            self._look(heard, reply)
        wanted = {Intent.RESEARCH, Intent.LOOKUP} if dropped else {Intent.RESEARCH, Intent.LOOKUP, Intent.BOOK}
        asks = [intent for intent in heard.intents if intent in wanted]
        for intent in sorted(asks, key=heard.intents.__getitem__):
            homes = _homes_for(intent, heard, alone=len(asks) == 1)
            if intent is Intent.BOOK:
                self._view(homes, heard, reply)
            else:
                self._ask_of(Research if intent is Intent.RESEARCH else Lookup, homes, reply)
        if not asks and not dropped and not heard.intents.keys() & {Intent.SEARCH, Intent.PERSON, Intent.LANGUAGE}:
            self._additions(heard, reply)

    def _take_contact(self, heard: Heard, reply: _Reply) -> None:
        if heard.phone.number:
            fresh = heard.phone.number != self._phone
            self._phone = heard.phone.number
            reply.progress = True
            self._call_back(reply, fresh=fresh)
        if heard.phone.impossible:
            self._ask(Ask.PHONE, f"{replies.BAD_PHONE} {replies.ASK_PHONE}", reply)
        if heard.name:
            self._name = heard.name
            reply.progress = True

    def _call_back(self, reply: _Reply, *, fresh: bool) -> None:
        """A number given after a person was asked for, or a message left, goes to the same place."""
        match self._wished[-1:]:
            case [Escalate() | Voicemail() as last] if fresh:
                self._wish(last.model_copy(update={"phone": self._phone}), reply, replies.HAVE_NUMBER)

    def _forget(self, heard: Heard, reply: _Reply) -> bool:
        """Drops what is open; False if the line corrects it rather: "never mind friday, make it monday"."""
        cancels = _CANCEL.search(heard.text)
        if (heard.when and (not cancels or _CORRECTION.search(heard.text))) or (
            Intent.BOOK in heard.intents and not cancels
        ):
            return False
        reply.progress = True
        viewing, self._viewing, self._waiting = self._viewing, None, []
        if viewing and viewing.wished and viewing.home:
            self._escalate(f"the viewing of {viewing.home} is to be cancelled", replies.CANCELLING, reply)
        elif not heard.intents.keys() & {Intent.SEARCH, Intent.RESEARCH, Intent.LOOKUP, Intent.PERSON}:
            reply.say += [replies.DROPPED] + ([] if Intent.BYE in heard.intents else [replies.ANYTHING_ELSE])
        return True

    def _escalate(self, reason: str, say: str, reply: _Reply) -> None:
        closed = not is_open(self._now, minutes=0)
        self._wish(Escalate(reason=reason, phone=self._phone), reply, replies.CLOSED if closed else say)
        if closed:
            self._question = Question(Ask.NOTE, replies.SPEAK_NOW)
        elif self._phone is None:
            self._ask(Ask.PHONE, replies.ASK_CALLBACK, reply)

    def _look(self, heard: Heard, reply: _Reply) -> None:
        if not heard.criteria:
            reply.progress = True
            self._ask(Ask.PLACE, replies.ASK_PLACE, reply)
            return
        search = heard.criteria.onto(self._search)
        if search == (self._search or Search()):
            # "something cheaper" with no price to go below
            reply.progress = True
            if heard.criteria.cheaper:
                self._ask(Ask.PLACE, replies.ASK_PLACE, reply)
            else:
                reply.say.append(replies.ALREADY)
            return
        self._search = search
        self._offers.clear()
        self._wish(search, reply, replies.looking(search))

    def _ask_of(self, kind: _Asks, homes: Sequence[Mention], reply: _Reply) -> None:
        self._topic = kind
        self._waiting += [(kind, home) for home in homes] or [(kind, None)]
        reply.progress = True

    def _view(self, homes: Sequence[Mention], heard: Heard, reply: _Reply) -> None:
        named = homes[-1] if homes else None
        done = self._viewing
        if done is None or (
            done.wished
            and named
            and named.kind != "it"
            and self._resolve(named) != done.home
            and not _CORRECTION.search(heard.text)
        ):
            self._viewing = Viewing()
        self._change_viewing(named, heard, reply)

    def _additions(self, heard: Heard, reply: _Reply) -> None:
        """Homes and times without a request belong to what is open, or start what they suggest."""
        homes = heard.clear_homes
        if self._offers.slots and self._viewing and self._pick_slot(heard, reply):
            return
        if self._waiting and homes:
            self._waiting = [(kind, homes[-1]) for kind, _ in self._waiting]
            reply.progress = True
        elif heard.when or (homes and self._viewing and (not self._viewing.wished or _CORRECTION.search(heard.text))):
            self._viewing = self._viewing or Viewing()
            self._change_viewing(homes[-1] if homes else None, heard, reply)
        elif homes:
            self._ask_of(self._topic or Lookup, homes, reply)

    def _pick_slot(self, heard: Heard, reply: _Reply) -> bool:
        picks = [home.index for home in heard.homes if home.kind == "pick"]
        if not picks and not heard.when and Intent.YES in heard.intents:
            picks = [1]
        slot = self._offers.slot_at(picks[-1]) if picks else None
        if slot is None or self._viewing is None or slot == self._viewing.slot(self._now):
            return False
        self._viewing.take_slot(slot)
        reply.progress = True
        return True

    def _change_viewing(self, named: Mention | None, heard: Heard, reply: _Reply) -> None:
        viewing = self._viewing
        if viewing is None:
            return
        reply.progress = True
        named = named or (Mention("it", 0) if viewing.home is None and viewing.pick is None else None)
        if named and (home := self._resolve(named)):
            viewing.home, viewing.pick = home, None
            self._offers.take_up(home)
        elif named and named.kind != "it":
            viewing.home, viewing.pick = None, named
        if heard.when and (problem := viewing.take(heard.when, self._now)):
            reply.say.append(problem)
            reply.progress = False

    def _resolve(self, home: Mention) -> str | None:
        return self._offers.resolve(home, self._viewing.home if self._viewing else None)

    def _settle_waiting(self, reply: _Reply) -> None:
        """Wishes what is asked of homes that are known by now, and asks for the others."""
        unknown: list[tuple[_Asks, Mention | None]] = []
        for kind, mention in self._waiting:
            home = self._resolve(mention or Mention("it", 0))
            if home is None:
                unknown.append((kind, mention))
                continue
            self._offers.take_up(home)
            if mention and mention.kind == "address" and kind is Research:
                # comparable sales need a parcel or a listing; the lookup finds it
                self._wish(Lookup(home=home), reply, replies.looking_up(home))
                continue
            self._wish(kind(home=home), reply, (replies.researching if kind is Research else replies.looking_up)(home))
        self._waiting = unknown[-1:]
        if unknown and not reply.hang_up and reply.progress:
            self._ask_home(reply)

    def _settle_viewing(self, reply: _Reply) -> None:
        """Wishes the viewing once it is complete, and asks for the next piece until then."""
        viewing = self._viewing
        if viewing is None:
            return
        if viewing.home is None and viewing.pick and (home := self._resolve(viewing.pick)):
            viewing.home, viewing.pick = home, None
            self._offers.take_up(home)
            reply.progress = True
        slot = viewing.slot(self._now)
        if viewing.home and slot and self._phone:
            book = Book(home=viewing.home, slot=slot, phone=self._phone, name=self._name)
            if viewing.wished and self._same_viewing(book):
                if reply.progress and not reply.say:
                    reply.say.append(replies.ALREADY)
                return
            viewing.wished = True
            self._wish(book, reply, replies.booking(book, say_slot(slot)))
        elif (reply.progress or reply.say) and not self._question.words:
            self._ask_next(viewing, slot, reply)

    def _same_viewing(self, book: Book) -> bool:
        """Whether the last viewing wished is this one; a name that comes later does not change it."""
        last = next((wish for wish in reversed(self._wished) if isinstance(wish, Book)), None)
        return last is not None and (last.home, last.slot, last.phone) == (book.home, book.slot, book.phone)

    def _ask_next(self, viewing: Viewing, slot: datetime | None, reply: _Reply) -> None:
        offers_to_come = self._search is not None and not self._offers.homes
        if viewing.pick and not offers_to_come:
            viewing.pick = None  # the office named fewer homes than that
        if viewing.home is None and viewing.pick is None:
            self._ask_home(reply)
        elif slot is None:
            self._ask(Ask.SLOT, viewing.ask_slot(), reply)
        elif self._phone is None:
            self._ask(Ask.PHONE, replies.ASK_PHONE, reply)
        else:
            reply.say.append(replies.STILL_LOOKING)

    def _ask_home(self, reply: _Reply) -> None:
        offers_to_come = self._search is not None and not self._offers.homes
        several = replies.ASK_OFFERED if len(self._offers.homes) > 1 else replies.ASK_HOME
        self._ask(Ask.HOME, replies.STILL_LOOKING if offers_to_come else several, reply)

    def _ask(self, ask: Ask, question: str, reply: _Reply) -> None:
        """Asks one thing; a turn never asks two."""
        if not self._question.words:
            self._question = Question(ask, question)
            reply.say.append(question)

    def _wish(self, wish: Wish, reply: _Reply, say: str) -> None:
        """Wishes what has not been wished yet; of searches and viewings the newest counts."""
        reply.progress = True
        newest = isinstance(wish, Search | Book)
        before = [old for old in self._wished if isinstance(old, type(wish))]
        if wish in (before[-1:] if newest else before):
            reply.say.append(replies.ALREADY)
            return
        self._wished.append(wish)
        reply.wants.append(wish)
        reply.say.append(say)

    def _small_talk(self, heard: Heard, asked: Question, reply: _Reply) -> None:
        owes = self._viewing is not None and not self._viewing.wished
        if found := answer(heard.intents, asked, self._last_said, owes_number=owes):
            reply.say, reply.hang_up, reply.progress = [found.say], found.hang_up, True
            self._question = found.question

    def _finish(self, heard: Heard, asked: Question, reply: _Reply) -> None:
        """Closes the turn: there is always something said, and never for ever the same."""
        if not reply.progress:
            self._not_understood(asked, reply)
            return
        self._unclear = 0
        if not reply.say:
            reply.say = [replies.HAVE_NUMBER, replies.ANYTHING_ELSE] if heard.phone.number else [replies.ANYTHING_ELSE]
        if Intent.BYE in heard.intents and not self._question.words and not reply.hang_up:
            reply.say = [*(part for part in reply.say if part != replies.ANYTHING_ELSE), replies.GOODBYE]
            reply.hang_up = True

    def _not_understood(self, asked: Question, reply: _Reply) -> None:
        self._unclear += 1
        if self._unclear >= 2 * _PATIENCE:
            reply.say, reply.hang_up = [replies.GOODBYE], True
        elif self._unclear > _PATIENCE:
            reply.say = [replies.COLLEAGUE_COMES]
        elif self._unclear == _PATIENCE:
            reply.say = []
            self._wish(
                Escalate(reason="the caller could not be understood", phone=self._phone), reply, replies.GIVING_UP
            )
        elif not reply.say:
            words = replies.UNCLEAR if self._unclear == 1 else replies.UNCLEAR_AGAIN
            reply.say = [words, asked.words] if asked.words else [words]
            self._question = asked


def _homes_for(intent: Intent, heard: Heard, *, alone: bool) -> Sequence[Mention]:
    """The homes that a request is about: all, or the nearest if the line asks several things."""
    homes = heard.clear_homes or heard.homes
    if alone or not homes:
        return homes
    return [min(homes, key=lambda home: abs(home.at - heard.intents[intent]))]
