"""What a caller hears when a tool gave up: never nothing."""

from collections.abc import Awaitable

from tieline import ToolFailed

__all__ = ["Said", "or_sorry"]

type Said = tuple[str, tuple[str, ...]]  # the words, and the homes that they offer


async def or_sorry(said: Awaitable[Said]) -> Said:
    """What the agent has to say, or an apology where one of its tools failed for good."""
    try:
        return await said
    except ToolFailed:
        return "I am sorry, that does not work just now. Shall I have a colleague call you back?", ()
