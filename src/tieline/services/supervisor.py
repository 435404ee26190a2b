"""`Supervisor`: keeps the processes of a pod alive, and says what becomes of them."""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tieline.errors import ProcessFailed
from tieline.pod import Pod
from tieline.runtime.host import names_of
from tieline.services.child import Child
from tieline.services.process import AUDIT, GATEWAY, METRICS
from tieline.wire.topology import consumers_of

__all__ = ["Event", "Exited", "Logged", "Process", "Restarted", "Supervisor", "processes_of"]

_FIRST_WAIT = 0.2  # seconds before a dead child is started again; doubles with each end
_LONGEST_WAIT = 10.0
_SETTLED = 30.0  # a child that lived so long starts again at the first wait
_STILLBORN = 3  # ends before it was ever ready, after which waiting for it is pointless
_BEYOND_DRAIN = 15.0  # seconds for the last facts and the connection, after the drain limit
_KEPT_EVENTS = 10_000  # for a reader that is slow; beyond it lines are dropped, never ends and restarts
_LAST_LINES = 10


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a pod. ``grace`` is how many seconds it may take to drain before it is killed."""

    name: str
    consumes: tuple[str, ...]
    grace: float
    credentials: Path | None = None
    """What it connects with; None: what the environment says."""


@dataclass(frozen=True, slots=True)
class Exited:
    """A process ended: ``code`` is its exit code, or minus a signal. ``again_in`` seconds until its restart, if any."""

    name: str
    pid: int
    code: int
    again_in: float | None


@dataclass(frozen=True, slots=True)
class Restarted:
    """A process that had ended is ready again, as ``pid``; ``restarts`` counts them."""

    name: str
    pid: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of a process's stdout or stderr."""

    name: str
    text: str


type Event = Exited | Restarted | Logged


def processes_of(pod: Pod, *, metrics: bool = False) -> list[Process]:
    """The processes that make a whole pod: one an agent, one for all its tools, the audit, the gateway
    where guests may send something; ``metrics`` if asked."""
    drains = {name: agent.limits.drain for name, agent in pod.agents.items()}
    drains["tools"] = max((tool.limits.drain for tool in pod.tools.values()), default=0.0)
    filters: dict[str, tuple[str, ...]] = {}
    for consumer in consumers_of(pod):
        if consumer.kind != "main":
            continue  # it takes records, or what was taken before
        agent = pod.agent_on_bus(consumer.owner)
        name = "tools" if agent is None else agent.name
        filters[name] = filters.get(name, ()) + consumer.filters
    named = [Process(name, filters[name], drains[name] + _BEYOND_DRAIN) for name in names_of(pod)]
    services = [AUDIT, *([METRICS] if metrics else []), *([GATEWAY] if pod.ingress else [])]
    return [*named, *(Process(name, (), _BEYOND_DRAIN) for name in services)]


@dataclass(slots=True)
class _Kept:
    """A process under supervision. Written by its keeper's task alone, but for ``away``."""

    process: Process
    child: Child
    ends: int = 0
    away: float = 0.0  # seconds that it shall stay away for after its next end
    was_ready: bool = False
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


