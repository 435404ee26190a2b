"""`Conversation`: what a handler may do while it handles a message."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, get_type_hints, overload

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticSerializationError

from tieline import codec
from tieline.declared.pending_calls import PendingCalls, notes_calls
from tieline.errors import BadPayload, NotAwaited
from tieline.messages import Message
from tieline.tool import Tool

if TYPE_CHECKING:  # an extra, and a second to import: only those who call a model need it
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.messages import ModelMessage, UserContent
    from pydantic_ai.models import Model
    from pydantic_ai.output import OutputSpec

__all__ = ["Conversation", "Desk", "ModelTurn", "State"]

# Evaluated by type checkers only, like every ``type``.
type Prompt = str | Sequence[UserContent | ModelMessage]
type ModelAgent[D, T] = AbstractAgent[D, T]
type ModelName = Model | str
type Output[T] = OutputSpec[T]

log = logging.getLogger("tieline.agent")


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """What a model is asked to do, as `Conversation.model` takes it. ``agent`` and ``output`` are pydantic-ai's."""

    agent: Any
    prompt: Any
    output: Any
    tools: tuple[Tool[..., Any], ...]
    instructions: str | None
    deps: Any


class Desk(Protocol):
    """What a conversation asks of the runtime. The runtime's is durable; a test may bring its own."""

    deadline: float | None  # seconds since 1970

    @property
    def unfinished(self) -> bool:
        """Whether tasks that the handler began still use the conversation."""

    def finish(self) -> Awaitable[None]: ...

    def publish(self, message: Message, after: float | None, conversation: str | None) -> Awaitable[None]: ...

    def tool(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Awaitable[Any]: ...

    def step(self, kind: str, name: str, asked: object, run: Callable[[], Awaitable[Any]]) -> Awaitable[Any]: ...

    def model(self, turn: ModelTurn) -> Awaitable[Any]: ...

    def ask(self, message: Message, within: float | None) -> Awaitable[Any]: ...

    def ask_human(self, question: str, schema: dict[str, Any], within: float | None) -> Awaitable[Any]: ...

    def sleep(self, seconds: float) -> Awaitable[None]: ...

    def reply(self, value: object) -> Awaitable[None]: ...

    def get_state(self) -> Awaitable[Any]: ...

    def update_state(self, change: Callable[[Any], Any], ttl: float | None) -> Awaitable[Any]: ...

    def end(self) -> Awaitable[None]: ...


@notes_calls("call", "publish", "tool", "step", "model", "ask", "reply", "ask_human", "sleep", "end")
class Conversation:
    """The conversation a handler works for, and the way to speak in it.

    ``id`` ties its messages together (in OneRoof: the phone call). ``origin`` is the message being handled, the same
    on every delivery and redrive of it; ``attempt`` counts the runs of this handler for it, from 1. ``guest`` is who
    sent it, where that is a program outside of the account; what it says is nobody's word but its own.
    """

    __slots__ = ("_desk", "_stored", "agent", "attempt", "guest", "id", "origin", "pending_calls")

    def __init__(self, conversation: str, agent: str, origin: str, stored: float, desk: Desk) -> None:
        self.id = conversation
        self.agent = agent
        self.origin = origin
        self.attempt = 1
        self.guest: str | None = None
        self.pending_calls: PendingCalls = set()  # calls that nobody has awaited yet
        self._stored = stored
        self._desk = desk

    @property
    def started(self) -> datetime:
        """When the message was stored (UTC): the same in every run, so prefer it to the clock."""
        return datetime.fromtimestamp(self._stored, UTC)

    @property
    def due(self) -> float | None:
        """`deadline` in seconds since 1970."""
        return self._desk.deadline

    @property
    def deadline(self) -> datetime | None:
        """When the whole piece of work is due (UTC), if it is. It travels with everything published from here."""
        due = self._desk.deadline
        return None if due is None else datetime.fromtimestamp(due, UTC)

    @property
    def unfinished(self) -> bool:
        """Whether calls were not awaited yet, or tasks that the handler began still use the conversation."""
        return bool(self.pending_calls) or self._desk.unfinished

    async def finish(self) -> None:
        """Wait for the tasks that the handler began; Tieline calls it when the handler has returned.

        Raises what one of them raised, and `NotAwaited` for calls of this conversation that nobody awaited.
        """
        if self.pending_calls or self._desk.unfinished:
            await self._desk.finish()
        if self.pending_calls:
            forgotten = sorted(str(call) for call in self.pending_calls)
            for call in list(self.pending_calls):
                call.close()
            raise NotAwaited(f"{', '.join(forgotten)} was not awaited, so it did nothing: write await before it")

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

    async def step[**P, R](
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run ``function`` once for this message, and find its result in every later run.

        ``name`` is one of your choice; used again (in a loop), the first, second, … use are steps of their own. The
        result is recorded as JSON by the function's return annotation and comes back as that type. What the function
        raises is not recorded: the next run runs it again.

        Raises `BadPayload` where the result cannot be recorded. A crash after the function and before the record
        runs it once more: make effects that must not repeat a tool with ``effect="once"``.
        """
        adapter = _adapter(function)

        async def run() -> Any:
            return _plain(adapter, await function(*args, **kwargs), f"step {name}")

        asked = {"args": args, "kwargs": kwargs}
        recorded: R = codec.validated(adapter, await self._desk.step("step", name, asked, run), f"step {name}")
        return recorded

    @overload
    async def model[D, T](
        self,
        agent: ModelAgent[D, T],
        prompt: Prompt,
        *,
        tools: Sequence[Tool[..., Any]] = (),
        instructions: str | None = None,
        deps: D = ...,
    ) -> T: ...
    @overload
    async def model[D, T](
        self,
        agent: ModelAgent[D, Any] | ModelName | None,
        prompt: Prompt,
        *,
        output: Output[T],
        tools: Sequence[Tool[..., Any]] = (),
        instructions: str | None = None,
        deps: D = ...,
    ) -> T: ...
    @overload
    async def model(
        self,
        agent: ModelName | None,
        prompt: Prompt,
        *,
        tools: Sequence[Tool[..., Any]] = (),
        instructions: str | None = None,
    ) -> str: ...
    async def model(
        self,
        agent: Any,
        prompt: Any,
        *,
        output: Any = None,
        tools: Sequence[Tool[..., Any]] = (),
        instructions: str | None = None,
        deps: Any = None,
    ) -> Any:
        """Have a language model answer ``prompt``, calling ``tools`` on the way; returns its output, typed.

        ``agent`` is a pydantic-ai agent, or a model or a model's name (``"openai:gpt-5"``), or None for the one that
        the setting ``TIELINE_MODEL`` names. ``prompt`` is text, or a sequence of what pydantic-ai takes as content,
        with earlier messages before it if there are any. ``output``, ``instructions`` and ``deps`` are as in
        ``Agent.run``.

        Each request to the model is a step: a later run of the handler finds the answers there are and asks only for
        the next. Each call of one of ``tools`` is a tool call like `tool`'s; what does not fit or fails is told to the
        model. An agent's own functions run again in every run. Text is heard by `Bus.partials` while it is produced.

        Raises what the agent's run raises (nothing of that is recorded), `BadSettings` where no model is named or
        pydantic-ai is not installed, `BadPayload` for an answer that cannot be recorded.
        """
        return await self._desk.model(ModelTurn(agent, prompt, output, tuple(tools), instructions, deps))

    async def ask[R: Message](
        self, message: Message, *, expects: type[R], within: float | timedelta | None = None
    ) -> R:
        """Publish ``message`` and wait for the reply another agent gives with `reply`; recorded like a step.

        A reply that takes longer than a moment parks this message: it holds no slot, and comes back with the reply, in
        whichever process, so everything above the ``ask`` runs again and finds its steps. ``within`` limits the wait.

        Raises `NoReply` when nobody replied within that time or the asked agent gave up, `BadPayload` when the reply
        is no ``expects``.
        """
        value = await self._desk.ask(message, _in_seconds(within))
        return codec.validated(TypeAdapter(expects), value, f"reply to {type(message).__name__}")

    async def reply(self, message: Message) -> None:
        """Answer who asked with `ask`. The first reply counts. `BadPayload` when this message is nobody's question."""
        await self._desk.reply(message.model_dump(mode="json"))

    @overload
    async def ask_human(self, question: str, *, within: float | timedelta | None = None) -> str: ...
    @overload
    async def ask_human[T](self, question: str, *, expects: type[T], within: float | timedelta | None = None) -> T: ...
    async def ask_human(
        self, question: str, *, expects: type[Any] = str, within: float | timedelta | None = None
    ) -> Any:
        """Ask a person, however long it takes: the message parks and comes back with the answer.

        ``tieline calls answer`` answers, and so does anything else that writes the record. ``expects`` is the answer's
        type (text unless given). Raises `NoReply` when nobody answered ``within`` that time.
        """
        adapter: TypeAdapter[Any] = TypeAdapter(expects)
        value = await self._desk.ask_human(question, adapter.json_schema(), _in_seconds(within))
        return codec.validated(adapter, value, "the answer")

    async def sleep(self, duration: float | timedelta) -> None:
        """Wait ``duration`` (seconds, or a timedelta) from the first time this is reached: no restart begins it anew.

        Long waits park: they hold no slot and survive everything that the server does.
        """
        wait = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        await self._desk.sleep(wait)

    def state[S: BaseModel](self, model: type[S]) -> "State[S]":
        """This conversation's shared record, as ``model``. See `State`."""
        return State(self._desk, model, self.pending_calls)

    async def end(self) -> None:
        """End the conversation: its state goes. Messages that are on their way are still handled."""
        await self._desk.end()

    def log(self, text: str, *values: object) -> None:
        """Log a line that carries the conversation and the agent. Never put phone numbers or secrets into it."""
        log.info(f"%s [%s] {text}", self.agent, self.id, *values)  # noqa: G004


@notes_calls("call.state()", "get", "update")
class State[S: BaseModel]:
    """A conversation's record, shared by all agents that handle its messages. Writes compare and set.

    A write is a step: a second run of the handler does not write again. Values are validated when read.
    """

    def __init__(self, desk: Desk, model: type[S], pending_calls: PendingCalls) -> None:
        self.pending_calls = pending_calls
        self._desk = desk
        self._adapter = TypeAdapter(model)

    async def get(self) -> S | None:
        """The state now, or None. `BadPayload` where it is no such record."""
        value = await self._desk.get_state()
        return None if value is None else codec.validated(self._adapter, value, "state")

    async def update(self, change: Callable[[S | None], S], *, ttl: float | timedelta | None = None) -> S:
        """Replace the state by ``change`` of it, and return what it became.

        Tried again where somebody else wrote in between, so ``change`` may run several times and must have no other
        effect. ``ttl``: after so long without a write the state goes. Raises `Conflict` when others keep writing.
        """

        def apply(value: Any) -> Any:
            before = None if value is None else codec.validated(self._adapter, value, "state")
            return self._adapter.dump_python(change(before), mode="json", by_alias=True)

        became = await self._desk.update_state(apply, _in_seconds(ttl))
        return codec.validated(self._adapter, became, "state")


def _in_seconds(duration: float | timedelta | None) -> float | None:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _adapter(function: Callable[..., Awaitable[Any]]) -> TypeAdapter[Any]:
    try:
        returns = get_type_hints(inspect.unwrap(function)).get("return", Any)
    except (NameError, TypeError):
        returns = Any
    return TypeAdapter(returns)


def _plain(adapter: TypeAdapter[Any], value: object, what: str) -> Any:
    try:
        return adapter.dump_python(value, mode="json", by_alias=True, warnings="error")
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise BadPayload(f"{what}: its result cannot be recorded as JSON: {error}") from None
