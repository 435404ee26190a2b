"""The nats-server as a child of this process."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tieline.errors import ServerFailed
from tieline.server.binary import find_binary
from tieline.server.config import ServerConfig, render
from tieline.server.diagnosis import explain, last_lines, new_text
from tieline.server.lock import note_pid, take_lock
from tieline.server.process import ServerProcess
from tieline.server.ready import Ports, read_ports, recovered_streams, streams_on_disk

__all__ = ["EmbeddedServer"]

_LOOK = 0.005  # seconds between looks at the ports file while starting
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class EmbeddedServer:
    """One nats-server on one data folder: started, stopped and restarted from here. POSIX only.

    ``async with EmbeddedServer(config) as server`` starts it and stops it at the end. Not for two tasks at once.
    """

    def __init__(self, config: ServerConfig, launcher: Sequence[str] = ()) -> None:
        """``launcher`` is a command that becomes the one that follows it, such as ``nsenter``."""
        self._launcher = tuple(launcher)
        self.config = replace(config, data=config.data.absolute())
        self._process: ServerProcess | None = None  # the last run, ended or not
        self._ports: Ports | None = None  # of the first start; later ones keep them

    @property
    def url(self) -> str:
        """Where clients connect: ``nats://127.0.0.1:4222``, or ``tls://…``. The same after a restart."""
        return f"{'nats' if self.config.tls is None else 'tls'}://{self._address}:{self._known_ports.client}"

    @property
    def urls(self) -> tuple[str, ...]:
        """`url` alone: as a cluster has it."""
        return (self.url,)

    @property
    def servers(self) -> tuple["EmbeddedServer"]:
        """This server alone: as a cluster has them."""
        return (self,)

    @property
    def monitor_url(self) -> str | None:
        """The root of the monitoring endpoints (``/varz``, ``/healthz`` …); None where they are off."""
        port = self._known_ports.monitor
        return None if port is None else f"http://{self._address}:{port}"

    @property
    def pid(self) -> int:
        """Of the running server, or of the last one that ran."""
        return self._run.pid

    @property
    def running(self) -> bool:
        """False before the first start and from the moment the process has ended."""
        return self._process is not None and self._process.exit_code is None

    @property
    def log(self) -> Path:
        """The server's log; it rotates at 32 MiB and keeps three."""
        return self.config.data / "nats.log"

    async def start(self, within: float = 60.0) -> Self:
        """Return once the server listens and JetStream has recovered every stream of the folder and answers.

        Raises `ServerFailed` naming the cause, with the end of the log, when that does not come about in ``within``
        seconds. The limit is for recovery, which reads the store; an empty one takes well under a second. Failed or
        cancelled, no process stays behind.
        """
        if self.running:
            raise ServerFailed(f"nats-server already runs as pid {self.pid} at {self.url}; stop it first")
        since = await self._launch()
        try:
            async with asyncio.timeout(within):
                await self._become_ready(since)
        except TimeoutError:
            self._run.kill()
            raise self._failure(f"it was not ready after {within:g} s; a large store may need more", since) from None
        except BaseException:
            self._run.kill()
            raise
        return self

    async def stop(self, within: float = 10.0) -> int | None:
        """End it with SIGTERM, after ``within`` seconds with SIGKILL; the exit code, or None if it never ran.

        Also ends a frozen one. Stopping what has ended is fine. Cancelled, it kills at once.
        """
        if self._process is None:
            return None
        self._process.send(signal.SIGTERM)
        self._process.send(signal.SIGCONT)  # a stopped process takes no other signal but SIGKILL
        try:
            async with asyncio.timeout(within):
                return await self._process.wait()
        except TimeoutError:
            self._process.send(signal.SIGKILL)
            return await self._process.wait()
        except BaseException:
            self._process.kill()
            raise

    async def restart(self) -> None:
        """Stop, if it runs, and start again on the same folder and the same ports."""
        await self.stop()
        await self.start()

    def reload(self) -> None:
        """Have it read its configuration and certificates again (SIGHUP): new connections get the new ones.

        What the server cannot change while it runs it says in its log, and keeps.
        """
        self._run.send(signal.SIGHUP)

    async def wait(self) -> int:
        """The exit code, when the server ends: by `stop`, by a crash, by anyone's signal (then minus its number)."""
        return await self._run.wait()

    def kill(self) -> int:
        """SIGKILL, and blocks the few milliseconds until the process is gone."""
        return self._run.kill()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _launch(self) -> int:
        """Start the process under the folder's lock; the size of the log before."""
        data = self.config.data
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = await take_lock(data)
        except OSError as error:
            raise ServerFailed(
                f"the data folder {data} is not writable ({error.strerror}); give another, or put its permissions right"
            ) from error
        try:
            since = self._prepare()
            command = [*self._launcher, str(find_binary()), "-c", str(data / "nats.conf")]
            self._process = ServerProcess(command, log=self.log, lock=lock)
            note_pid(lock, self._process.pid)
        except OSError as error:
            raise ServerFailed(f"nats-server could not be started on {data}: {error}") from error
        finally:
            os.close(lock)  # the server holds its own copy
        return since

    def _prepare(self) -> int:
        for stale in self.config.data.glob("*.ports"):  # a killed server's; pids come round again
            stale.unlink()
        config = self.config
        if self._ports is not None:
            config = replace(config, port=self._ports.client, monitor_port=self._ports.monitor)
        (self.config.data / "nats.conf").write_text(render(config))
        return self.log.stat().st_size if self.log.exists() else 0

    async def _become_ready(self, since: int) -> None:
        run, data = self._run, self.config.data
        expected = streams_on_disk(data)
        while (ports := read_ports(data, run.pid)) is None:
            self._check_alive(since)
            await asyncio.sleep(_LOOK)
        try:
            recovered = await recovered_streams(self._host, ports.client, self.config.tls)
        except OSError as error:
            self._check_alive(since)
            raise self._failure(str(error), since) from error
        # While it starts, the server removes what a kill left of a stream that was being deleted.
        expected = min(expected, streams_on_disk(data))
        if (
            recovered is not None and recovered < expected and self.config.routes is None
        ):  # in a cluster the others have what is missing
            # The server goes on without a stream it cannot read; the next `apply` would make an empty one in its place.
            raise self._failure(
                f"{expected - recovered} of {expected} streams under {data} could not be recovered; restore the folder "
                "from a backup, or move the streams named below away to start without them",
                since,
            )
        self._ports = ports

    def _check_alive(self, since: int) -> None:
        if (code := self._run.exit_code) is not None:
            text = new_text(self.log, since)
            raise self._failure(f"it ended with exit code {code}: {explain(text, data=self.config.data)}", since)

    def _failure(self, cause: str, since: int) -> ServerFailed:
        return ServerFailed(
            f"nats-server did not start: {cause}\n{self.log} ends with\n{last_lines(new_text(self.log, since))}"
        )

    @property
    def _run(self) -> ServerProcess:
        if self._process is None:
            raise ServerFailed("nats-server was not started; call start() first")
        return self._process

    @property
    def _known_ports(self) -> Ports:
        if self._ports is None:
            raise ServerFailed("nats-server has no port yet; call start() first")
        return self._ports

    @property
    def _address(self) -> str:
        return f"[{self._host}]" if ":" in self._host else self._host

    @property
    def _host(self) -> str:
        return _WILDCARDS.get(self.config.host, self.config.host)
