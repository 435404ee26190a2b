"""One run of one child process: its pid, its word that it is ready, its lines, its end."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from tieline.services.process import READY

__all__ = ["Child"]

_CHUNK = 64 * 1024
_LONGEST_LINE = 256 * 1024  # bytes; what is longer is told in pieces
_LAST_WORDS = 1.0  # seconds that its output may stay open, held by a grandchild, after a child's end


class Child:
    """A Python process in a session of its own: Ctrl-C at the terminal reaches only who supervises it.

    Its stdout and stderr are one pipe, so their order is kept.
    """

    def __init__(self, process: asyncio.subprocess.Process, ready_fd: int, output_fd: int) -> None:
        self.pid = process.pid
        self.began = asyncio.get_running_loop().time()
        self._process = process
        self._ready_fd = ready_fd
        self._output_fd = output_fd

    @classmethod
    async def start(cls, arguments: Sequence[str]) -> "Child":
        """Start ``python -m tieline.services.process`` with ``arguments``. It dies with the thread that starts it."""
        ready, ready_fd = os.pipe()
        output, output_fd = os.pipe()
        module = [sys.executable, "-u", "-m", "tieline.services.process"]
        supervised = ["--ready-fd", str(ready_fd), "--parent", str(os.getpid())]
        try:
            process = await asyncio.create_subprocess_exec(
                *module,
                *supervised,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                pass_fds=(ready_fd,),
                start_new_session=True,
            )
        except BaseException:
            os.close(ready)
            os.close(output)
            raise
        finally:
            os.close(ready_fd)
            os.close(output_fd)
        return cls(process, ready, output)

    @property
    def lived(self) -> float:
        """Seconds since it was started."""
        return asyncio.get_running_loop().time() - self.began

    def send(self, signum: int) -> None:
        """Send a signal; to a child that has ended, nothing."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signum)

    async def follow(self, said: Callable[[str], None], ready: Callable[[], None]) -> int:
        """Until it ends and everything it said has been told: its exit code, or minus the signal that ended it."""
        reading = asyncio.create_task(self._read(said))
        announcing = asyncio.create_task(self._hear_ready(ready))
        try:
            code = await self._process.wait()
            await asyncio.wait((reading, announcing), timeout=_LAST_WORDS)
        finally:
            reading.cancel()
            announcing.cancel()
        return code

    async def _read(self, said: Callable[[str], None]) -> None:
        rest = b""
        async for chunk in _chunks(self._output_fd):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            for line in lines:
                said(line.decode(errors="replace").rstrip("\r"))
        if rest:
            said(rest.decode(errors="replace"))

    async def _hear_ready(self, ready: Callable[[], None]) -> None:
        async for chunk in _chunks(self._ready_fd):
            if chunk == READY:
                ready()


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What comes through a pipe until its end. Closes it."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        while chunk := await reader.read(_CHUNK):
            yield chunk
    finally:
        transport.close()
