"""Tells about one home."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, HomeLookup, call_of
from oneroof.speech import dollars, home_in_words
from oneroof.understanding import replies
from tieline import Conversation

__all__ = ["mls_lookup"]


@pod.agent(name="mls-lookup", publishes=(Answer,), calls=(tools.mls,))
async def mls_lookup(intent: HomeLookup, call: Conversation) -> None:
    """Look it up by number. The records hold no street addresses, and the caller is told so."""
    say, offers = await or_sorry(_looked_up(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="lookup", say=say, offers=offers))


async def _looked_up(intent: HomeLookup, call: Conversation) -> Said:
    if intent.home is None:
        return replies.ASK_HOME, ()
    home = await call.tool(tools.mls, home=intent.home)
    return (_unknown(intent.home), ()) if home is None else (_said(home), (home.number,))


def _said(home: tools.HomeCard) -> str:
    said = f"That is {home_in_words(home)}, built in {home.built}"
    if home.last_sold is not None and home.last_price is not None:
        said += f"; it last sold in {home.last_sold:%B %Y} for {dollars(home.last_price)}"
    return said + ". Would you like to see it?"


def _unknown(asked: str) -> str:
    if asked.isdigit():
        return f"I have no home with the number {asked}. Could you check it, or shall I search a neighbourhood?"
    return "Our records go by listing or parcel number, not by street address. Do you have a number?"
