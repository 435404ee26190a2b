"""What the six processes say to one another. Nothing else passes between them."""

from typing import Literal

from pydantic import AwareDatetime

from oneroof.understanding import Line
from tieline import Expiry, Message

__all__ = [
    "Answer",
    "BookViewing",
    "CallerSaid",
    "Escalation",
    "HomeLookup",
    "HomeResearch",
    "HomeSearch",
    "IntentLate",
    "Spoken",
    "VoicemailLeft",
]

type IntentName = Literal["search", "book", "research", "lookup", "escalate", "voicemail"]


class CallerSaid(Message, subject="call.turn.{call_id}", ttl="10m", redact=("transcript",)):
    """A caller's turn. The transcript so far is all the state a call has; its last line is what was just said."""

    call_id: str
    turn: int
    began: AwareDatetime
    transcript: list[Line]


class Spoken(Message, subject="call.speech.{call_id}", ttl="10m", redact=("text",)):
    """A line the office speaks to the caller. ``awaits`` says how many answers will follow it."""

    call_id: str
    turn: int
    text: str
    offers: tuple[str, ...] = ()
    answers: IntentName | None = None
    awaits: int = 0
    hang_up: bool = False


class IntentLate(Expiry, subject="call.intent.late", ttl="10m"):
    """Nobody took an intent in time: the caller who waits for it is told, and called back."""


class HomeSearch(Message, subject="call.intent.search", ttl="5m", on_expired=IntentLate):
    """The caller wants homes that fit. Prices in USD, areas in square feet."""

    call_id: str
    turn: int
    place: str | None = None
    beds: int | None = None
    baths: float | None = None
    max_price: int | None = None
    min_price: int | None = None
    min_sqft: int | None = None
    waterfront: bool = False


class BookViewing(Message, subject="call.intent.book", ttl="5m", redact=("phone", "name"), on_expired=IntentLate):
    """The caller wants to see a home at a time."""

    call_id: str
    turn: int
    home: str
    slot: AwareDatetime
    phone: str
    name: str | None = None


class HomeResearch(Message, subject="call.intent.research", ttl="5m", on_expired=IntentLate):
    """The caller wants to know what a home is worth."""

    call_id: str
    turn: int
    home: str


class HomeLookup(Message, subject="call.intent.lookup", ttl="5m", on_expired=IntentLate):
    """The caller wants to hear about one home, by number or address."""

    call_id: str
    turn: int
    home: str


class Escalation(Message, subject="call.intent.escalate", ttl="1h", redact=("phone",)):
    """A person is wanted."""

    call_id: str
    turn: int
    reason: str
    phone: str | None = None


class VoicemailLeft(Message, subject="call.intent.voicemail", ttl="1h", redact=("phone", "note")):
    """Nobody is there; the caller left a note."""

    call_id: str
    turn: int
    note: str
    phone: str | None = None


class Answer(Message, subject="call.answer.{call_id}", ttl="10m", redact=("say",)):
    """What came of an intent, ready to be spoken. ``offers`` are the homes it names, in order."""

    call_id: str
    turn: int
    intent: IntentName
    say: str
    offers: tuple[str, ...] = ()
