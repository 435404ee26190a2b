"""Finds homes on offer."""

from typing import Final

from oneroof import tools
from oneroof.agents.apology import Said, or_sorry
from oneroof.declared import pod
from oneroof.messages import Answer, HomeSearch, call_of
from oneroof.speech import dollars, home_in_words, listed
from oneroof.understanding import replies
from tieline import Conversation

__all__ = ["listing_search"]


@pod.agent(name="listing-search", publishes=(Answer,), calls=(tools.web,))
async def listing_search(intent: HomeSearch, call: Conversation) -> None:
    """Search, and say the first three by their numbers."""
    say, offers = await or_sorry(_found(intent, call))
    await call.publish(Answer(**call_of(intent, call), intent="search", say=say, offers=offers))


_SAID: Final = {
    "place": "the neighborhood",
    "other_places": "the neighborhoods",
    "not_places": "the neighborhoods that you do not want",
    "home_type": "the kind of home",
    "beds": "the number of bedrooms",
    "baths": "the number of baths",
    "max_price": "the highest price",
    "min_price": "the lowest price",
    "min_sqft": "the square feet",
    "max_sqft": "the most square feet",
    "waterfront": "whether it is to be on the water",
    "not_waterfront": "whether it is not to be on the water",
}


async def _found(intent: HomeSearch, call: Conversation) -> Said:
    unread = [_SAID[name] for name in intent.unread if name in _SAID]
    if unread:  # a search without them would find homes that nobody asked for
        return f"I did not understand {listed(unread)}. Could you say that again?", ()
    if not any(getattr(intent, name) not in (None, (), False) for name in _SAID):
        return replies.ASK_PLACE, ()
    wanted = tools.Wanted(
        places=tuple(place for place in (intent.place, *intent.other_places) if place),
        waterfront=True if intent.waterfront else False if intent.not_waterfront else None,
        **{name: getattr(intent, name) for name in tools.Wanted.model_fields if name not in ("places", "waterfront")},
    )
    page = await call.tool(tools.web, wanted=wanted)
    return _said(intent, page), tuple(home.number for home in page.homes)


def _said(intent: HomeSearch, page: tools.SearchPage) -> str:
    if page.unknown_place:
        which = f"Did you mean {page.resembles}?" if page.resembles else "Which part of Seattle would you like?"
        return f"I don't know a neighbourhood called {page.unknown_place}. {which}"
    if not page.homes:
        limit = f" up to {dollars(intent.max_price)}" if intent.max_price else ""
        return f"I have nothing like that{limit} just now. Shall I look with a wider range?"
    count = "One home fits" if page.total == 1 else f"{page.total:,} homes fit"
    return f"{count}: {listed([home_in_words(home) for home in page.homes])}. Which one would you like to see?"
