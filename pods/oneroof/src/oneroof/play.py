"""Playing the scripted calls: several callers at a time, each waiting for its answers as people do."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from oneroof.line import Call, Exchange
from oneroof.script import ScriptedCall

__all__ = ["Player", "Progress"]

_YES = "yes"  # what a caller answers when the office reads back what it understood
_PATIENCE = 45.0  # seconds that a caller waits for one turn before the call counts as stuck


@dataclass(slots=True)
class Progress:
    """One call as the live view shows it. Written by the task that plays it."""

    script: ScriptedCall
    call_id: str
    state: str = "waiting"  # waiting, talking, done, stuck, wrong
    turn: int = 0
    said: str = ""
    heard: str = ""
    answered: list[str] = field(default_factory=list)


class Player:
    """Plays calls and keeps their progress."""

    def __init__(self, exchange: Exchange, calls: Sequence[ScriptedCall], lines: int = 6) -> None:
        run = os.urandom(3).hex()  # a demo on the books of an earlier one has calls of its own
        self.calls = [Progress(call, f"{call.id}-{run}") for call in calls]
        self._exchange = exchange
        self._lines = asyncio.Semaphore(lines)

    @property
    def over(self) -> int:
        """How many calls have ended."""
        return sum(call.state in ("done", "stuck", "wrong") for call in self.calls)

    @property
    def failed(self) -> list[Progress]:
        """The calls that got stuck, or were not answered as they should be."""
        return [call for call in self.calls if call.state in ("stuck", "wrong")]

    async def play(self) -> None:
        """Play them all; returns when each is over."""
        async with asyncio.TaskGroup() as group:
            for call in self.calls:
                group.create_task(self._played(call))

    async def _played(self, progress: Progress) -> None:
        async with self._lines, self._exchange.call(progress.call_id) as call:
            progress.state = "talking"
            try:
                for text in progress.script.turns:
                    progress.turn += 1
                    confirms = await self._said(call, progress, text)
                    while confirms and not call.hung_up:
                        confirms = await self._said(call, progress, _YES)
                    if call.hung_up:
                        break
            except TimeoutError:
                progress.state = "stuck"
                return
            expected = sorted(progress.script.expects)
            progress.state = "done" if sorted(progress.answered) == expected else "wrong"

    async def _said(self, call: Call, progress: Progress, text: str) -> bool:
        """Say one line and hear the office out. True if the office read back what it understood."""
        progress.said, confirms = text, False
        async with asyncio.timeout(_PATIENCE):
            async for line in call.say(text):
                progress.heard = line.text
                confirms = confirms or line.confirms
                if line.answers is not None:
                    progress.answered.append(line.answers)
        return confirms
