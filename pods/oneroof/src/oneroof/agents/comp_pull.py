"""Says what a home is worth, and by which sales."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, HomeResearch, call_of
from oneroof.speech import dollars, listed
from oneroof.understanding import replies
from tieline import Conversation

__all__ = ["comp_pull"]


@pod.agent(name="comp-pull", publishes=(Answer,), calls=(tools.comps,))
async def comp_pull(intent: HomeResearch, call: Conversation) -> None:
    """Pull comparable sales and give a price with its range."""
    say, offers = await or_sorry(_valued(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="research", say=say, offers=offers))


async def _valued(intent: HomeResearch, call: Conversation) -> Said:
    if intent.home is None:
        return replies.ASK_HOME, ()
    worth = await call.tool(tools.comps, home=intent.home)
    if worth is None:
        return f"I cannot put a price on {intent.home}: I don't know that number, or too few sales resemble it.", ()
    return _said(intent.home, worth), (intent.home,)


def _said(home: str, worth: tools.Comps) -> str:
    sales = [f"parcel {c.parcel}, sold {c.sold_on:%B %Y} for {dollars(c.price)}" for c in worth.comparables[:3]]
    return (
        f"Home {home} is worth about {dollars(worth.price)} as of {worth.as_of:%B %Y}, most likely between "
        f"{dollars(worth.low)} and {dollars(worth.high)}. The closest sales are {listed(sales)}."
    )
