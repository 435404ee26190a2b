"""`Conversation`: what a handler may do while it handles a message."""

import logging
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from tieline.messages import Message
from tieline.tool import Tool

__all__ = ["Conversation", "Desk"]

log = logging.getLogger("tieline.agent")


class Desk(Protocol):
    """What a conversation asks of the runtime. The runtime's is durable; a test may bring its own."""

    def publish(self, message: Message, after: float | None, conversation: str | None) -> Awaitable[None]: ...

    def tool(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Awaitable[Any]: ...


class Conversation:
    """The conversation a handler works for, and the way to speak in it.

    ``id`` ties its messages together (in OneRoof: the phone call). ``origin`` is the message being handled, the same
    on every delivery and redrive of it; ``attempt`` counts the runs of this handler for it, from 1.
    """

    __slots__ = ("_desk", "_stored", "agent", "attempt", "id", "origin")

    def __init__(self, conversation: str, agent: str, origin: str, stored: float, desk: Desk) -> None:
        self.id = conversation
        self.agent = agent
        self.origin = origin
        self.attempt = 1
        self._stored = stored
        self._desk = desk

    @property
    def started(self) -> datetime:
        """When the message was stored (UTC): the same in every run, so prefer it to the clock."""
        return datetime.fromtimestamp(self._stored, UTC)

    async def publish(
        self, message: Message, *, after: float | timedelta | None = None, conversation: str | None = None
    ) -> None:
        """Publish ``message`` in this conversation; returns once the stream has stored it.

        Its id follows from the message being handled, so a second run of the handler publishes nothing twice
        (NATS drops the repeat inside the duplicate window, 10 minutes). ``after`` delays it: seconds or a timedelta,
        kept by the server and safe from restarts. ``conversation`` starts or joins another conversation.

        Raises `NotAccepted` when the stream refused it or did not answer for ``publish.patience`` seconds.
        Cancellation may leave it stored: the next run's publish has the same id.
        """
        wait = after.total_seconds() if isinstance(after, timedelta) else after
        await self._desk.publish(message, wait, conversation)

    async def tool[**P, R](self, tool: Tool[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Have a tool executor run ``tool``; its result is recorded once and found again by every later run.

        Raises `ToolFailed` (recorded too) when the tool refused or failed for good, and `BadPayload` for arguments
        that do not fit, before anything is sent. Waiting ends with the handler's own timeout; cancellation leaves
        the call running, and the next run finds its result.
        """
        value = await self._desk.tool(tool, tool.bind(args, kwargs))
        return tool.read(value)

    def log(self, text: str, *values: object) -> None:
        """Log a line that carries the conversation and the agent. Never put phone numbers or secrets into it."""
        log.info(f"%s [%s] {text}", self.agent, self.id, *values)  # noqa: G004