class Supervisor:
    """Runs processes of the pod that ``reference`` names, each restarted with a growing wait when it ends.

    ``servers`` are given to the processes; without them they go by ``TIELINE_SERVERS``. The processes end when the
    *thread* that started them does, so start them from one that stays. Use from one event loop.
    ``async with`` stops everything at its end.
    """

    def __init__(self, reference: str, servers: tuple[str, ...] = ()) -> None:
        self._reference = reference
        self._servers = servers
        self._kept: dict[str, _Kept] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._listeners: list[asyncio.Queue[Event | None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, processes: Iterable[Process]) -> None:
        """Start them; returns as soon as each has a pid. See `ready`."""
        for process in processes:
            kept = _Kept(process, await self._spawned(process))
            self._kept[process.name] = kept
            self._keepers.append(asyncio.create_task(self._keep(kept), name=f"keeper of {process.name}"))

    async def ready(self, within: float = 60.0) -> None:
        """Return once every process has been ready: connected, its consumers found, pulling.

        Raises `ProcessFailed` with its last words when one ends again and again before that, or the time is over.
        """
        try:
            async with asyncio.timeout(within):
                while waiting := [kept for kept in self._kept.values() if not kept.was_ready]:
                    for kept in waiting:
                        if kept.ends >= _STILLBORN:
                            raise ProcessFailed(_why(kept, f"ended {kept.ends} times before it was ready"))
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            slow = next(kept for kept in self._kept.values() if not kept.was_ready)
            raise ProcessFailed(_why(slow, f"was not ready within {within:g} s")) from None

    def events(self) -> AsyncIterator[Event]:
        """What happens from now on, until everything has stopped. Each call has a stream of its own."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners.append(queue)
        return self._told(queue)

    def pid(self, name: str) -> int:
        """Of the process, or of its last run. `KeyError` for a name that was not started."""
        return self._kept[name].child.pid

    def kill(self, name: str, signum: int = signal.SIGKILL, away: float = 0.0) -> None:
        """Send a signal to one process; it is restarted when it ends of it, ``away`` seconds later at the earliest.

        `KeyError` for a name not started.
        """
        self._kept[name].away = away
        self._kept[name].child.send(signum)

    def kill_all(self) -> None:
        """SIGKILL to all. For a `stop` that shall not wait any more."""
        for kept in self._kept.values():
            kept.child.send(signal.SIGKILL)

    async def stop(self) -> None:
        """End all with SIGTERM, so that they drain; with SIGKILL where one outlasts its grace. Safe to call twice."""
        self._stopping.set()
        for kept in self._kept.values():
            kept.child.send(signal.SIGTERM)
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=max(kept.process.grace for kept in self._kept.values()))
            self.kill_all()
            await asyncio.wait(self._keepers)
        for queue in self._listeners:
            queue.put_nowait(None)
        self._listeners.clear()

    async def _spawned(self, process: Process) -> Child:
        servers = [part for url in self._servers for part in ("--server", url)]
        if process.credentials is not None:
            servers += ["--credentials", str(process.credentials.absolute())]
        return await Child.start([*servers, self._reference, process.name])

    async def _keep(self, kept: _Kept) -> None:
        name, wait = kept.process.name, _FIRST_WAIT
        while True:
            child = kept.child
            code = await child.follow(lambda text: self._said(kept, text), lambda: self._is_ready(kept))
            kept.ends += 1
            self._changed.set()
            wait = max(_FIRST_WAIT if child.lived >= _SETTLED else wait, kept.away)
            kept.away = 0.0
            stopping = self._stopping.is_set()
            self._tell(Exited(name, child.pid, code, None if stopping else wait))
            if stopping or await self._stops_within(wait):
                return
            wait = min(wait * 2, _LONGEST_WAIT)
            while (again := await self._respawned(kept)) is None:
                if await self._stops_within(_LONGEST_WAIT):
                    return
            kept.child = again
            if self._stopping.is_set():  # stopped while it was being started: it missed the signal
                kept.child.send(signal.SIGTERM)

    async def _respawned(self, kept: _Kept) -> Child | None:
        try:
            return await self._spawned(kept.process)
        except OSError as error:  # the machine is short of processes, files or memory; that may pass
            self._said(kept, f"cannot be started: {error}")
            return None

    async def _stops_within(self, wait: float) -> bool:
        try:
            async with asyncio.timeout(wait):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    def _said(self, kept: _Kept, text: str) -> None:
        kept.last.append(text)
        self._tell(Logged(kept.process.name, text))

    def _is_ready(self, kept: _Kept) -> None:
        kept.was_ready = True
        self._changed.set()
        if kept.ends:
            self._tell(Restarted(kept.process.name, kept.child.pid, kept.ends))

    def _tell(self, event: Event) -> None:
        for queue in self._listeners:
            if not isinstance(event, Logged) or queue.qsize() < _KEPT_EVENTS:
                queue.put_nowait(event)

    async def _told(self, queue: "asyncio.Queue[Event | None]") -> AsyncIterator[Event]:
        while (event := await queue.get()) is not None:
            yield event


def _why(kept: _Kept, what: str) -> str:
    said = "\n".join(f"  {line}" for line in kept.last) or "  nothing"
    return f"process {kept.process.name} {what}; the last it said:\n{said}"
