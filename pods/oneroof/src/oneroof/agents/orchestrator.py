"""The voice agent: hears a caller's turn, works out what is wanted, publishes it and walks away; speaks the answers."""

import os

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
)
from tieline import Conversation, Message

__all__ = ["orchestrator"]


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
    turn = await _understanding(call)(said.transcript, said.began)
    for wish in turn.wants:
        await call.publish(_intent(wish, said))
    await call.publish(
        Spoken(call_id=said.call_id, turn=said.turn, text=turn.say, awaits=len(turn.wants), hang_up=turn.hang_up)
    )


@orchestrator.also
async def speak(answer: Answer, call: Conversation) -> None:
    """An agent is done: the caller hears of it."""
    await call.publish(
        Spoken(call_id=answer.call_id, turn=answer.turn, text=answer.say, offers=answer.offers, answers=answer.intent)
    )


@orchestrator.also
async def too_late(late: IntentLate, call: Conversation) -> None:
    """Nobody took an intent in time: better a word and a call back than silence."""
    intent, turn = late.subject.rpartition(".")[2], late.shown.get("turn", 0)
    spoken = {"call_id": late.call_id, "turn": turn, "answers": intent}
    await call.publish(Spoken.model_validate({**spoken, "text": "I am sorry, that took too long. We will call you."}))
    await call.publish(Escalation(call_id=late.call_id, turn=turn, reason=f"{intent} was not handled in time"))


_INTENTS: dict[type[understanding.Wish], type[Message]] = {
    understanding.Search: HomeSearch,
    understanding.Book: BookViewing,
    understanding.Research: HomeResearch,
    understanding.Lookup: HomeLookup,
    understanding.Escalate: Escalation,
    understanding.Voicemail: VoicemailLeft,
}


def _intent(wish: understanding.Wish, said: CallerSaid) -> Message:
    """A wish has the fields of its intent, but for the call it belongs to."""
    slots = wish.model_dump(exclude={"kind"})
    return _INTENTS[type(wish)].model_validate({"call_id": said.call_id, "turn": said.turn, **slots})
