"""The telephone line: brings a caller's turns to the bus and what the office says back to the caller.

It stands where a voice gateway stands in a real office, and keeps what one keeps: the transcript of each call.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from oneroof.messages import CallerSaid, Spoken
from oneroof.understanding import Line
from tieline import Bus

__all__ = ["Call", "Exchange"]


class Call:
    """One call in progress. One task talks; what is spoken arrives meanwhile."""

    def __init__(self, bus: Bus, call_id: str) -> None:
        self.id = call_id
        self.began = datetime.now(UTC)
        self.transcript: list[Line] = []
        self.hung_up = False
        self._bus = bus
        self._turn = 0
        self._spoken: asyncio.Queue[Spoken] = asyncio.Queue()
        self._heard: set[tuple[int | None, str | None, str]] = set()

    def spoken(self, line: Spoken) -> None:
        """The office speaks. The same line delivered twice is heard once."""
        if (key := (line.turn, line.answers, line.text)) not in self._heard:
            self._heard.add(key)
            self._spoken.put_nowait(line)

    async def say(self, text: str) -> AsyncIterator[Spoken]:
        """Say ``text`` and hear everything the office says to it: its reply, then the answers it promised."""
        self._turn += 1
        self.transcript.append(Line(who="caller", text=text))
        said = CallerSaid(call_id=self.id, turn=self._turn, began=self.began, transcript=self.transcript)
        await self._bus.publish(said, id=f"{self.id}-{self._turn}")
        promised: int | None = None  # answers still to come; known with the office's own reply, which may come second
        answered = 0
        while promised is None or answered < promised:
            line = await self._spoken.get()
            self.transcript.append(Line(who="office", text=line.text, offers=list(line.offers)))
            self.hung_up = self.hung_up or line.hang_up
            if line.turn == self._turn and line.answers is None:
                promised = line.awaits
            elif line.turn == self._turn:
                answered += 1
            yield line


class Exchange:
    """All calls of one line, over one feed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._calls: dict[str, Call] = {}

    @asynccontextmanager
    async def call(self, call_id: str) -> AsyncIterator[Call]:
        """A call, hung up at the end of the block."""
        call = self._calls[call_id] = Call(self._bus, call_id)
        try:
            yield call
        finally:
            del self._calls[call_id]

    async def listen(self) -> None:
        """Bring what the office says to the calls it is meant for, for ever."""
        async for line in self._bus.messages(Spoken, start=datetime.now(UTC)):
            if (call := self._calls.get(line.call_id or "")) is not None:
                call.spoken(line)
