"""The voice agent: hears a caller's turn, works out what is wanted, publishes it and walks away; speaks the answers."""

import os
from datetime import datetime, timedelta
from typing import Any, Final

from oneroof import understanding
from oneroof.declared import pod
from oneroof.messages import (
    Answer,
    BookViewing,
    CallerSaid,
    Escalation,
    HomeLookup,
    HomeResearch,
    HomeSearch,
    IntentLate,
    Spoken,
    VoicemailLeft,
    call_of,
)
from oneroof.understanding import replies
from tieline import Conversation, Message

__all__ = ["orchestrator"]

_LONGEST_CALL: Final = timedelta(days=2)


def _understanding(call: Conversation) -> understanding.Understanding:
    """The model that ``ONEROOF_MODEL`` names (``openai:gpt-5``), or the offline rules."""
    model = os.environ.get("ONEROOF_MODEL")
    if not model:
        return understanding.Rules()
    from oneroof.understanding.model import Listener  # an extra, and a second to import

    return Listener(model, call)


@pod.agent(
    name="orchestrator",
    publishes=(HomeSearch, BookViewing, HomeResearch, HomeLookup, Escalation, VoicemailLeft, Spoken),
    uses=("models",),
)
async def orchestrator(said: CallerSaid, call: Conversation) -> None:
    """One turn. The transcript decides everything, so a second run publishes the same, and nothing twice."""
    turn = await _understanding(call)(said.transcript, _began(said, call.started))
    for wish in turn.wants:
        await call.publish(_intent(wish, call_of(said, call)))
    await call.publish(
        Spoken(
            **call_of(said, call), text=turn.say, awaits=len(turn.wants), hang_up=turn.hang_up, confirms=turn.confirms
        )
    )


@orchestrator.also
async def speak(answer: Answer, call: Conversation) -> None:
    """An agent is done: the caller hears of it."""
    if answer.say is not None:
        await call.publish(
            Spoken(**call_of(answer, call), text=answer.say, offers=answer.offers, answers=answer.intent)
        )


@orchestrator.also
async def too_late(late: IntentLate, call: Conversation) -> None:
    """Nobody took an intent in time: better a word and a call back than silence."""
    intent, call_id = late.subject.rpartition(".")[2], late.call_id or call.id
    # read as any client's fields are: nothing in a notice is certain to be there
    spoken = Spoken.model_validate(
        {"call_id": call_id, "turn": late.shown.get("turn"), "answers": intent, "text": replies.TOO_LATE}
    )
    await call.publish(spoken)
    reason = f"{intent or 'what was asked'} was not handled in time"
    await call.publish(Escalation(call_id=call_id, turn=spoken.turn, reason=reason))


def _began(said: CallerSaid, heard: datetime) -> datetime:
    """When the call began; a client that does not say so, or says what cannot be, began it with this turn."""
    began = said.began
    return began if began is not None and abs(began - heard) <= _LONGEST_CALL else heard


_INTENTS: dict[type[understanding.Wish], type[Message]] = {
    understanding.Search: HomeSearch,
    understanding.Book: BookViewing,
    understanding.Research: HomeResearch,
    understanding.Lookup: HomeLookup,
    understanding.Escalate: Escalation,
    understanding.Voicemail: VoicemailLeft,
}


def _intent(wish: understanding.Wish, of: dict[str, Any]) -> Message:
    """A wish has the fields of its intent, but for the call it belongs to."""
    slots = wish.model_dump(exclude={"kind"})
    return _INTENTS[type(wish)].model_validate({**of, **slots})
