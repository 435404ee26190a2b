"""`Agent`: a name, what it consumes, and the handlers that do the work."""

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypedDict, get_args

from tieline import subjects
from tieline.codec import decode
from tieline.context import Conversation
from tieline.declared.arguments import instance, instances, nearest, one_of, texts
from tieline.errors import BadDeclaration, BadPayload, Denied
from tieline.messages import Message, binding_of, message_classes
from tieline.outcomes import Outcome
from tieline.settings import Limits
from tieline.tool import Tool, checked_name

__all__ = ["Agent", "AgentOptions", "Declared", "Handler", "Start", "Use"]

type Handler[M: Message] = Callable[[M, Conversation], Awaitable[Outcome | None]]


@dataclass(frozen=True, slots=True)
class _Route:
    filter: str
    model: type[Message]
    handler: Callable[[Any, Conversation], Awaitable[Outcome | None]]


type Start = Literal["stored", "new"] | datetime
"""Where a new consumer begins: with the oldest stored message, behind the newest one, or at a time."""

type Use = Literal["delays", "large", "models", "state"]
"""What of the bus an agent may use beside messages and tools: see `Declared`."""

_USES: dict[Use, str] = {
    "delays": "delays messages, sleeps, or waits with a limit",
    "large": "carries payloads or results larger than a message",
    "models": "lets the text of a model be heard while it is produced",
    "state": "keeps the state of conversations, or ends them",
}


@dataclass(frozen=True, slots=True)
class Declared:
    """All that an agent says it does beside consuming. Its credentials allow this and nothing else.

    ``publishes`` are the messages that its handlers publish or ask with, ``calls`` the tools they call.
    """

    publishes: tuple[type[Message], ...] = ()
    calls: tuple[Tool[..., Any], ...] = ()
    uses: frozenset[Use] = frozenset()


class AgentOptions(TypedDict, total=False):
    """What ``@pod.agent(…)`` takes.

    ``limits`` replace the pod's. ``publishes`` (messages), ``calls`` (tools) and ``uses`` (``"delays"``, ``"large"``,
    ``"models"``, ``"state"``) are all it may do beside consuming: `tieline creds` makes its credentials of them, and
    with any of them given the runtime raises `Denied` for what is not declared. With none of them it may do anything
    where there are no credentials; where there are, they are derived from the handlers' code, or refused where that is
    unclear.

    ``start`` says where the agent begins when its consumer does not exist yet: with the oldest message that is stored
    (``"stored"``, the default), with messages published from then on (``"new"``), or with those stored since a
    ``datetime`` that has an offset. It changes nothing for a consumer that exists.

    ``formerly`` is the agent's name on the bus after a rename: the name that it was first deployed under. It keeps its
    position, its journal, its dead letters and its credentials' subjects under that name for good.
    """

    name: str | None
    limits: Limits | None
    publishes: type[Message] | tuple[type[Message], ...] | None
    calls: Tool[..., Any] | tuple[Tool[..., Any], ...] | None
    uses: Use | tuple[Use, ...] | None
    start: Start
    formerly: str | None


