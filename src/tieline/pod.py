"""`Pod`: the agents, tools and streams that make one application."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Concatenate, Unpack, overload

from tieline import subjects
from tieline.agent import Agent, AgentOptions, Handler
from tieline.declared.arguments import instance, instances, positive
from tieline.declared.expected import Expected, expected_bytes
from tieline.errors import BadDeclaration
from tieline.messages import Message, binding_of, differing_fields, message_classes
from tieline.settings import Breaker, Limits, Rate
from tieline.stream import DEFAULT_MAX_BYTES, Stream, default_streams
from tieline.tool import Effect, Tool, ToolRun, declared_name

__all__ = ["Pod"]

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_MONTH = 30 * 86_400.0  # that messages without a longest age are taken to be kept
_VARIABLE = re.compile(r"(?!TIELINE_)[A-Z_][A-Z0-9_]*\Z")
# Processes that are no agents; records for all agents.
_BESIDE = ("-waker", "-resume")  # what the consumers beside an agent's or tool's own end with
RESERVED = ("tools", "audit", "metrics", "gateway", subjects.EVERYBODY)


class Pod:
    """A pod under declaration. ``version`` orders deployments: an older one does not undo a newer one's topology.

    ``streams`` are added to the default ones; a stream with a default's name replaces it. ``limits`` are the defaults
    of its agents and tools. ``idle_end`` ends conversations that nobody ends: so long after its last write, a
    conversation's state goes (seconds or ``"12h"``; None: after the 30 days that the stream STATE keeps).
    ``expects`` says how much work the streams are to have room for (see `Expected`).
    ``data`` is the name of the environment variable from which the pod's tools learn the folder where they may keep
    files. `tieline deploy` sets it for the process ``tools`` and mounts a volume there; everything else is read-only.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0",
        streams: tuple[Stream, ...] = (),
        limits: Limits | None = None,
        idle_end: str | float | None = None,
        data: str | None = None,
        expects: Expected | None = None,
    ) -> None:
        if not _NAME.match(instance("pod name", name, str, "a text")):
            raise BadDeclaration(f"pod name {name!r}: use lower-case letters, digits and single dashes")
        if data is not None and not _VARIABLE.match(instance(f"pod {name}: data", data, str, "a text")):
            raise BadDeclaration(f"pod {name}: data={data!r} is not the name of an environment variable, as SHOP_DATA")
        self.data = data
        self.name = name
        self.version = instance(f"pod {name}: version", version, str, 'a text such as "2.1"')
        self.limits = Limits() if limits is None else instance(f"pod {name}: limits", limits, Limits, "Limits(…)")
        self.idle_end = None if idle_end is None else positive(f"pod {name}: idle_end", idle_end)
        if self.idle_end is not None and not self.idle_end >= 1:
            raise BadDeclaration(f"pod {name}: idle_end must be at least a second, not {idle_end!r}")
        own = instances(f"pod {name}: streams", streams, Stream, "a Stream")
        self.agents: dict[str, Agent] = {}
        self._on_bus: dict[str, Agent] = {}
        self.tools: dict[str, Tool[..., Any]] = {}
        self.expects = instance(f"pod {name}: expects", expects or Expected(), Expected, "Expected(…)")
        self.streams: dict[str, Stream] = {s.name: s for s in (*default_streams(), *map(_redrivable, own))}
        self.sized = self._give_room(own)
        self._check_streams()
        self._models: dict[str, tuple[type[Message], str]] = {}  # by filter: the class and who declared it first
        self.ingress: dict[str, type[Message]] = {}
        self.ingress_rate = Rate(20, burst=100)

    def __repr__(self) -> str:
        return f"Pod({self.name!r}, {len(self.agents)} agents, {len(self.tools)} tools)"

    def _give_room(self, own: tuple[Stream, ...]) -> frozenset[str]:
        """Size the streams that do not say themselves what they may hold; their names."""
        said = {stream.name for stream in own if stream.max_bytes != DEFAULT_MAX_BYTES}
        sized = frozenset(name for name, stream in self.streams.items() if name not in said and stream.max_bytes)
        ages = {name: self.streams[name].max_age or _MONTH for name in sized}
        for name, size in expected_bytes(self.expects, ages).items():
            stream = self.streams[name]
            self.streams[name] = replace(stream, max_bytes=max(size, stream.max_bytes or 0))
        return sized

    def _check_streams(self) -> None:
        claimed: list[tuple[str, str]] = []
        for stream in self.streams.values():
            for subject in stream.subjects:
                for other, taken in claimed:
                    if subjects.overlaps(subject, taken):
                        raise BadDeclaration(
                            f"streams {other} ({taken}) and {stream.name} ({subject}) overlap; one subject, one stream"
                        )
                claimed.append((stream.name, subject))

    @overload
    def agent[M: Message](self, handler: Handler[M], /) -> Agent: ...
    @overload
    def agent[M: Message](self, /, **options: Unpack[AgentOptions]) -> Callable[[Handler[M]], Agent]: ...
    def agent(
        self, handler: Handler[Any] | None = None, /, **options: Unpack[AgentOptions]
    ) -> Agent | Callable[[Handler[Any]], Agent]:
        """Declare an agent from its (first) handler. Its name is the function's, with dashes, unless ``name`` is given.

        `AgentOptions` lists what else can be said of it. Raises `BadDeclaration` for a name that is taken, a handler
        that is not ``async def (message, call)``, a message that no stream stores, or an option that cannot be used.
        """

        def declare(function: Handler[Any]) -> Agent:
            own = declared_name(function, options.get("name"), "agent")
            agent = Agent(own, self.limits, self._admit, options)
            agent.also(function)
            for claimed in agent.names:
                self._check_name(claimed)
            for model in agent.declared.publishes if agent.declared is not None else ():
                self._admit(model, f"agent {own}")
            self.agents[agent.name] = self._on_bus[agent.wire_name] = agent
            return agent

        return declare if handler is None else declare(handler)

    @overload
    def tool[**P, R](self, function: Callable[Concatenate[ToolRun, P], Awaitable[R]], /) -> Tool[P, R]: ...
    @overload
    def tool[**P, R](self, function: Callable[P, Awaitable[R]], /) -> Tool[P, R]: ...
    @overload
    def tool(
        self,
        /,
        *,
        effect: Effect = "repeat",
        name: str | None = None,
        limits: Limits | None = None,
        rate: Rate | None = None,
        breaker: Breaker | None = None,
    ) -> "_ToolDecorator": ...
    def tool(
        self,
        function: Callable[..., Awaitable[Any]] | None = None,
        /,
        *,
        effect: Effect = "repeat",
        name: str | None = None,
        limits: Limits | None = None,
        rate: Rate | None = None,
        breaker: Breaker | None = None,
    ) -> Any:
        """Declare a tool from an async function with typed parameters and a typed result.

        ``limits`` hold in each process, ``rate`` over all of them; ``breaker`` leaves a failing tool alone for a while.
        `BadDeclaration` for a name taken or a signature that cannot be validated.
        """

        def make(function: Callable[..., Awaitable[Any]]) -> Tool[..., Any]:
            own = declared_name(function, name, "tool")
            tool: Tool[..., Any] = Tool(function, own, effect, self.limits if limits is None else limits, rate, breaker)
            self.add_tool(tool)
            return tool

        decorator = _ToolDecorator(make)
        return decorator if function is None else decorator(function)

    def add_tool(self, tool: Tool[..., Any]) -> None:
        """Add a tool that is made already. `BadDeclaration` for a name taken."""
        if tool.name in self.tools:
            raise BadDeclaration(f"pod {self.name}: two tools are called {tool.name!r}")
        self._check_name(f"tool-{tool.name}")
        self.tools[tool.name] = tool

    def _check_name(self, name: str) -> None:
        agents = {claimed for agent in self.agents.values() for claimed in agent.names}
        taken = {*agents, *RESERVED, *(f"tool-{tool}" for tool in self.tools)}
        beside = {f"{other}{end}" for other in taken for end in _BESIDE}
        if name in taken | beside or any(f"{name}{end}" in taken for end in _BESIDE):
            raise BadDeclaration(f"pod {self.name}: the name {name!r} is taken; names and former names are unique")

    def agent_on_bus(self, name: str) -> Agent | None:
        """The agent that has this name on the bus; None where it is a tool's, another pod's or nobody's."""
        return self._on_bus.get(name)

    def open_to_guests(self, *models: type[Message], rate: Rate | None = None) -> None:
        """Let guests send these messages: programs with an account of their own, through the process ``gateway``.

        ``rate`` is for each guest and gateway process; 20 a second, 100 of them at once after a pause, unless given.
        `BadDeclaration` for a message that no stream stores.
        """
        for model in message_classes(f"pod {self.name}: open_to_guests", models):
            self._admit(model, "open_to_guests")
            self.ingress[binding_of(model).filter] = model
        if rate is not None:
            self.ingress_rate = instance(f"pod {self.name}: open_to_guests: rate", rate, Rate, "Rate(…)")

    def _admit(self, model: type[Message], declared_by: str) -> None:
        """Check that a stream stores the messages of a class, and that their subject has one set of fields."""
        subject = binding_of(model).filter
        self.stream_of(subject)
        first, owner = self._models.setdefault(subject, (model, declared_by))
        if first is not model and (fields := differing_fields(first, model)):
            raise BadDeclaration(
                f"pod {self.name}: {first.__name__} ({owner}) and {model.__name__} ({declared_by}) are both messages "
                f"of {subject} and differ in {', '.join(fields)}; one subject has one set of fields: share one class"
            )

    def stream_of(self, subject: str) -> Stream:
        """The one stream that stores ``subject`` (or everything a filter matches). `BadDeclaration` where none does."""
        for stream in self.streams.values():
            if any(subjects.covers(stored, subject) for stored in stream.subjects):
                return stream
        raise BadDeclaration(
            f"no stream of pod {self.name} stores {subject!r}; add one: Pod(…, streams=(Stream(name=…, subjects=…),))"
        )


def _redrivable(stream: Stream) -> Stream:
    """A pod's own stream also takes what is brought back to one of its agents."""
    redrive = subjects.redrive(stream.name, "*")
    if any(subjects.covers(own, redrive) for own in stream.subjects):
        return stream
    return replace(stream, subjects=(*stream.subjects, redrive), atomic=True)


@dataclass(frozen=True, slots=True)
class _ToolDecorator:
    """What ``@pod.tool(effect=…)`` returns. A class, because only one can be overloaded."""

    make: Callable[[Callable[..., Awaitable[Any]]], Tool[..., Any]]

    @overload
    def __call__[**P, R](self, function: Callable[Concatenate[ToolRun, P], Awaitable[R]], /) -> Tool[P, R]: ...
    @overload
    def __call__[**P, R](self, function: Callable[P, Awaitable[R]], /) -> Tool[P, R]: ...
    def __call__(self, function: Callable[..., Awaitable[Any]], /) -> Any:
        return self.make(function)
