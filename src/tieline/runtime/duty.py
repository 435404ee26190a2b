"""`Duty`: what a worker does with each delivery. An agent's handlers are one, a tool is the other."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from tieline.agent import Agent
from tieline.context import Conversation
from tieline.outcomes import Cause
from tieline.settings import Limits

__all__ = ["AgentDuty", "Duty", "Incoming", "Work"]

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


type GiveUp = Callable[[Incoming, Cause, str], Awaitable[None]]


class Duty(Protocol):
    """One consumer's work."""

    @property
    def name(self) -> str: ...
    @property
    def limits(self) -> Limits: ...

    def open(self, incoming: Incoming) -> Work:
        """The work that the payload asks for. `BadPayload` where it asks for nothing we know."""

    @property
    def give_up(self) -> GiveUp | None:
        """Tells whoever waits that this message will never be handled. May be called twice for one message."""


class AgentDuty:
    """Handling messages as an agent declares."""

    def __init__(self, agent: Agent) -> None:
        self.name = agent.name
        self.limits = agent.limits
        self._agent = agent
        self.give_up = None  # nobody waits for an agent: who published walked away

    def open(self, incoming: Incoming) -> Work:
        message, handler = self._agent.open(incoming.subject, incoming.payload)
        return partial(handler, message)