class Agent:
    """A declared agent. Its handlers' first parameter types say what it consumes.

    ``@pod.agent`` makes one of a function; ``@booking.also`` adds a handler for another message to the same agent, so
    that one durable consumer (for each stream) serves them all.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        admit: Callable[[type[Message], str], None],
        options: AgentOptions | None = None,
    ) -> None:
        """``admit`` raises `BadDeclaration` for a message class that the pod cannot take from the agent named."""
        chosen = options or {}
        _check_options(name, chosen)
        own = chosen.get("limits")
        self.name = name
        self.formerly = chosen.get("formerly")
        self.start: Start = chosen.get("start", "stored")
        self.declared = _declared(name, chosen)
        self.limits = limits if own is None else instance(f"agent {name}: limits", own, Limits, "Limits(…)")
        self._admit = admit
        self._routes: dict[str, _Route] = {}

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, {', '.join(self.filters)})"

    @property
    def wire_name(self) -> str:
        """The name on the bus: of its consumers, its steps, its facts and its dead letters. It survives a rename."""
        return self.formerly or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The name on the bus and, if it was renamed, the declared one. No other agent may have either."""
        return tuple(dict.fromkeys((self.wire_name, self.name)))

    @property
    def filters(self) -> tuple[str, ...]:
        """The least filters that bring what the handlers take, in order of declaration."""
        return tuple(self._routes)

    @property
    def models(self) -> tuple[type[Message], ...]:
        """The message classes it handles, in order of declaration."""
        return tuple(route.model for route in self._routes.values())

    @property
    def handlers(self) -> tuple[Callable[..., Awaitable[Outcome | None]], ...]:
        """The handlers' functions, each once, in order of declaration."""
        return tuple(dict.fromkeys(route.handler for route in self._routes.values()))

    def also[M: Message](self, handler: Handler[M]) -> Handler[M]:
        """Add a handler for one more message, or several (a union). `BadDeclaration` when two would take the same,
        or no stream stores it."""
        for model in _consumed(self.name, handler):
            route = _Route(binding_of(model).filter, model, handler)
            for other in self._routes.values():
                if subjects.overlaps(route.filter, other.filter):
                    raise BadDeclaration(
                        f"agent {self.name}: {model.__name__} ({route.filter}) and {other.model.__name__} "
                        f"({other.filter}) would take the same messages; one subject has one handler"
                    )
            self._admit(model, f"agent {self.name}")
            self._routes[route.filter] = route
        return handler

    def check_publishes(self, model: type[Message]) -> None:
        """`Denied` where the agent says what it publishes, and not this."""
        if self.declared is not None and model not in self.declared.publishes:
            subject = binding_of(model).filter
            raise Denied(
                f"agent {self.name} publishes {model.__name__} ({subject}) and does not declare it; "
                f"add publishes=({model.__name__},) to @pod.agent",
                subject=subject,
            )

    def check_calls(self, tool: Tool[..., Any]) -> None:
        """`Denied` where the agent says what it calls, and not this."""
        if self.declared is not None and all(tool.name != called.name for called in self.declared.calls):
            raise Denied(
                f"agent {self.name} calls the tool {tool.name} and does not declare it; "
                f"add calls=({tool.name.replace('-', '_')},) to @pod.agent",
                subject=subjects.tool_call(tool.name),
            )

    def check_uses(self, use: Use) -> None:
        """`Denied` where the agent says what it uses, and not this."""
        if self.declared is not None and use not in self.declared.uses:
            raise Denied(
                f'agent {self.name} {_USES[use]} and does not declare it; add uses=("{use}",) to @pod.agent',
                subject=use,
            )

    def open(self, subject: str, payload: bytes) -> tuple[Message, Callable[..., Awaitable[Outcome | None]]]:
        """The message in ``payload`` and the handler for it. `BadPayload` where it does not fit."""
        route = self._routes.get(subject) or next(
            (route for route in self._routes.values() if subjects.covers(route.filter, subject)), None
        )
        if route is None:
            raise BadPayload(f"agent {self.name} has no handler for the subject {subject}")
        return decode(route.model, payload), route.handler


def _check_options(agent: str, options: AgentOptions) -> None:
    strange = sorted(options.keys() - AgentOptions.__annotations__.keys())
    if strange:
        known = list(AgentOptions.__annotations__)
        raise BadDeclaration(
            f"agent {agent}: {strange[0]!r} is not an option of an agent; its options are {', '.join(known)}"
            f"{nearest(strange[0], known)}"
        )

    start, formerly = options.get("start", "stored"), options.get("formerly")
    if not isinstance(start, datetime):
        one_of(f"agent {agent}: start (unless it is a datetime)", start, ("stored", "new"))
    elif start.tzinfo is None:
        raise BadDeclaration(f"agent {agent}: start={start!r} has no offset; write datetime(…, tzinfo=UTC)")
    if formerly is not None:
        checked_name(formerly, f"agent {agent}: formerly")
        if formerly == agent:
            raise BadDeclaration(f"agent {agent}: formerly={formerly!r} is its name now; it was not renamed")


def _declared(agent: str, options: AgentOptions) -> Declared | None:
    """What the agent says it does; None if it says nothing of that kind."""
    publishes, calls, uses = options.get("publishes"), options.get("calls"), options.get("uses")
    if (publishes, calls, uses) == (None, None, None):
        return None
    models = message_classes(f"agent {agent}: publishes", publishes or ())
    tools: tuple[Tool[..., Any], ...] = instances(f"agent {agent}: calls", calls or (), Tool, "a tool")
    allowed = get_args(Use.__value__)
    for use in texts(f"agent {agent}: uses", uses or ()):
        one_of(f"agent {agent}: uses", use, allowed)
    return Declared(models, tools, frozenset((uses,) if isinstance(uses, str) else uses or ()))


def _consumed(agent: str, handler: Callable[..., object]) -> tuple[type[Message], ...]:
    name = getattr(handler, "__qualname__", repr(handler))
    if not inspect.iscoroutinefunction(handler):
        raise BadDeclaration(f"agent {agent}: {name} must be an async def")
    parameters = list(inspect.signature(handler).parameters)
    if len(parameters) != 2:
        raise BadDeclaration(f"agent {agent}: {name} takes {len(parameters)} parameters; it takes (message, call)")
    hint = typing.get_type_hints(handler).get(parameters[0])
    models = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for model in models:
        if not (isinstance(model, type) and issubclass(model, Message)):
            raise BadDeclaration(
                f"agent {agent}: the first parameter of {name} must be typed with a Message class (or a union of "
                f"them): its type says what the agent consumes; it is {model!r}"
            )
    return tuple(models)
