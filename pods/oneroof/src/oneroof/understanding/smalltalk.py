"""Lines that want nothing done: greetings, thanks, "hold on", goodbye."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from oneroof.understanding import replies
from oneroof.understanding.hearing import Ask
from oneroof.understanding.intents import Intent

# the most telling first: "thanks, bye" is a goodbye
_ORDER: Final = (
    Intent.BYE,
    Intent.FORGET,
    Intent.REPEAT,
    Intent.HOLD,
    Intent.NO,
    Intent.THANKS,
    Intent.HELP,
    Intent.YES,
    Intent.GREETING,
)


@dataclass(frozen=True, slots=True)
class Question:
    """What the office's last words asked, if anything."""

    ask: Ask | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to small talk, and the question that stays open."""

    say: str
    question: Question
    hang_up: bool = False


def answer(intents: Collection[Intent], question: Question, last_said: str, *, owes_number: bool) -> Answer | None:
    """The answer to a line of small talk, or None if it is none.

    ``owes_number``: a viewing waits for the telephone number, so "no" will not do.
    """
    nothing = Question()
    match next((intent for intent in _ORDER if intent in intents), None):
        case Intent.BYE:
            return Answer(replies.GOODBYE, nothing, hang_up=True)
        case Intent.FORGET | Intent.NO if question.ask is Ask.NOTE:
            return Answer(f"{replies.NO_MESSAGE} {replies.ANYTHING_ELSE}", nothing)
        case Intent.NO | Intent.THANKS if not question.words:
            return Answer(replies.GOODBYE, nothing, hang_up=True)
        case Intent.NO if question.ask is Ask.PHONE and not owes_number:
            return Answer(replies.ANYTHING_ELSE, nothing)
        case Intent.REPEAT:
            return Answer(last_said or question.words or replies.GREETING, question)
        case Intent.HOLD:
            return Answer(replies.TAKE_YOUR_TIME, question)
        case Intent.HELP:
            return Answer(replies.HELP, question)
        case Intent.YES | Intent.THANKS:
            return Answer(question.words or replies.ANYTHING_ELSE, question)
        case Intent.GREETING:
            return Answer(question.words or replies.GREETING, question)
        case _:
            return None
