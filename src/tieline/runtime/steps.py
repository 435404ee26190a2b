"""What a handler asks of the bus while it runs: publishing, and tools whose results are recorded once."""

import asyncio
from collections import Counter
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, to_json
from tieline.errors import ToolFailed
from tieline.facts import Stepped
from tieline.messages import Message
from tieline.runtime.bus import Bus
from tieline.tool import Tool
from tieline.wire.delivery import Delivery
from tieline.wire.journal import Record

__all__ = ["Steps"]


class Steps:
    """The desk of one run: it names everything by (agent, origin, run, name, occurrence), so a repeat finds it."""

    __slots__ = ("_agent", "_bus", "_conversation", "_delivery", "_seen")

    def __init__(self, bus: Bus, agent: str, conversation: str, delivery: Delivery) -> None:
        self._bus = bus
        self._agent = agent
        self._conversation = conversation
        self._delivery = delivery
        self._seen: Counter[str] | None = None  # made by the first step: most messages have none

    async def publish(self, message: Message, after: float | None, conversation: str | None) -> None:
        """Publish as `Conversation.publish` promises."""
        outgoing = self._bus.outgoing(message, conversation or self._conversation, after)
        occurrence = self._count(f"publish {outgoing.subject}")
        msg_id = digest(self._agent, self._origin, self._run, outgoing.subject, str(occurrence))
        await self._bus.store(outgoing, msg_id, self._cause, self._agent)

    async def tool(self, tool: Tool[..., Any], arguments: dict[str, Any]) -> Any:
        """The recorded result of this call of ``tool``, calling it where there is none yet."""
        began = asyncio.get_running_loop().time()
        occurrence = self._count(f"tool {tool.name}")
        key = f"{tool.name}-{occurrence}-{digest(self._origin, self._run)}"
        subject = subjects.step(self._agent, self._conversation, "tool", key)
        record = await self._recorded(subject) if self._delivery.count > 1 else None
        found = record is not None
        if record is None:
            record = await self._called(tool, arguments, subject)
        ok = record.get("ok") is True
        took = asyncio.get_running_loop().time() - began
        self._bus.observe(lambda: Stepped(self._conversation, self._agent, "tool", tool.name, ok, found, took))
        if not ok:
            reason = str(record.get("reason", "no reason recorded"))
            raise ToolFailed(f"tool {tool.name}: {reason}", tool=tool.name, cause=str(record.get("cause", "raised")))
        return record.get("value")

    async def _called(self, tool: Tool[..., Any], arguments: dict[str, Any], subject: str) -> Record:
        journal = self._bus.journal
        answer = journal.expect(self._agent, subject)
        payload = to_json({"callId": self._conversation, "tool": tool.name, "args": arguments})
        headers = self._bus.about(self._conversation) | {
            names.MSG_ID: digest("tool", subject),
            names.CAUSE: self._cause,
            names.STEP: subject,
        }
        try:
            ack = await self._bus.publisher.publish(subjects.tool_call(tool.name), payload, headers)
            if ack.duplicate:  # an earlier run asked already, and may have been answered before we listened
                record = await self._recorded(subject)
                if record is not None:
                    return record
            return await answer
        finally:
            journal.forget(subject, answer)

    async def _recorded(self, subject: str) -> Record | None:
        return (await self._bus.journal.read([subject])).get(subject)

    @property
    def _origin(self) -> str:
        return self._delivery.origin

    @property
    def _run(self) -> str:
        return self._delivery.headers.get(names.RUN, "")

    @property
    def _cause(self) -> str:
        return self._delivery.headers.get(names.MSG_ID, self._origin)

    def _count(self, name: str) -> int:
        if self._seen is None:
            self._seen = Counter()
        self._seen[name] += 1
        return self._seen[name]
