"""The offline rules: a call is folded over line by line, and nothing else is remembered."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from oneroof.office.hours import LOCAL, is_open
from oneroof.understanding import replies
from oneroof.understanding.answers import is_no, is_yes, says_yes
from oneroof.understanding.appointments import Appointments, CallState, corrects
from oneroof.understanding.hearing import Ask, Context, Heard, hear, is_silence
from oneroof.understanding.homes import Mention
from oneroof.understanding.intents import Intent
from oneroof.understanding.languages import ASK_NUMBER, SORRY
from oneroof.understanding.reply import Reply
from oneroof.understanding.smalltalk import Question, answer
from oneroof.understanding.wishes import Escalate, Line, Lookup, Research, Search, Turn, Voicemail

_PATIENCE: Final = 3  # silences, or lines not understood, in a row
_LONGEST_NOTE: Final = 1_000

_NOT_ADDITIONS: Final = frozenset({Intent.SEARCH, Intent.PERSON, Intent.LANGUAGE, Intent.SELL})
_CANCEL = re.compile(r"\b(?:cancel|don't book|do not book|forget the)\b")

type _Asks = type[Research | Lookup]


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
        self._call = CallState(now)
        self._appointments = Appointments(self._call)
        self._last_said = ""
        self._waiting: list[tuple[_Asks, Mention | None]] = []  # asked of a home that is not known yet
        self._topic: _Asks | None = None
        self._question = Question()
        self._silences = 0
        self._unclear = 0

    def office(self, line: Line) -> None:
        """Takes note of what the office said: homes and slots that the caller may now pick from."""
        self._call.offers.hear(line, self._call.now)
        self._last_said = line.text or self._last_said

    def caller(self, text: str) -> Turn:
        """The office's turn after ``text``."""
        if is_silence(text):
            return self._silence()
        self._silences = 0
        self._call.offers.caller_speaks()
        asked, self._question = self._question, Question()
        heard = hear(text, self._call.now, self._context(asked.ask))
        reply = Reply(self._call.wished)
        if heard.language and asked.ask is not Ask.NOTE:
            self._foreign(heard, heard.language, reply)
        elif not (asked.ask is Ask.CONFIRM and self._confirmed(heard, reply)) and not self._message(
            text, heard, asked.ask, reply
        ):
            self._requests(heard, reply)
            self._settle_waiting(reply)
            self._settle(heard, reply)
            if not reply.progress and not reply.say:
                self._small_talk(heard, asked, reply)
        self._finish(heard, asked, reply)
        self._question = reply.question
        confirms = reply.question.ask is Ask.CONFIRM and reply.question.words in reply.say
        return Turn(say=" ".join(reply.say), wants=tuple(reply.wants), hang_up=reply.hang_up, confirms=confirms)

    def _context(self, asked: Ask | None) -> Context:
        searching = self._call.search.pending is not None or isinstance(
            next(iter(self._call.wished[-1:]), None), Search
        )
        return Context(
            asked, len(self._call.offers.homes or self._call.offers.slots), searching and not self._appointments.open
        )

    def _foreign(self, heard: Heard, language: str, reply: Reply) -> None:
        """The office answers in the caller's language that it speaks English, and asks for a number to call back."""
        self._take_contact(heard, reply)
        reply.wish(Escalate(reason=f"the caller speaks {language}", phone=self._call.phone), SORRY[language])
        if self._call.phone is None:
            reply.ask(Ask.PHONE, ASK_NUMBER[language])

    def _confirmed(self, heard: Heard, reply: Reply) -> bool:
        """What the office read back was answered with yes or no, and nothing else. False for anything else."""
        restated = self._appointments.is_restated(heard.when)
        if (heard.when and not restated) or heard.criteria or heard.clear_homes or heard.not_homes:
            return False
        if is_yes(heard.text) or (restated and says_yes(heard.text)):
            self._take_contact(heard, reply)
            reply.progress = True
            # a search is read back before a viewing is, so where one waits, it is what was read back
            if self._call.search.confirm(reply):
                self._call.offers.clear()
            elif self._appointments.viewing:
                self._appointments.viewing.trust()
        elif is_no(heard.text):
            reply.progress = True
            reply.say.append(replies.MISUNDERSTOOD)
            if self._call.search.drop():
                reply.ask(Ask.PLACE, replies.ASK_PLACE)
            elif self._appointments.viewing:
                self._appointments.viewing.forget_slot()
        else:
            return False
        self._settle(heard, reply)
        return True

    def _settle(self, heard: Heard, reply: Reply) -> None:
        """Reads back what is unsure, wishes what is complete, asks for what is missing."""
        self._call.search.read_back(reply)
        self._appointments.settle(heard, reply)

    def _silence(self) -> Turn:
        self._silences += 1
        over = self._silences >= _PATIENCE
        return Turn(say=replies.GONE if over else replies.STILL_THERE, hang_up=over)

    def _message(self, text: str, heard: Heard, asked: Ask | None, reply: Reply) -> bool:
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
        reply.ask(Ask.NOTE, replies.SPEAK_NOW)
        return True

    def _record(self, text: str, reply: Reply) -> bool:
        reply.wish(Voicemail(phone=self._call.phone, note=" ".join(text.split())[:_LONGEST_NOTE]), replies.NOTED)
        if self._call.phone is None:
            reply.ask(Ask.PHONE, replies.ASK_CALLBACK)
        else:
            reply.say.append(replies.ANYTHING_ELSE)
        return True

    def _requests(self, heard: Heard, reply: Reply) -> None:
        """Everything that the line asks for or adds, in the order in which it depends on itself."""
        self._take_contact(heard, reply)
        dropped = Intent.FORGET in heard.intents and self._forget(heard, reply)
        if Intent.SELL in heard.intents:
            self._escalate("the caller wants to sell a home", replies.SELLING, reply)
        if Intent.LANGUAGE in heard.intents:
            self._escalate("the caller asks for another language", replies.LANGUAGE, reply)
        elif Intent.PERSON in heard.intents:
            self._escalate("the caller asks for a person", replies.TO_A_PERSON, reply)
        if Intent.SEARCH in heard.intents and self._call.search.look(heard, reply):
            self._call.offers.clear()
        wanted = {Intent.RESEARCH, Intent.LOOKUP} if dropped else {Intent.RESEARCH, Intent.LOOKUP, Intent.BOOK}
        asks = [intent for intent in heard.intents if intent in wanted]
        for intent in sorted(asks, key=heard.intents.__getitem__):
            homes = _homes_for(intent, heard, alone=len(asks) == 1)
            if intent is Intent.BOOK:
                self._appointments.view(homes, heard, reply)
            else:
                self._ask_of(Research if intent is Intent.RESEARCH else Lookup, homes, reply)
        if not asks and not dropped and not heard.intents.keys() & _NOT_ADDITIONS:
            self._additions(heard, reply)

    def _take_contact(self, heard: Heard, reply: Reply) -> None:
        if heard.phone.number:
            fresh = heard.phone.number != self._call.phone
            self._call.phone = heard.phone.number
            reply.progress = True
            self._call_back(reply, fresh=fresh)
        if heard.phone.impossible:
            reply.ask(Ask.PHONE, f"{replies.BAD_PHONE} {replies.ASK_PHONE}")
        if heard.name:
            self._call.name = heard.name
            reply.progress = True

    def _call_back(self, reply: Reply, *, fresh: bool) -> None:
        """A number given after a person was asked for, or a message left, goes to the same place."""
        match self._call.wished[-1:]:
            case [Escalate() | Voicemail() as last] if fresh:
                reply.wish(last.model_copy(update={"phone": self._call.phone}), replies.HAVE_NUMBER)

    def _forget(self, heard: Heard, reply: Reply) -> bool:
        """Drops what is open; False if the line corrects it rather: "never mind friday, make it monday"."""
        cancels = _CANCEL.search(heard.text)
        if (heard.when and (not cancels or corrects(heard.text))) or (Intent.BOOK in heard.intents and not cancels):
            return False
        if Intent.BOOK in heard.intents and heard.clear_homes and "instead" in heard.text:
            return False  # "cancel 1042 and book 1077 instead"
        reply.progress = True
        viewing, self._appointments.viewing, self._waiting = self._appointments.viewing, None, []
        self._call.search.drop()
        if viewing and viewing.wished and viewing.home:
            self._escalate(f"the viewing of {viewing.home} is to be cancelled", replies.CANCELLING, reply)
        elif not heard.intents.keys() & {Intent.SEARCH, Intent.RESEARCH, Intent.LOOKUP, Intent.PERSON}:
            reply.say += [replies.DROPPED] + ([] if Intent.BYE in heard.intents else [replies.ANYTHING_ELSE])
        return True

    def _escalate(self, reason: str, say: str, reply: Reply) -> None:
        closed = not is_open(self._call.now, minutes=0)
        reply.wish(Escalate(reason=reason, phone=self._call.phone), replies.CLOSED if closed else say)
        if closed:
            reply.question = Question(Ask.NOTE, replies.SPEAK_NOW)
        elif self._call.phone is None:
            reply.ask(Ask.PHONE, replies.ASK_CALLBACK)

    def _ask_of(self, kind: _Asks, homes: Sequence[Mention], reply: Reply) -> None:
        self._topic = kind
        self._waiting += [(kind, home) for home in homes] or [(kind, None)]
        reply.progress = True

    def _additions(self, heard: Heard, reply: Reply) -> None:
        """Homes and times without a request belong to what is open, or start what they suggest."""
        homes = heard.clear_homes
        if self._call.offers.slots and self._appointments.viewing and self._appointments.pick_slot(heard, reply):
            return
        if (
            heard.not_homes
            and not homes
            and self._appointments.viewing
            and self._appointments.resolve(heard.not_homes[-1]) == self._appointments.viewing.home
        ):
            self._appointments.viewing.home = None  # and whichever home it is instead, is asked
            reply.progress = True
        if self._appointments.several(homes) and (self._appointments.open or heard.when):
            self._appointments.view(homes, heard, reply)
            return
        if self._waiting and homes:
            self._waiting = [(kind, homes[-1]) for kind, _ in self._waiting]
            reply.progress = True
        elif heard.when or (
            homes and self._appointments.viewing and (not self._appointments.viewing.wished or corrects(heard.text))
        ):
            self._appointments.add(homes[-1] if homes else None, heard, reply)
        elif homes:
            self._ask_of(self._topic or Lookup, homes, reply)

    def _settle_waiting(self, reply: Reply) -> None:
        """Wishes what is asked of homes that are known by now, and asks for the others."""
        unknown: list[tuple[_Asks, Mention | None]] = []
        asked_of = [
            (kind, one)
            for kind, mention in self._waiting
            for one in (self._call.offers.expand([mention]) if mention else [None])
        ]
        for kind, mention in asked_of:
            home = self._appointments.resolve(mention or Mention("it", 0))
            if home is None:
                unknown.append((kind, mention))
                continue
            self._call.offers.take_up(home)
            if mention and mention.kind == "address" and kind is Research:
                # comparable sales need a parcel or a listing; the lookup finds it
                reply.wish(Lookup(home=home), replies.looking_up(home))
                continue
            reply.wish(kind(home=home), (replies.researching if kind is Research else replies.looking_up)(home))
        self._waiting = unknown[-1:]
        if unknown and not reply.hang_up and reply.progress:
            self._appointments.ask_home(reply)

    def _small_talk(self, heard: Heard, asked: Question, reply: Reply) -> None:
        if found := answer(heard.intents, asked, self._last_said, owes_number=self._appointments.open):
            reply.say, reply.hang_up, reply.progress = [found.say], found.hang_up, True
            reply.question = found.question

    def _finish(self, heard: Heard, asked: Question, reply: Reply) -> None:
        """Closes the turn: there is always something said, and never for ever the same."""
        if not reply.progress:
            self._not_understood(asked, reply)
            return
        self._unclear = 0
        if not reply.say:
            reply.say = [replies.HAVE_NUMBER, replies.ANYTHING_ELSE] if heard.phone.number else [replies.ANYTHING_ELSE]
        if Intent.BYE in heard.intents and not reply.question.words and not reply.hang_up:
            reply.say = [*(part for part in reply.say if part != replies.ANYTHING_ELSE), replies.GOODBYE]
            reply.hang_up = True

    def _not_understood(self, asked: Question, reply: Reply) -> None:
        self._unclear += 1
        if self._unclear >= 2 * _PATIENCE:
            reply.say, reply.hang_up = [replies.GOODBYE], True
        elif self._unclear > _PATIENCE:
            reply.say = [replies.COLLEAGUE_COMES]
        elif self._unclear == _PATIENCE:
            reply.say = []
            reply.wish(Escalate(reason="the caller could not be understood", phone=self._call.phone), replies.GIVING_UP)
        elif not reply.say:
            words = replies.UNCLEAR if self._unclear == 1 else replies.UNCLEAR_AGAIN
            reply.say = [words, asked.words] if asked.words else [words]
            reply.question = asked


def _homes_for(intent: Intent, heard: Heard, *, alone: bool) -> Sequence[Mention]:
    """The homes that a request is about: all, or the nearest if the line asks several things."""
    homes = heard.clear_homes or heard.homes
    if alone or not homes:
        return homes
    return [min(homes, key=lambda home: abs(home.at - heard.intents[intent]))]
