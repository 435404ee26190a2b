"""One run of the nats-server program, from the fork until it is reaped."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

__all__ = ["ServerProcess"]

_GUARD = Path(__file__).with_name("guard.py")


class ServerProcess:
    """A child in a session of its own: Ctrl-C at the terminal does not reach it, so agents can drain first.

    It is reaped the moment it ends, by a thread: no zombie stays, whichever event loop runs and whether or not
    anybody waits. On Linux it gets SIGTERM when the *thread* that started it ends, killed or not; so start it from
    one that lives as long as the server should. Elsewhere a killed parent leaves the server running.
    """

    def __init__(self, command: list[str], *, log: Path, lock: int) -> None:
        """Start ``command`` with ``lock`` inherited; what it prints before it has a log of its own goes to ``log``."""
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                _guarded(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self._ended: Future[int] = Future()  # set by the reaper alone
        self._ended.set_running_or_notify_cancel()  # so that a cancelled `wait` does not cancel it for the others
        threading.Thread(target=self._reap, name=f"reaper of nats-server {self.pid}", daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._ended.result() if self._ended.done() else None

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; to a process that has ended, nothing."""
        if not self._ended.done():
            self._popen.send_signal(signum)

    async def wait(self) -> int:
        """The exit code, when it ends. May be awaited from any loop, by any number, and cancelled freely."""
        return await asyncio.wrap_future(self._ended)

    def kill(self) -> int:
        """SIGKILL, and blocks the few milliseconds until it is gone."""
        self.send(signal.SIGKILL)
        return self._ended.result()

    def _reap(self) -> None:
        self._ended.set_result(self._popen.wait())


def _guarded(command: list[str]) -> list[str]:
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *command]
