"""Waiting for others: a tool's result, an agent's reply, a person's answer, a time. Short waits wait; long ones park.

To park is to put the message aside: what it waits for is on record, the delivery is acknowledged, and the answer or a
schedule brings the message back with its origin, so that it finds its steps.
"""

import asyncio
import time
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest, fingerprint
from tieline.errors import BadPayload, NoReply
from tieline.messages import Message
from tieline.outcomes import Wait
from tieline.records.reading import LATEST, read_time
from tieline.runtime.recorder import Recorder
from tieline.runtime.timeouts import limited_by_a_timeout
from tieline.runtime.versions import UNVERSIONED
from tieline.wire.journal import Record
from tieline.wire.publisher import PubAck

__all__ = ["ask", "ask_human", "sleep", "tool_result"]

_FOR_AGENTS = 1.0  # seconds that a reply is awaited before the message parks: agents mostly answer at once
_FOR_PEOPLE = 0.05  # people do not
_FOR_TOOLS = 2.0  # longer than most tools take, and than the first retry of one that failed once
_SHORT = 5.0  # seconds of sleep that are slept; longer ones park


async def ask(steps: Recorder, message: Message, within: float | None) -> Any:
    """The reply to ``message``; asked once, however often the handler runs."""

    async def produce(subject: str) -> Record:
        answer = steps.bus.journal.expect(steps.agent, subject)
        try:
            until = await _until(steps, subject, within)
            outgoing = steps.bus.outgoing(message, steps.conversation, None, steps.deadline)
            outgoing.headers[names.STEP] = subject
            if steps.bus.pod.version != UNVERSIONED:
                outgoing.headers[names.VERSION] = steps.bus.pod.version
            if not await steps.send_once(outgoing, digest("ask", subject)):
                record = await steps.read(subject)  # it may have been answered before we listened
                if record is not None:
                    return record
            return await _answer(steps, subject, answer, until, _FOR_AGENTS)
        finally:
            steps.bus.journal.forget(subject, answer)

    name = type(message).__name__
    return _value(await steps.recorded("ask", name, message.model_dump(mode="json"), produce), name)


async def ask_human(steps: Recorder, question: str, schema: dict[str, Any], within: float | None) -> Any:
    """A person's answer. The question is a record beside the answer's, for whoever shows it."""

    async def produce(subject: str) -> Record:
        answer = steps.bus.journal.expect(steps.agent, subject)
        try:
            until = await _until(steps, subject, within)
            asked = {"question": question, "schema": schema, "until": until, "callId": steps.conversation}
            await steps.write(subjects.step_sibling(subject, "question"), asked | steps.stamp())
            return await _answer(steps, subject, answer, until, _FOR_PEOPLE)
        finally:
            steps.bus.journal.forget(subject, answer)

    return _value(await steps.recorded("human", "question", question, produce), "the question")


async def tool_result(
    steps: Recorder, subject: str, answer: asyncio.Future[Record], msg_id: str, ack: PubAck | None
) -> Record:
    """The result of a tool call that was published under ``msg_id``; ``ack`` is None where an earlier run did that."""
    await asyncio.wait([answer], timeout=_FOR_TOOLS)
    if not answer.done():
        if ack is not None:
            await steps.remember(msg_id, ack)  # it may take longer than the server remembers the id
        await _put_off(steps, subject, Wait(subject, None), answer)
    return answer.result()


async def sleep(steps: Recorder, seconds: float) -> None:
    """Return ``seconds`` after the first run got here."""

    async def produce(subject: str) -> Record:
        ends = {"ok": True, "value": round(min(time.time() + seconds, LATEST), 3), "asked": fingerprint(seconds)}
        return await steps.write(subject, ends | steps.stamp())

    record = await steps.recorded("sleep", "sleep", seconds, produce)
    until = read_time(record.get("value"))
    if until is None:
        raise BadPayload("the record of this sleep cannot be read: it holds no time")
    if until - time.time() > _SHORT:
        await _put_off(steps, f"sleep until {until}", Wait(None, until), None)
    await asyncio.sleep(max(0.0, until - time.time()))


async def _until(steps: Recorder, subject: str, within: float | None) -> float | None:
    """When the wait ends, fixed by the first run that began it."""
    if within is None:
        return None
    mine = {"until": round(min(time.time() + within, LATEST), 3)}
    record = await steps.write(subjects.step_sibling(subject, "until"), mine)
    return read_time(record.get("until")) or mine["until"]


async def _answer(
    steps: Recorder, subject: str, answer: asyncio.Future[Record], until: float | None, patience: float
) -> Record:
    left = patience if until is None else min(patience, until - time.time())
    await asyncio.wait([answer], timeout=max(0.0, left))
    if not answer.done() and not _is_over(until):
        await _put_off(steps, subject, Wait(subject, until), answer)
    if answer.done():
        return answer.result()
    # Unless the answer was there first: then it counts. This run goes on with what is recorded; nobody is to be woken.
    late = {"ok": False, "cause": "timeout", "reason": "nobody answered in time"}
    return await steps.write(subject, late, {names.AWAKE: "1"})


def _is_over(until: float | None) -> bool:
    return until is not None and time.time() >= until


async def _put_off(steps: Recorder, key: str, wait: Wait, answer: asyncio.Future[Record] | None) -> None:
    """Wait beside other branches of this run for as long as one of them has work, then park. Inside a timeout of the
    handler's own, wait in this process: a parked run would lose it."""
    if await limited_by_a_timeout(steps.branches.tasks):
        left = None if wait.until is None else max(0.0, wait.until - time.time())
        await asyncio.wait([answer or asyncio.get_running_loop().create_future()], timeout=left)
        return
    ends = [at for at in (wait.until, steps.deadline) if at is not None]  # a deadline wakes too, to be told
    steps.branches.waits[key] = Wait(wait.step, min(ends, default=None))
    await steps.branches.stand_by(answer, None if wait.until is None else max(0.0, wait.until - time.time()))
    del steps.branches.waits[key]


def _value(record: Record, what: str) -> Any:
    if record.get("ok") is not True:
        raise NoReply(
            f"{what}: {record.get('reason', 'no reason recorded')}", cause=str(record.get("cause", "refused"))
        )
    return record.get("value")
