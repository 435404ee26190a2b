"""What the six processes say to one another. Nothing else passes between them.

Other clients may publish these messages too, so every field may be missing or of a wrong type (`Tolerant`). The agent
that needs the field asks the caller for it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from oneroof.fields import (
    READ_CALL_ID,
    READ_COUNT,
    READ_MOMENT,
    READ_TEXT,
    Amount,
    CallId,
    Count,
    Flag,
    Lines,
    Mapped,
    Moment,
    Reads,
    Text,
    Texts,
    Tolerant,
    Words,
)
from oneroof.understanding.wishes import HomeType
from tieline import Conversation, Expiry

__all__ = [
    "Answer",
    "BookViewing",
    "CallerSaid",
    "Escalation",
    "HomeLookup",
    "HomeResearch",
    "HomeSearch",
    "IntentLate",
    "IntentName",
    "OfCall",
    "Spoken",
    "VoicemailLeft",
    "call_of",
]

type IntentName = Literal["search", "book", "research", "lookup", "escalate", "voicemail"]
_HOME_TYPES = frozenset(get_args(HomeType.__value__))
_INTENT_NAMES = frozenset(get_args(IntentName.__value__))


def _intent_name(value: object) -> str | None:
    return value if isinstance(value, str) and value in _INTENT_NAMES else None


def _home_type(value: object) -> str | None:
    return value if isinstance(value, str) and value in _HOME_TYPES else None


class OfCall(Tolerant):
    """A message of one call, in answer to its ``turn``."""

    call_id: CallId = None
    turn: Count = None


def call_of(message: OfCall, call: Conversation) -> dict[str, Any]:
    """The ``call_id`` and ``turn`` of an answer to ``message``. Without a ``callId`` the conversation is the call."""
    return {"call_id": message.call_id or call.id, "turn": message.turn or 0}


class CallerSaid(OfCall, subject="call.turn.{call_id}", ttl="10m", redact=("transcript",)):
    """A caller's turn. The transcript so far is all the state a call has; its last line is what was just said."""

    began: Moment = None
    transcript: Lines = Field(default_factory=list)


class Spoken(OfCall, subject="call.speech.{call_id}", ttl="10m", redact=("text",)):
    """A line the office speaks to the caller. ``awaits`` says how many answers will follow it.

    ``confirms``: the line reads back what was understood, and asks whether it is right.
    """

    text: str
    offers: Texts = ()
    answers: Annotated[IntentName | None, Reads(_intent_name)] = None
    awaits: int = 0
    hang_up: bool = False
    confirms: bool = False


class IntentLate(Expiry, Tolerant, subject="call.intent.late", ttl="10m"):
    """Nobody took an intent in time: the caller who waits for it is told, and called back."""

    call_id: Annotated[str, READ_CALL_ID] = ""
    subject: Annotated[str, READ_TEXT] = ""
    stream: Annotated[str, READ_TEXT] = ""
    seq: Annotated[int, READ_COUNT] = 0
    agent: Annotated[str, READ_TEXT] = ""
    expired: Annotated[datetime, READ_MOMENT] = datetime(1970, 1, 1, tzinfo=UTC)
    shown: Mapped = Field(default_factory=dict)


class HomeSearch(OfCall, subject="call.intent.search", ttl="5m", on_expired=IntentLate):
    """The caller wants homes that fit. Prices in USD, areas in square feet.

    A home lies in ``place`` or in one of ``other_places``, and in none of ``not_places``.
    """

    place: Text = None
    other_places: Texts = ()
    not_places: Texts = ()
    home_type: Annotated[HomeType | None, Reads(_home_type)] = None
    beds: Count = None
    baths: Amount = None
    max_price: Count = None
    min_price: Count = None
    min_sqft: Count = None
    max_sqft: Count = None
    waterfront: Flag = None
    not_waterfront: Flag = None


class BookViewing(OfCall, subject="call.intent.book", ttl="5m", redact=("phone", "name"), on_expired=IntentLate):
    """The caller wants to see a home at a time. A ``slot`` without an offset is in the office's time zone.

    ``instead_of`` is a home whose viewing in this call is given up for this one.
    """

    home: Text = None
    slot: Moment = None
    phone: Text = None
    name: Text = None
    instead_of: Text = None


class HomeResearch(OfCall, subject="call.intent.research", ttl="5m", on_expired=IntentLate):
    """The caller wants to know what a home is worth."""

    home: Text = None


class HomeLookup(OfCall, subject="call.intent.lookup", ttl="5m", on_expired=IntentLate):
    """The caller wants to hear about one home, by number or address."""

    home: Text = None


class Escalation(OfCall, subject="call.intent.escalate", ttl="1h", redact=("phone",)):
    """A person is wanted."""

    reason: Words = None
    phone: Text = None


class VoicemailLeft(OfCall, subject="call.intent.voicemail", ttl="1h", redact=("phone", "note")):
    """Nobody is there; the caller left a note."""

    note: Words = None
    phone: Text = None


class Answer(OfCall, subject="call.answer.{call_id}", ttl="10m", redact=("say",)):
    """What came of an intent, ready to be spoken. ``offers`` are the homes it names, in order."""

    intent: Annotated[IntentName | None, Reads(_intent_name)] = None
    say: Words = None
    offers: Texts = ()
