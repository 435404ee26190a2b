"""`Slots`: how many deliveries a worker may hold. `Gate`: which of them may run beside which."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Gate", "Slots"]


class Slots:
    """Free places of one worker. Taken by its pump, given back by finished work; one loop, no lock."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._given = asyncio.Event()

    async def available(self) -> int:
        """The number of free slots, as soon as there is one."""
        while not self.free:
            self._given.clear()
            await self._given.wait()
        return self.free

    def take(self) -> None:
        """One delivery begins to be held."""
        self.free -= 1

    def give(self) -> None:
        """One delivery is settled."""
        self.free += 1
        self._given.set()


class Gate:
    """Keeps messages that may kill their process apart. One for each process.

    Ordinary runs enter together. A run under suspicion enters with the number of suspects that may be inside with it;
    one that enters alone waits until everybody has left, and all others wait until it has. Suspects enter in the order
    in which they come, so that none waits for ever.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._suspects: list[int] = []  # the limits of those inside
        self._turn = asyncio.Lock()  # held by the suspect that waits to enter, and by the one that is alone
        self._changed = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    @asynccontextmanager
    async def among(self, limit: int) -> AsyncIterator[None]:
        """Beside ordinary runs and at most ``limit`` suspects, this one included; alone where that is 1."""
        if limit <= 1:
            async with self.alone():
                yield
            return
        async with self._turn:  # so nobody is alone inside
            while len(self._suspects) >= min([limit, *self._suspects]):
                await self._change()
            self.enter()
            self._suspects.append(limit)
        try:
            yield
        finally:
            self._suspects.remove(limit)
            self.leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nothing else runs inside."""
        async with self._turn:
            self._open.clear()
            try:
                while self._inside:
                    await self._change()
                yield
            finally:
                self._open.set()

    @property
    def shut(self) -> bool:
        """Whether a run is alone inside, or waits to be."""
        return not self._open.is_set()

    async def opened(self) -> None:
        """Wait until nothing runs alone."""
        while self.shut:
            await self._open.wait()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Beside others, as soon as nothing runs alone."""
        await self.opened()
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Run beside others; not while `shut`. Pair with `leave`."""
        self._inside += 1

    def leave(self) -> None:
        """This run is over."""
        self._inside -= 1
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
