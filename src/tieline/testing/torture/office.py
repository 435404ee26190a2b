"""The pod that is tortured: a clerk who causes one effect for each job, by a tool with ``effect="once"``.

It runs in processes of its own, so what it is told to do, and where its effects go, comes with the jobs.
"""

import asyncio
import os
from pathlib import Path
from typing import Literal

from tieline import Conversation, Limits, Message, Outcome, Pod, Refuse, Stream, ToolRun
from tieline.testing.torture.effects import Effects

__all__ = ["ACK_WAIT", "Job", "Kind", "pod"]

ACK_WAIT = 2.0  # seconds

type Kind = Literal["plain", "slow", "poison", "refuse", "rubbish"]


class Job(Message, subject="torture.job", redact=("secret",)):
    """One thing to do. ``call_id`` is its lane, in which ``number`` counts; ``effects`` the file of its effect."""

    call_id: str
    number: int
    kind: Kind
    effects: str
    secret: str = ""


pod = Pod(
    "torture",
    streams=(Stream(name="TORTURE", subjects=("torture.job",)),),
    limits=Limits(ack_wait=ACK_WAIT, first_retry=0.1, longest_retry=1.0, attempts=3, drain=5.0, timeout=60.0),
)


@pod.tool(effect="once")
async def effect(run: ToolRun, effects: str, lane: str, number: int) -> int:
    """The effect: a row under the idempotency key. Its target honours the key."""
    with Effects(Path(effects)) as target:
        return target.cause(run.key, lane, number)


@pod.agent(publishes=(), calls=(effect,))
async def clerk(job: Job, call: Conversation) -> Outcome | None:
    """Do what the job says."""
    match job.kind:
        case "poison":
            os._exit(17)
        case "refuse":
            return Refuse("this job is refused")
        case "slow":
            await asyncio.sleep(ACK_WAIT * 3)
    await call.tool(effect, effects=job.effects, lane=job.call_id, number=job.number)
    return None
