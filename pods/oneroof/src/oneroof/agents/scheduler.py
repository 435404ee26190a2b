"""Books viewings."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, BookViewing
from oneroof.speech import listed
from oneroof.understanding import say_slot
from tieline import Conversation

__all__ = ["scheduler"]


@pod.agent(name="scheduler", publishes=(Answer,), calls=(tools.mls, tools.calendar, tools.crm))
async def scheduler(intent: BookViewing, call: Conversation) -> None:
    """Check the home, take the slot, note the lead. Each is a step: a crash repeats none that was recorded."""
    say, offers = await or_sorry(_booked(intent, call))
    await call.publish(Answer(call_id=intent.call_id, turn=intent.turn, intent="book", say=say, offers=offers))


async def _booked(intent: BookViewing, call: Conversation) -> Said:
    home = await call.tool(tools.mls, home=intent.home)
    if home is None:
        return f"I have no home with the number {intent.home}. Could you check the number?", ()
    if intent.slot <= call.started:
        return f"{say_slot(intent.slot)} is already past. Which later time would suit you?", (intent.home,)
    who = intent.name or "a caller"
    viewing = await call.tool(
        tools.calendar, home=home.number, slot=intent.slot, summary=f"Viewing of {home.number} for {who}"
    )
    if not viewing.booked:
        others = listed([say_slot(slot) for slot in viewing.alternatives], last="or")
        say = f"That time is taken. I could offer {others}." if others else "We are fully booked then, I am sorry."
        return say, (intent.home,)
    await call.tool(tools.crm, phone=intent.phone, kind="viewing", text=f"{home.number} on {viewing.slot.isoformat()}")
    return f"You are booked to see home {home.number} in {home.place} on {say_slot(viewing.slot)}.", (intent.home,)
