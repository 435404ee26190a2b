"""Agents as real processes, which a test may kill."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

__all__ = ["Agents", "agents", "lines"]

TESTS = Path(__file__).parents[1]


class Agents:
    """One ``tieline.services.process`` with some names of a pod."""

    def __init__(self, url: str, log: Path, *names: str, **settings: str) -> None:
        self._arguments = ["--server", url, f"support.crew:{settings.pop('pod', 'crew')}", *names]
        self._settings = settings
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tieline.services.process",
                *self._arguments,
                cwd=TESTS,
                stderr=log,
                env={**os.environ, "TIELINE_AUDIT": "off", **self._settings},
            )

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """Everything its processes said."""
        return self._log.read_text()

    def dead(self) -> bool:
        return self.process.returncode is not None

    async def kill(self, signum: int = signal.SIGKILL) -> int:
        """Its end and exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signum)
        return await self.process.wait()


@asynccontextmanager
async def agents(url: str, log: Path, *names: str, **settings: str) -> AsyncIterator[Agents]:
    """Started now, killed at the end."""
    started = Agents(url, log, *names, **settings)
    await started.start()
    try:
        yield started
    finally:
        await started.kill()


def lines(notes: Path) -> list[str]:
    """What the crew noted."""
    return notes.read_text().splitlines() if notes.exists() else []
