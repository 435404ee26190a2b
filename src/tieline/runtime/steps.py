"""What a handler asks of the bus while it runs: publishing, tools, its own steps, and waiting for others."""

from collections.abc import Awaitable, Callable
from typing import Any

from tieline import headers as names
from tieline import models, subjects
from tieline.agent import Use
from tieline.codec import digest, encode, fingerprint, to_json
from tieline.context import ModelTurn
from tieline.errors import BadPayload, ToolFailed
from tieline.facts import Fact
from tieline.messages import Message
from tieline.partial import Partial
from tieline.runtime import state, waits
from tieline.runtime.recorder import Recorder
from tieline.runtime.versions import UNVERSIONED
from tieline.tool import Tool
from tieline.wire.journal import Record
from tieline.wire.publisher import PubAck

__all__ = ["Steps"]


class Steps(Recorder):
    """The desk of one run of a handler."""

    __slots__ = ()

    async def publish(self, message: Message, after: float | None, conversation: str | None) -> None:
        """Publish as `Conversation.publish` promises."""
        if (agent := self.bus.pod.agent_on_bus(self.agent)) is not None:
            agent.check_publishes(type(message))
            if after:
                agent.check_uses("delays")
        outgoing = self.bus.outgoing(message, conversation or self.conversation, after, self.deadline)
        occurrence = self.branches.use(f"publish {outgoing.subject}")
        unique = digest(self.agent, self.delivery.origin, self.run, outgoing.subject, occurrence)
        await self.send_once(outgoing, unique)

    async def tool(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Any:
        """The recorded result of this call of ``tool``, calling it where there is none yet."""
        self._check(tool)

        async def call(subject: str) -> Record:
            return await self._called(tool, arguments, subject)

        record = await self.recorded("tool", tool.name, arguments, call)
        if record.get("ok") is not True:
            reason = str(record.get("reason", "no reason recorded"))
            raise ToolFailed(f"tool {tool.name}: {reason}", tool=tool.name, cause=str(record.get("cause", "raised")))
        return record.get("value")

    async def step(self, kind: str, name: str, asked: object, run: Callable[[], Awaitable[Any]]) -> Any:
        """What ``run`` gave the first time. Two runs at once agree on the one whose record was first."""
        return await self._made(kind, name, asked, lambda _: run())

    async def model(self, turn: ModelTurn) -> Any:
        """The output of a model's turn, its requests and tool calls on record."""
        self._uses("models")
        for tool in turn.tools:
            self._check(tool)
        return await models.run(self, turn, self.bus.settings.model)

    async def requested(self, name: str, asked: object, make: Callable[[str], Awaitable[Any]]) -> Any:
        """A model's answer, made once by ``make`` for the step it is given."""
        return await self._made("model", name, asked, make)

    def tell(self, fact: Fact) -> None:
        """Tell a fact to whoever listens."""
        self.bus.observe(lambda: fact)

    async def say(self, partial: Partial) -> None:
        """Let a piece of text be heard. While the connection is down nobody hears, and none is kept for later."""
        if self.bus.connection.connected:
            await self.bus.connection.send(subjects.partial(self.conversation), encode(partial))

    async def ask(self, message: Message, within: float | None) -> Any:
        """The reply to ``message``, however long it takes."""
        if (agent := self.bus.pod.agent_on_bus(self.agent)) is not None:
            agent.check_publishes(type(message))
            if within is not None:
                agent.check_uses("delays")
        return await waits.ask(self, message, within)

    async def ask_human(self, question: str, schema: dict[str, Any], within: float | None) -> Any:
        """A person's answer, however long it takes."""
        if within is not None:
            self._uses("delays")
        return await waits.ask_human(self, question, schema, within)

    async def sleep(self, seconds: float) -> None:
        """Return ``seconds`` after the first run got here."""
        self._uses("delays")
        await waits.sleep(self, seconds)

    async def reply(self, value: object) -> None:
        """Write the one answer to who asked."""
        step = self.delivery.headers.get(names.STEP, "")
        if not subjects.is_step(step):
            raise BadPayload(f"agent {self.agent}: nobody asked with this message, so there is nobody to reply to")
        asked_by = {"version": self.delivery.headers.get(names.VERSION, UNVERSIONED)}
        await self.write(step, {"ok": True, "value": value, **self.stamp(), **asked_by})

    async def get_state(self) -> Any:
        """The conversation's state, or None."""
        self._uses("state")
        return (await state.read(self.bus, self.conversation)).value

    async def update_state(self, change: Callable[[Any], Any], ttl: float | None) -> Any:
        """What the state became; ``change`` is applied once for this step, whatever crashes."""
        self._uses("state")

        async def produce(subject: str) -> Record:
            value = await state.update(self.bus, self.conversation, change, subject, ttl)
            return await self.write(subject, {"ok": True, "value": value, **self.stamp()})

        return (await self.recorded("state", "update", None, produce)).get("value")

    async def end(self) -> None:
        """The conversation's state goes: once, so that a second run takes none away that began meanwhile."""
        self._uses("state")

        async def produce(subject: str) -> Record:
            await state.remove(self.bus, self.conversation)
            return await self.write(subject, {"ok": True, **self.stamp()})

        await self.recorded("state", "end", None, produce)
        self.ended = True

    async def _made(self, kind: str, name: str, asked: object, make: Callable[[str], Awaitable[Any]]) -> Any:
        async def produce(subject: str) -> Record:
            record = {"ok": True, "value": await make(subject), "asked": fingerprint(asked)}
            return await self.write(subject, record | self.stamp())

        return (await self.recorded(kind, name, asked, produce)).get("value")

    def _check(self, tool: Tool[..., Any]) -> None:
        if not isinstance(tool, Tool):
            raise BadPayload(f"{tool!r} is no tool of a pod; declare it with @pod.tool")
        if tool.name not in self.bus.pod.tools:
            has = ", ".join(self.bus.pod.tools) or "none"
            raise BadPayload(f"pod {self.bus.pod.name} has no tool {tool.name!r}, nobody would run it; it has {has}")
        if (agent := self.bus.pod.agent_on_bus(self.agent)) is not None:
            agent.check_calls(tool)

    def _uses(self, use: Use) -> None:
        if (agent := self.bus.pod.agent_on_bus(self.agent)) is not None:
            agent.check_uses(use)

    async def _called(self, tool: Tool[..., Any], arguments: dict[str, Any], subject: str) -> Record:
        """The result at ``subject``, which the tool is asked to write. A call that takes long parks, like `ask`."""
        answer = self.bus.journal.expect(self.agent, subject)
        msg_id = digest("tool", subject)
        ack: PubAck | None = None
        try:
            if self.delivery.fresh or not await self.was_sent(msg_id):
                ack = await self._call(tool, arguments, subject, msg_id)
            if ack is None or ack.duplicate:  # asked by an earlier run: it may have been answered before we listened
                record = await self.read(subject)
                if record is not None:
                    return record
            return await waits.tool_result(self, subject, answer, msg_id, ack)
        finally:
            self.bus.journal.forget(subject, answer)

    async def _call(self, tool: Tool[..., Any], arguments: dict[str, Any], subject: str, msg_id: str) -> PubAck:
        shown = {"callId": self.conversation, "tool": tool.name}
        headers = self.bus.about(self.conversation) | {
            names.MSG_ID: msg_id,
            names.CAUSE: self.cause,
            names.STEP: subject,
        }
        if (due := self.delivery.headers.get(names.DEADLINE)) is not None:
            headers[names.DEADLINE] = due
        if self.bus.pod.version != UNVERSIONED:
            headers[names.VERSION] = self.bus.pod.version
        payload, claim = await self.bus.objects.lighten(self.conversation, to_json({**shown, "args": arguments}), shown)
        headers |= claim
        if self.bus.trust is not None:
            await self.bus.trust.sign(subjects.tool_call(tool.name), payload, headers)
        return await self.bus.publisher.publish(subjects.tool_call(tool.name), payload, headers)
