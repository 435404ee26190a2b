"""`ModelDesk`: what a model turn asks of the runtime."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tieline.facts import Fact
from tieline.partial import Partial
from tieline.tool import Tool

__all__ = ["ModelDesk"]


class ModelDesk(Protocol):
    """What a model turn asks of the runtime: records, tools, and two ways to be heard."""

    agent: str
    conversation: str

    def requested(self, name: str, asked: object, make: Callable[[str], Awaitable[Any]]) -> Awaitable[Any]:
        """The recorded answer to a request, made by ``make`` for the step it is given where there is none."""
        ...

    def tool(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Awaitable[Any]:
        """The recorded result of a tool call."""
        ...

    def tell(self, fact: Fact) -> None:
        """Tell a fact to whoever listens."""
        ...

    def say(self, partial: Partial) -> Awaitable[None]:
        """Let a piece of text be heard. Never fails for want of listeners."""
        ...
