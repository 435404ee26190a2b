"""The tool executor's duty: run a tool for a tool call, and write the one result where the caller looks for it."""

import asyncio
import json
import logging
import random
import time
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, fingerprint, to_json
from tieline.context import Conversation
from tieline.errors import BadPayload, NeedsApproval, ToolRefused, Unsettled
from tieline.facts import Light, Switched
from tieline.outcomes import Cause, HandBack, Outcome, Retry
from tieline.runtime.breaker import Circuit
from tieline.runtime.bus import Bus
from tieline.runtime.duty import Incoming, Work
from tieline.runtime.rate import Ration
from tieline.runtime.versions import UNVERSIONED
from tieline.tool import Tool, ToolRun
from tieline.wire.journal import Record
from tieline.wire.objects import LARGEST

__all__ = ["ToolDuty", "ToolGuard"]

log = logging.getLogger("tieline.executor")

_LONGEST_WAIT = 60.0  # seconds that a call is handed back for while the breaker is open
_PATIENT = 100  # deliveries after which a call is handed back twice as long: the server's own limit is 1,000


class ToolGuard:
    """A tool's rate and breaker. One for each tool in a process."""

    def __init__(self, bus: Bus, tool: Tool[..., Any]) -> None:
        self._bus = bus
        self._tool = tool
        self._caller = ""  # the conversation whose call is being judged, for the fact
        self._ration = None if tool.rate is None else Ration(bus, tool.name, tool.rate)
        self.circuit = None if tool.breaker is None else Circuit(tool.breaker, time.monotonic, self._switched)

    async def enter(self, call: Conversation, delivered: int) -> int | HandBack:
        """Wait for the rate; hand back while the breaker is open. A call past its deadline is let through, to be told
        so."""
        if (handed := self._closed(delivered)) is not None:
            return handed
        if self._ration is not None:
            try:
                async with asyncio.timeout(None if call.due is None else max(0.0, call.due - time.time())):
                    await self._ration.turn()
            except TimeoutError:
                return 0  # no permit of the breaker's: what becomes of it says nothing of the tool
        if (handed := self._closed(delivered)) is not None:
            return handed  # it opened while this call waited
        self._caller = call.id
        return 0 if self.circuit is None else self.circuit.enter()

    def leave(self, permit: int, outcome: Outcome | None) -> None:
        """What the tool itself did not see: its timeout. Everything else was told by `ToolDuty`."""
        if self.circuit is None:
            return
        if isinstance(outcome, Retry) and outcome.cause is not None and outcome.cause.kind == "timeout":
            self.circuit.failed(permit, outcome.reason)
        self.circuit.left(permit)

    def succeeded(self, permit: int, conversation: str) -> None:
        """The target answered, if only to refuse."""
        if self.circuit is not None:
            self._caller = conversation
            self.circuit.succeeded(permit)

    def failed(self, permit: int, conversation: str, error: Exception) -> None:
        """The tool raised."""
        if self.circuit is not None:
            self._caller = conversation
            self.circuit.failed(permit, f"{type(error).__qualname__}: {error}")

    @property
    def permit(self) -> int:
        """Of the breaker's present state: told by a call that is let in now."""
        return 0 if self.circuit is None else self.circuit.permit

    def _closed(self, delivered: int) -> HandBack | None:
        if self.circuit is None or not (wait := self.circuit.wait()):
            return None
        # Jittered upwards, so that what was handed back together does not meet the one trial together.
        wait = wait * random.uniform(1.0, 1.25) * (2 if delivered > _PATIENT else 1)
        return HandBack(f"the circuit breaker of tool {self._tool.name} is open", min(wait, _LONGEST_WAIT))

    def _switched(self, state: Light, reason: str) -> None:
        tool, circuit, caller = self._tool.name, self.circuit, self._caller
        failures = 0 if circuit is None else circuit.failures
        log.warning("tool %s: the circuit breaker is %s: %s", tool, state, reason)
        self._bus.observe(lambda: Switched(caller, f"tool-{tool}", tool, state, failures, reason))


