"""The pod of the old deployment in ``tests/data``. It runs unchanged on the code of commit 9a418b6 and on today's.

What a handler does is written in its message, in ``kind``. Two environment variables make it fail while the fixture is
recorded (see `old_deployment_recording`): ``OLD_DEPLOYMENT_HOLDS`` and ``OLD_DEPLOYMENT_FAILS``. Without them, every
message that the old deployment left can be handled.
"""

import asyncio
import os
from dataclasses import replace

from pydantic import BaseModel

from tieline import Conversation, Limits, Message, Pod, Refuse, Retry

__all__ = ["Answer", "Brief", "Follow", "Job", "Orphan", "Question", "old_pod", "ran"]

_YEARS = 50 * 365 * 86_400.0  # the length of a wait that outlasts this project
_SOON = 20.0  # seconds: over while the old deployment is stopped

ran: list[tuple[str, str]] = []
"""Effects in this process, in order: who (an agent or a tool) and for which conversation."""


class Job(Message, subject="call.intent.job"):
    call_id: str
    kind: str = "plain"
    text: str = ""


class Follow(Message, subject="call.intent.follow"):
    call_id: str
    text: str = ""


class Orphan(Message, subject="call.intent.orphan"):
    """Handled by the agent ``absent``, which never ran in the old deployment: its messages are pending."""

    call_id: str


class Brief(Message, subject="call.intent.brief", ttl="1s"):
    """Expires before the agent ``absent`` sees it."""

    call_id: str


class Question(Message, subject="call.intent.question"):
    """Handled by the agent ``oracle``, which never ran in the old deployment: who asks it is parked."""

    call_id: str
    text: str


class Answer(Message, subject="call.intent.answer"):
    call_id: str
    text: str


class Tally(BaseModel):
    jobs: int = 0


old_pod = Pod(
    "old-office",
    limits=Limits(ack_wait=2.0, attempts=2, first_retry=0.05, longest_retry=0.2, drain=0.5, timeout=3600.0),
)

for _name, _stream in old_pod.streams.items():
    # The store was recorded once: with the default ages, its messages would be gone a day later.
    if _stream.max_age is not None:
        old_pod.streams[_name] = replace(_stream, max_age=2 * _YEARS)


@old_pod.tool(effect="once")
async def stamp(name: str) -> str:
    ran.append(("stamp", name))
    return name.upper()


@old_pod.tool
async def shout(text: str) -> str:
    return text.upper()


@old_pod.agent
async def worker(job: Job, call: Conversation) -> Refuse | Retry | None:
    await call.step("begin", _begun, call.id)
    await call.tool(stamp, call.id)
    await call.state(Tally).update(_one_more)
    answer = await _work(job, call)
    if isinstance(answer, Refuse | Retry):
        return answer
    await call.publish(Follow(call_id=call.id, text=answer))
    ran.append(("worker", call.id))
    return None


async def _begun(conversation: str) -> str:
    return f"begun {conversation}"


def _one_more(tally: Tally | None) -> Tally:
    return Tally(jobs=(0 if tally is None else tally.jobs) + 1)


async def _work(job: Job, call: Conversation) -> str | Refuse | Retry:
    holds = "OLD_DEPLOYMENT_HOLDS" in os.environ
    match job.kind:
        case "hold" if holds:
            await asyncio.Event().wait()
        case "poison" if holds:
            os._exit(13)
        case "raise" if "OLD_DEPLOYMENT_FAILS" in os.environ:
            raise RuntimeError("the calendar is down")
        case "refuse":
            return Refuse("nobody of that name lives here")
        case "retry-later" if call.attempt == 1:
            return Retry("the shop opens later", after=70.0)
        case "large":
            return await call.tool(shout, job.text)
        case "ask":
            return (await call.ask(Question(call_id=call.id, text="which?"), expects=Answer)).text
        case "ask-within":
            question = Question(call_id=call.id, text="which?")
            return (await call.ask(question, expects=Answer, within=_YEARS)).text
        case "human":
            return await call.ask_human("May we?")
        case "human-within":
            return await call.ask_human("May we, some time?", within=_YEARS)
        case "human-late":
            return await call.ask_human("May we, at once?", within=_SOON)
        case "sleep":
            await call.sleep(_YEARS)
        case "sleep-over":
            await call.sleep(_SOON)
        case "delay":
            await call.publish(Follow(call_id=call.id, text="in years"), after=_YEARS)
        case "delay-over":
            await call.publish(Follow(call_id=call.id, text="while it was down"), after=_SOON)
        case "delay-done":
            await call.publish(Follow(call_id=call.id, text="at once"), after=0.5)
    return job.kind


@old_pod.agent
async def after(_: Follow, call: Conversation) -> None:
    ran.append(("after", call.id))


@old_pod.agent
async def oracle(_: Question, call: Conversation) -> None:
    ran.append(("oracle", call.id))
    await call.reply(Answer(call_id=call.id, text="the blue one"))


@old_pod.agent
async def absent(_: Orphan, call: Conversation) -> None:
    ran.append(("absent", call.id))


@absent.also
async def late(_: Brief, call: Conversation) -> None:
    ran.append(("late", call.id))
