"""A real nats-server that a test may kill, freeze and bring back."""

import os
import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tieline.server import EmbeddedServer, ServerConfig

__all__ = ["Server"]


class Server:
    """A server of one test's own. The faults are plain calls that return once they have happened.

    It may be started in one event loop and used from another. ``async with Server(config) as server`` starts and
    stops it.
    """

    def __init__(self, config: ServerConfig, launcher: Sequence[str] = ()) -> None:
        """``launcher`` is a command that becomes the server, such as ``nsenter``."""
        self.embedded = EmbeddedServer(config, launcher)

    @property
    def config(self) -> ServerConfig:
        """What it was made with; port 0 stays 0 here."""
        return self.embedded.config

    @property
    def url(self) -> str:
        """``nats://host:port``; the same after `restart`."""
        return self.embedded.url

    @property
    def monitor_url(self) -> str | None:
        """``http://host:port`` of the monitoring endpoints; None where they are off."""
        return self.embedded.monitor_url

    @property
    def pid(self) -> int:
        """Of the running process, or of the last one."""
        return self.embedded.pid

    async def start(self) -> Self:
        """Return when it is ready. Raises `tieline.errors.ServerFailed`."""
        await self.embedded.start()
        return self

    async def stop(self) -> None:
        """An orderly end, also of a frozen server. Stopping what has ended is fine."""
        await self.embedded.stop()

    async def restart(self) -> None:
        """Back on the same port and data: after `kill`, or as an orderly restart."""
        await self.embedded.restart()

    def kill(self) -> None:
        """SIGKILL; the process is gone and reaped when this returns."""
        self.embedded.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Every thread has stopped when this returns."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """SIGCONT: it goes on where it stopped, with what the kernel buffered meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
