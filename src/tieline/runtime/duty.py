"""`Duty`: what a worker does with each delivery. An agent's handlers are one, a tool is another."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from tieline.context import Conversation
from tieline.outcomes import Cause, HandBack, Outcome
from tieline.settings import Limits

__all__ = ["Duty", "Guard", "Incoming", "Work"]

type Work = Callable[[Conversation], Awaitable[object]]


class Incoming(Protocol):
    """What a duty may see of a delivery."""

    @property
    def subject(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def count(self) -> int: ...
    @property
    def origin(self) -> str: ...


type GiveUp = Callable[[Incoming, Cause, str], Awaitable[None]]


class Guard(Protocol):
    """Decides when work may begin, and learns what became of it."""

    async def enter(self, call: Conversation, delivered: int) -> int | HandBack:
        """A permit, as soon as the work may begin; or the word to hand it back. Cancellation takes nothing."""

    def leave(self, permit: int, outcome: Outcome | None) -> None:
        """The work that had this permit is over; without an outcome where it was interrupted."""


class Duty(Protocol):
    """One consumer's work."""

    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> Limits: ...

    def open(self, incoming: Incoming) -> Work:
        """The work that the payload asks for. `BadPayload` where it asks for nothing we know."""

    @property
    def guard(self) -> Guard | None:
        """Who decides when work may begin; None where it always may."""

    @property
    def give_up(self) -> GiveUp | None:
        """Tells whoever waits that this message will never be handled. May be called twice for one message."""
