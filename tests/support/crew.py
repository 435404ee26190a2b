"""A pod for processes that die: what its handlers do is written in the message, what they did in a file."""

import asyncio
import os
from pathlib import Path

from tieline import Conversation, Limits, Message, Pod, Refuse
from tieline.testing import eventually

__all__ = ["Finished", "Job", "crew", "crowd", "note"]


class Job(Message, subject="call.intent.job"):
    call_id: str
    notes: str  # the file that effects are appended to; one line each, written whole
    kind: str = "plain"


class Finished(Message, subject="call.intent.finished"):
    call_id: str
    notes: str


crew = Pod("crew", limits=Limits(ack_wait=1.0, attempts=2, first_retry=0.1, longest_retry=0.5, drain=0.2))


def note(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@crew.tool(effect="once")
async def stamp(name: str, notes: str) -> str:
    note(notes, f"stamp {name}")
    return name.upper()


crowd = Pod("crowd", limits=Limits(concurrency=50, ack_wait=1.0, attempts=2, first_retry=0.1, drain=0.2))


async def work(job: Job, call: Conversation) -> Refuse | None:
    note(job.notes, f"begin {job.call_id}")
    match job.kind:
        case "poison":
            os._exit(13)
        case "steps":
            for name in ("a", "b", "c"):
                await call.tool(stamp, f"{job.call_id}-{name}", job.notes)
            note(job.notes, f"stamped {job.call_id}")
            if call.attempt == 1:
                await asyncio.Event().wait()  # until somebody kills this process
        case "publish":
            await call.publish(Finished(call_id=job.call_id, notes=job.notes))
            if call.attempt == 1:
                os._exit(13)
        case "frozen-raises" | "frozen-refuses" | "frozen-asks" if call.attempt == 1:
            await eventually(Path(f"{job.notes}.release").exists, what="leave to end", within=60)
            note(job.notes, f"woke {job.call_id}")
            if job.kind == "frozen-raises":
                raise ValueError("long after")
            if job.kind == "frozen-refuses":
                return Refuse("long after")
            await call.ask_human("Long after?")
        case "two seconds":
            await asyncio.sleep(2.0)
        case "forever":
            await eventually(Path(f"{job.notes}.release").exists, what="leave to end", within=60)
        case _:
            await asyncio.sleep(0.02)
    note(job.notes, f"done {job.call_id}")
    return None


crew.agent(name="worker")(work)
crowd.agent(name="worker")(work)


@crew.agent
async def after(message: Finished, _: Conversation) -> None:
    note(message.notes, f"finished {message.call_id}")
