"""Takes over where no agent can help: a person is wanted, or nobody is there."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, Escalation, VoicemailLeft
from tieline import Conversation

__all__ = ["voicemail_handler"]


@pod.agent(name="voicemail-handler", publishes=(Answer,), calls=(tools.crm,))
async def voicemail_handler(intent: Escalation, call: Conversation) -> None:
    """Put the caller on the callback list."""
    say, _ = await or_sorry(_escalated(intent, call))
    await call.publish(Answer(call_id=intent.call_id, turn=intent.turn, intent="escalate", say=say))


@voicemail_handler.also
async def voicemail(intent: VoicemailLeft, call: Conversation) -> None:
    """Keep the caller's note."""
    say, _ = await or_sorry(_noted(intent, call))
    await call.publish(Answer(call_id=intent.call_id, turn=intent.turn, intent="voicemail", say=say))


async def _escalated(intent: Escalation, call: Conversation) -> Said:
    await call.tool(tools.crm, phone=intent.phone, kind="escalate", text=intent.reason)
    where = "." if intent.phone else "; please leave us your number with the next words."
    return f"I have asked a colleague to call you back{where}", ()


async def _noted(intent: VoicemailLeft, call: Conversation) -> Said:
    await call.tool(tools.crm, phone=intent.phone, kind="voicemail", text=intent.note)
    return "Your message is noted; we will call you back in office hours.", ()
