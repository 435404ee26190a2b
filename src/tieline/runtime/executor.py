"""The tool executor's duty: run a tool for a tool call, and write the one result where the caller looks for it."""

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.context import Conversation
from tieline.errors import BadPayload
from tieline.outcomes import Cause
from tieline.runtime.bus import Bus
from tieline.runtime.duty import Incoming, Work
from tieline.tool import Tool, ToolRun

__all__ = ["ToolDuty"]

log = logging.getLogger("tieline.executor")


class ToolDuty:
    """Running one tool. A result that does not come to be is recorded too: nobody waits in vain."""

    def __init__(self, bus: Bus, tool: Tool[..., Any]) -> None:
        self.name = f"tool-{tool.name}"
        self.limits = tool.limits
        self._bus = bus
        self._tool = tool

    def open(self, incoming: Incoming) -> Work:
        """The run that a tool call asks for. `BadPayload` where it is no tool call at all."""
        try:
            body = json.loads(incoming.payload)
        except (ValueError, RecursionError) as error:
            raise BadPayload(f"tool call of {self._tool.name}: not JSON: {error}") from None
        if not isinstance(body, dict) or not isinstance(body.get("args", {}), dict):
            raise BadPayload(f'tool call of {self._tool.name}: not an object like {{"callId": …, "args": {{…}}}}')
        arguments: dict[str, Any] = body.get("args", {})
        step = incoming.headers.get(names.STEP)
        if step is not None and not subjects.is_step(step):
            raise BadPayload(
                f"{names.STEP}: {step!r} is not a step subject (step.<agent>.<conversation>.<kind>.<step>)"
            )

        async def run(call: Conversation) -> None:
            await self._run(incoming, arguments, call)

        return run

    async def _run(self, incoming: Incoming, arguments: dict[str, Any], call: Conversation) -> None:
        result = _result_subject(incoming.headers, call.id)
        seen_before = incoming.count > 1 or self._tool.effect == "once"
        if seen_before and await self._bus.journal.read([result]):
            return  # an earlier run got as far as the record; the call only has to be acknowledged
        key = digest("key", incoming.headers.get(names.STEP) or call.origin)
        try:
            value = await self._tool.run(arguments, ToolRun(key, call.id, call.attempt))
        except BadPayload as error:
            await self._write(result, {"ok": False, "cause": "invalid", "reason": str(error)}, call.id)
            return
        await self._write(result, {"ok": True, "value": value}, call.id)

    async def give_up(self, incoming: Incoming, cause: Cause, conversation: str) -> None:
        """The call is a dead letter: its caller gets the cause as the step's result."""
        failure = {"ok": False, "cause": cause.kind, "reason": cause.reason}
        await self._write(_result_subject(incoming.headers, conversation), failure, conversation)

    async def _write(self, subject: str, outcome: dict[str, Any], conversation: str) -> None:
        record = {**outcome, "tool": self._tool.name, "at": round(time.time(), 3), "by": self._bus.replica}
        if not await self._bus.journal.write(subject, record, self._bus.about(conversation)):
            log.info("tool %s: another run recorded %s first; its result stands", self._tool.name, subject)


def _result_subject(headers: Mapping[str, str], conversation: str) -> str:
    """The step a tool call asks its result to be written to; for callers without a journal, the listeners' subject."""
    step = headers.get(names.STEP, "")
    return step if subjects.is_step(step) else subjects.tool_result(conversation)