class ToolDuty:
    """Running one tool. A result that does not come to be is recorded too: nobody waits in vain."""

    def __init__(self, bus: Bus, tool: Tool[..., Any]) -> None:
        self.name = f"tool-{tool.name}"
        self.limits = tool.limits
        self.guard = ToolGuard(bus, tool) if tool.rate or tool.breaker else None
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
        result = self._result_subject(incoming, call.id)
        seen_before = incoming.count > 1 or self._tool.effect == "once"
        if seen_before and await self._bus.journal.glance([result]):
            await self._tell(incoming, result, call.id, None)
            return  # an earlier run got as far as the record; the call only has to be acknowledged
        key = digest("key", incoming.headers.get(names.STEP) or call.origin)
        try:
            value = await self._called(arguments, ToolRun(key, call.id, call.attempt, call.deadline))
        except BadPayload as error:
            outcome = {"ok": False, "cause": "invalid", "reason": str(error)}
        except ToolRefused as error:
            outcome = {"ok": False, "cause": "refused", "reason": str(error)}
        except NeedsApproval as error:
            outcome = {"ok": False, "cause": "approval", "reason": str(error)}
        else:
            outcome = {"ok": True, "value": value}
        version = incoming.headers.get(names.VERSION, UNVERSIONED)  # of who asked: see runtime/versions
        record = {**outcome, "asked": fingerprint(arguments), "version": version}
        await self._tell(incoming, result, call.id, await self._write(result, record, call.id))

    async def _called(self, arguments: dict[str, Any], run: ToolRun) -> Any:
        """The tool's value; its guard learns whether the target answered."""
        guard = self.guard
        if guard is None:
            return await self._tool.run(arguments, run)
        permit = guard.permit
        try:
            value = await self._tool.run(arguments, run)
        except BadPayload:
            raise  # of the caller or of our own code: it says nothing of the target
        except (ToolRefused, NeedsApproval):
            guard.succeeded(permit, run.conversation)
            raise
        except Exception as error:
            guard.failed(permit, run.conversation, error)
            raise
        guard.succeeded(permit, run.conversation)
        return value

    async def give_up(self, incoming: Incoming, cause: Cause, conversation: str) -> None:
        """The call is a dead letter: its caller gets the cause as the step's result."""
        failure = {"ok": False, "cause": cause.kind, "reason": cause.reason}
        result = self._result_subject(incoming, conversation)
        await self._tell(incoming, result, conversation, await self._write(result, failure, conversation))

    async def _write(self, subject: str, outcome: dict[str, Any], conversation: str) -> Record | None:
        """The record, now written; None where another run wrote one first, which stands."""
        record = {**outcome, "tool": self._tool.name, "at": round(time.time(), 3), "by": self._bus.replica}
        if (size := len(to_json(record))) > LARGEST:
            reason = f"its result has {size:,} bytes; at most {LARGEST:,} are carried"
            record |= {"ok": False, "cause": "invalid", "reason": reason, "value": None}
        if await self._bus.journal.write(subject, record, self._bus.about(conversation)):
            return record
        log.info("tool %s: another run recorded %s first; its result stands", self._tool.name, subject)
        return None

    async def _tell(self, incoming: Incoming, result: str, conversation: str, record: Record | None) -> None:
        """Publish the recorded result to a caller without a journal, who listens by conversation.

        After the record: a crash in between repeats this and not the tool. The server does it for everybody else.
        """
        if incoming.headers.get(names.STEP) == result:
            return
        if record is None:
            record = (await self._bus.journal.read([result])).get(result)
        if record is None:
            raise Unsettled(f"{result}: written by another run, and not to be read yet")
        await self._bus.journal.write(subjects.tool_result(conversation), record, self._bus.about(conversation))

    def _result_subject(self, incoming: Incoming, conversation: str) -> str:
        """The step that a call asks its result to be written to, or one of our own for a caller without a journal."""
        step = incoming.headers.get(names.STEP, "")
        if subjects.is_step(step):
            return step
        key = digest(incoming.origin, incoming.headers.get(names.RUN, ""))
        return subjects.step(self.name, conversation, "result", key)
