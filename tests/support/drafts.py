"""Two versions of one pod, for processes that are replaced by others: ``DRAFTS_VERSION`` says which one this is."""

import asyncio
import os

from tieline import Conversation, Limits, Message, Pod

__all__ = ["Draft", "drafts", "note"]


class Draft(Message, subject="call.intent.draft"):
    call_id: str
    notes: str  # the file that effects are appended to; one line each


def note(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


VERSION = os.environ.get("DRAFTS_VERSION", "1")
drafts = Pod("drafts", version=VERSION, limits=Limits(ack_wait=1.0, first_retry=0.05, drain=0.2))


@drafts.agent
async def writer(draft: Draft, call: Conversation) -> None:
    async def effect(text: str) -> str:
        note(draft.notes, f"{VERSION} {text}")
        return text

    await call.step("outline", effect, "outline")
    if VERSION == "1":
        await call.step("chapter", effect, "chapter")
        if call.attempt == 1:
            await asyncio.Event().wait()  # until somebody kills this process
    await call.step("print", effect, "print")
