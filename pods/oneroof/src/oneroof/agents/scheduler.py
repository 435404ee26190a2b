"""Books viewings."""

from datetime import datetime, timedelta
from typing import NamedTuple

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, BookViewing, call_of
from oneroof.office.hours import is_open
from oneroof.speech import listed
from oneroof.understanding import phone_number, replies, say_slot
from tieline import Conversation

__all__ = ["scheduler"]

_FARTHEST = timedelta(days=366)


@pod.agent(name="scheduler", publishes=(Answer,), calls=(tools.mls, tools.calendar, tools.crm))
async def scheduler(intent: BookViewing, call: Conversation) -> None:
    """Check the home, take the slot, note the lead. Each is a step: a crash repeats none that was recorded.

    Asks the caller for what is missing or cannot be.
    """
    say, offers = await or_sorry(_booked(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="book", say=say, offers=offers))


async def _booked(intent: BookViewing, call: Conversation) -> Said:
    wanted = _complete(intent, call.started)
    if isinstance(wanted, str):
        return wanted, (intent.home,) if intent.home else ()
    home = await call.tool(tools.mls, home=wanted.home)
    if home is None:
        return f"I have no home with the number {wanted.home}. Could you check the number?", ()
    summary = f"Viewing of {home.number} for {intent.name or 'a caller'}"
    other = await call.tool(tools.mls, home=intent.instead_of) if intent.instead_of else None
    viewing = await call.tool(
        tools.calendar, home=home.number, slot=wanted.slot, summary=summary, instead_of=other.number if other else None
    )
    if not viewing.booked:
        others = listed([say_slot(slot) for slot in viewing.alternatives], last="or")
        say = f"That time is taken. I could offer {others}." if others else "We are fully booked then, I am sorry."
        stays = f" Your viewing of {other.number} stays as it is." if other else ""
        return say + stays, (wanted.home,)
    await call.tool(tools.crm, phone=wanted.phone, kind="viewing", text=f"{home.number} on {viewing.slot.isoformat()}")
    instead = f", instead of {other.number}" if other else ""
    return f"You are booked to see home {home.number} in {home.place} on {say_slot(viewing.slot)}{instead}.", (
        wanted.home,
    )


class _Wanted(NamedTuple):
    home: str
    slot: datetime
    phone: str


def _complete(intent: BookViewing, now: datetime) -> _Wanted | str:
    """The viewing that the intent asks for, or what the office has to ask before it can book one."""
    phone = phone_number(intent.phone) if intent.phone else None
    problem = _problem(intent.slot, now) if intent.slot else ""
    if intent.home and intent.slot and phone and not problem:
        return _Wanted(intent.home, intent.slot, phone)
    say = [problem] if problem else []
    if not intent.home:
        say.append(replies.ASK_HOME)
    if not intent.slot:
        say.append(replies.ASK_WHEN)
    elif problem:
        say.append(replies.ASK_OTHER_TIME)
    if not phone:
        say.append(f"{replies.BAD_PHONE} {replies.ASK_PHONE}" if intent.phone else replies.ASK_PHONE)
    return " ".join(say)


def _problem(slot: datetime, now: datetime) -> str:
    """Why the office shows no home at ``slot``; nothing if it may."""
    if slot <= now:
        return f"{say_slot(slot)} is already past."
    if slot > now + _FARTHEST:
        return replies.TOO_FAR
    return "" if is_open(slot) else replies.OUTSIDE
