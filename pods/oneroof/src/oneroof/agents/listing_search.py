"""Finds homes on offer."""

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, HomeSearch
from oneroof.speech import dollars, home_in_words, listed
from tieline import Conversation

__all__ = ["listing_search"]


@pod.agent(name="listing-search", publishes=(Answer,), calls=(tools.web,))
async def listing_search(intent: HomeSearch, call: Conversation) -> None:
    """Search, and say the first three by their numbers."""
    say, offers = await or_sorry(_found(intent, call))
    await call.publish(Answer(call_id=intent.call_id, turn=intent.turn, intent="search", say=say, offers=offers))


async def _found(intent: HomeSearch, call: Conversation) -> Said:
    page = await call.tool(
        tools.web,
        place=intent.place,
        beds=intent.beds,
        baths=intent.baths,
        min_price=intent.min_price,
        max_price=intent.max_price,
        min_sqft=intent.min_sqft,
        waterfront=intent.waterfront,
    )
    return _said(intent, page), tuple(home.number for home in page.homes)


def _said(intent: HomeSearch, page: tools.SearchPage) -> str:
    if not page.known_place:
        return f"I don't know a neighbourhood called {intent.place}. Which part of Seattle would you like?"
    if not page.homes:
        limit = f" up to {dollars(intent.max_price)}" if intent.max_price else ""
        return f"I have nothing like that{limit} just now. Shall I look with a wider range?"
    count = "One home fits" if page.total == 1 else f"{page.total:,} homes fit"
    return f"{count}: {listed([home_in_words(home) for home in page.homes])}. Which one would you like to see?"
