"""The consumers that a pod declares: for each agent or tool and stream one for new messages and one for those that are
brought back, and one for the answers that wake an agent's parked messages.

What is brought back (a parked message, a long retry, a redrive) has a consumer of its own, so that it does not wait
behind new messages: work in progress comes first. See `tieline.runtime.intake`.
"""

from dataclasses import dataclass
from typing import Literal

from tieline import subjects
from tieline.agent import Start
from tieline.pod import Pod
from tieline.settings import Limits

__all__ = ["Consumer", "agent_of", "consumers_of", "is_resume", "is_waker", "resume_name", "waker_name"]

_WAKER = "-waker"
_RESUME = "-resume"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable pull consumer that a pod declares.

    ``kind``: ``main`` takes new messages, ``resume`` those that are brought back to the same agent or tool, ``waker``
    takes records. ``start`` says where it begins if it does not exist yet. ``declared_as`` is its agent's name in the
    pod, which is not the one on the bus after a rename; empty for tools, wakers and what is brought back.
    """

    stream: str
    durable: str
    filters: tuple[str, ...]
    limits: Limits
    start: Start = "stored"
    declared_as: str = ""
    kind: Literal["main", "resume", "waker"] = "main"

    @property
    def owner(self) -> str:
        """The name on the bus of the agent or tool (``tool-<name>``) that it serves."""
        return agent_of(self.durable)


def consumers_of(pod: Pod) -> list[Consumer]:
    """The consumers of a pod. One for what is brought back comes before the one for new messages.

    Why: an older deployment has a single consumer for both. `apply` makes the new one first and takes its subject from
    the old one afterwards, so that a kill in between loses nothing and the next `apply` goes on.
    """
    found = []
    for agent in pod.agents.values():
        by_stream: dict[str, list[str]] = {}
        for subject in agent.filters:
            by_stream.setdefault(pod.stream_of(subject).name, []).append(subject)
        for stream, filters in by_stream.items():
            if back := _brought_back(pod, stream, agent.names):
                name = resume_name(agent.wire_name)
                found.append(Consumer(stream, name, back, agent.limits, agent.start, kind="resume"))
            found.append(Consumer(stream, agent.wire_name, tuple(filters), agent.limits, agent.start, agent.name))
    for tool in pod.tools.values():
        subject, durable = subjects.tool_call(tool.name), f"tool-{tool.name}"
        stream = pod.stream_of(subject).name
        if back := _brought_back(pod, stream, (durable,)):
            found.append(Consumer(stream, resume_name(durable), back, tool.limits, kind="resume"))
        found.append(Consumer(stream, durable, (subject,), tool.limits))
    for name in (agent.wire_name for agent in pod.agents.values()):
        # Answers that may come long after their asker parked; whichever process gets one brings the message back.
        kinds = tuple(subjects.step_filter(name, kind) for kind in ("ask", "human", "tool"))
        found.append(Consumer("STEP", waker_name(name), kinds, pod.limits, kind="waker"))
    return found


def waker_name(agent: str) -> str:
    """The consumer that brings an agent's parked messages back."""
    return f"{agent}{_WAKER}"


def resume_name(owner: str) -> str:
    """The consumer of what is brought back to an agent or tool."""
    return f"{owner}{_RESUME}"


def is_waker(durable: str) -> bool:
    """Whether a consumer brings parked messages back: what it takes are records, and no messages."""
    return durable.endswith(_WAKER)


def is_resume(durable: str) -> bool:
    """Whether a consumer takes what is brought back."""
    return durable.endswith(_RESUME)


def agent_of(durable: str) -> str:
    """The agent or tool whose consumer it is, of any kind."""
    return durable.removesuffix(_WAKER).removesuffix(_RESUME)


def _brought_back(pod: Pod, stream: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Where messages are brought back to whoever has one of these names; empty if the stream stores none of that."""
    wanted = [subjects.redrive(stream, name) for name in names]
    return tuple(one for one in wanted if any(subjects.covers(own, one) for own in pod.streams[stream].subjects))
