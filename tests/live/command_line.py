"""The command line as its users meet it: a process, its output and its exit code."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SHOP", "Ended", "Program", "alive", "started", "tieline"]

SHOP = """
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.agent
async def booking(intent: Book, call: Conversation) -> None: ...
"""

_PROGRAM = str(Path(sys.executable).with_name("tieline"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, and children inherit that
_PATIENCE = 30.0  # seconds after which a test fails rather than hangs


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def tieline(*arguments: str, cwd: Path, url: str | None = None) -> Ended:
    """Run a command to its end. ``url`` is given as ``--server``."""
    async with started(*arguments, cwd=cwd, url=url) as program:
        async with asyncio.timeout(_PATIENCE):
            out, err = await program.process.communicate()
        return Ended(await program.process.wait(), out.decode(), err.decode())


@dataclass(frozen=True, slots=True)
class Program:
    """A command that runs."""

    process: Process

    async def line(self, **wanted: object) -> dict[str, Any]:
        """The next JSON line of its output that has these fields."""
        assert self.process.stdout is not None
        seen = []
        async with asyncio.timeout(_PATIENCE):
            while raw := await self.process.stdout.readline():
                told: dict[str, Any] = json.loads(raw)
                if wanted.items() <= told.items():
                    return told
                seen.append(told)
        raise AssertionError(f"the output ended before it came, after {seen}")

    async def log_line(self, wanted: str) -> str:
        """The next line of its stderr with ``wanted`` in it."""
        assert self.process.stderr is not None
        seen = []
        async with asyncio.timeout(_PATIENCE):
            while raw := await self.process.stderr.readline():
                if wanted in raw.decode():
                    return raw.decode()
                seen.append(raw)
        raise AssertionError(f"stderr ended without {wanted!r}, after {seen}")

    async def ended(self) -> Ended:
        """What is left of its output, when it ends."""
        async with asyncio.timeout(_PATIENCE):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return Ended(self.process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(*arguments: str, cwd: Path, url: str | None = None, **variables: str) -> AsyncIterator[Program]:
    """A command that runs, killed at the end if it still does."""
    server = [] if url is None else ["--server", url]
    process = await asyncio.create_subprocess_exec(
        _PROGRAM, *arguments, *server, cwd=cwd, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env={**os.environ, **variables}
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def alive(pid: int) -> bool:
    """Whether there is a process with this pid that is more than a zombie nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
