"""The tasks of one run of a handler: `asyncio.gather` over steps makes several. They wait and end together."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tieline.codec import digest
from tieline.outcomes import Parking, Wait
from tieline.wire.journal import Record

__all__ = ["Branches"]

_GRACE = 0.05  # seconds after a task's end or step in which the handler may begin something else

# The task that set it, and the name of its branch. A task made by another one inherits a copy, and sees that it is new.
_branch: ContextVar[tuple[asyncio.Task[Any] | None, str]] = ContextVar("tieline-branch", default=(None, ""))


class Branches:
    """Who works on one message, and whether all of them wait. One run's own.

    The handler's own task is the trunk. Every other task that uses the conversation is a branch, named by the first
    thing it does: the order in which branches begin is the same in every run, the order in which they go on is not.
    """

    __slots__ = ("_busy", "_seen", "_trunk", "_waiting", "_working", "parked", "waits")

    def __init__(self, trunk: asyncio.Task[Any] | None) -> None:
        self._trunk = trunk
        self._seen: Counter[str] = Counter()
        self._busy = 0  # steps that the trunk is in
        self._working: set[asyncio.Task[Any]] = set()  # branches; each leaves when it ends
        self._waiting: dict[asyncio.Task[Any] | None, asyncio.Future[None]] = {}  # tasks that would park
        self.parked = False
        self.waits: dict[str, Wait] = {}  # what waiting tasks wait for, by the step's subject

    def use(self, name: str) -> str:
        """Which use of ``name`` in this run this is: a number, and in a branch its name. A part of a token."""
        task = asyncio.current_task()
        if task is self._trunk or task is None:
            self._seen[name] += 1
            return str(self._seen[name])
        begun_by, branch = _branch.get()
        self._join(task)
        self._seen[branch + name] += 1
        number = str(self._seen[branch + name])
        if begun_by is not task:
            _branch.set((task, digest(branch, name, number)[:11]))
        return f"{number}_{branch}" if branch else number

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This task works, so that no other one parks. Raises `Parking` when the run has parked already: a handler that
        caught it may not go on."""
        if self.parked:
            raise Parking
        if asyncio.current_task() is not self._trunk:
            yield  # a branch works until it ends
            return
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._look_soon()

    async def stand_by(self, answer: asyncio.Future[Record] | None, seconds: float | None) -> None:
        """Return when ``answer`` is there or ``seconds`` are over; raise `Parking` once all branches wait like this."""
        task = asyncio.current_task()
        parking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[task] = parking
        self._look()
        awaited: list[asyncio.Future[Any]] = [parking] if answer is None else [parking, answer]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[task]
        if parking.done():
            raise Parking

    @property
    def tasks(self) -> list[asyncio.Task[Any] | None]:
        """The handler's task and those of its branches that have not ended."""
        return [self._trunk, *self._working]

    @property
    def working(self) -> bool:
        """Whether a branch has not ended yet."""
        return bool(self._working)

    async def finish(self) -> None:
        """Return when every branch has ended; raise what one of them raised. `Parking` if all that is left waits."""
        while self._working:
            done, _ = await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._working.discard(task)
                if not task.cancelled() and (error := task.exception()) is not None:
                    raise error

    def end(self) -> None:
        """Cancel what still works for a run that did not come to its end: the next run does it again."""
        for task in self._working:
            task.cancel()

    def _join(self, task: asyncio.Task[Any]) -> None:
        if task not in self._working:
            self._working.add(task)
            task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._waiting:  # who awaited this one may go on, and cancel what still waits
            asyncio.get_running_loop().call_later(_GRACE, self._look)

    def _look(self) -> None:
        """Park once nobody works."""
        busy = self._busy and self._trunk not in self._waiting
        if self._waiting and not busy and not self._working - self._waiting.keys():
            self.parked = True
            for parking in self._waiting.values():
                if not parking.done():
                    parking.set_result(None)
