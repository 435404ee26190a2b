"""Takes over where no agent can help: a person is wanted, or nobody is there."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, Escalation, VoicemailLeft, call_of
from oneroof.understanding import phone_number, replies
from tieline import Conversation

__all__ = ["voicemail_handler"]


@pod.agent(name="voicemail-handler", publishes=(Answer,), calls=(tools.crm,))
async def voicemail_handler(intent: Escalation, call: Conversation) -> None:
    """Put the caller on the callback list."""
    say, _ = await or_sorry(_escalated(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="escalate", say=say))


@voicemail_handler.also
async def voicemail(intent: VoicemailLeft, call: Conversation) -> None:
    """Keep the caller's note."""
    say, _ = await or_sorry(_noted(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="voicemail", say=say))


async def _escalated(intent: Escalation, call: Conversation) -> Said:
    phone = phone_number(intent.phone) if intent.phone else None
    await call.tool(tools.crm, phone=phone, kind="escalate", text=intent.reason or "a colleague is wanted")
    where = "." if phone else "; please leave us your number with the next words."
    return f"{_of_number(intent.phone, phone)}I have asked a colleague to call you back{where}", ()


async def _noted(intent: VoicemailLeft, call: Conversation) -> Said:
    if intent.note is None:
        return f"I have no message from you yet. {replies.SPEAK_NOW}", ()
    phone = phone_number(intent.phone) if intent.phone else None
    await call.tool(tools.crm, phone=phone, kind="voicemail", text=intent.note)
    return f"{_of_number(intent.phone, phone)}Your message is noted; we will call you back in office hours.", ()


def _of_number(given: str | None, phone: str | None) -> str:
    return f"{replies.BAD_PHONE} " if (given and not phone) else ""
