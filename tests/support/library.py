"""A pod for processes that die in the middle of large payloads: it says what it got, and waits to be killed."""

import asyncio
import hashlib
import os

from tieline import Conversation, Limits, Message, Pod

__all__ = ["Book", "library"]


class Book(Message, subject="call.intent.volume"):
    call_id: str
    notes: str  # the file that effects are appended to; one line each
    text: str


library = Pod("library", limits=Limits(ack_wait=1.0, first_retry=0.05, drain=0.2))


def note(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@library.tool
async def shout(text: str) -> str:
    return text.upper()


@library.agent
async def reader(book: Book, call: Conversation) -> None:
    shouted = await call.tool(shout, book.text)
    note(book.notes, f"{call.attempt} {hashlib.sha256(shouted.encode()).hexdigest()}")
    if call.attempt == 1:
        await asyncio.Event().wait()  # until somebody kills this process
    await call.end()
