"""Handling messages as an agent declares."""

from functools import partial

from tieline import headers as names
from tieline import subjects
from tieline.agent import Agent
from tieline.outcomes import Cause
from tieline.runtime.bus import Bus
from tieline.runtime.duty import Incoming, Work

__all__ = ["AgentDuty"]


class AgentDuty:
    """Handling messages as an agent declares."""

    def __init__(self, bus: Bus, agent: Agent) -> None:
        self.name = agent.wire_name
        self.limits = agent.limits
        self.guard = None
        self._agent = agent
        self._bus = bus

    def open(self, incoming: Incoming) -> Work:
        message, handler = self._agent.open(incoming.subject, incoming.payload)
        return partial(handler, message)

    async def give_up(self, incoming: Incoming, cause: Cause, conversation: str) -> None:
        """An agent that was asked will never reply: its asker hears why. Who merely published walked away."""
        step = incoming.headers.get(names.STEP, "")
        if subjects.is_step(step):
            failure = {"ok": False, "cause": cause.kind, "reason": cause.reason}
            await self._bus.journal.write(step, failure, self._bus.about(conversation))
