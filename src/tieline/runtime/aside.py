"""What this process put aside a moment ago, for one more look: what should bring it back may have been missed.

In a cluster a read may be answered by a replica that lags, so that an answer seems not to be there yet; and a message
may be put aside in the moment its conversation is cancelled, by a process that lost the word of it. Nobody else would
look again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tieline.errors import TielineError, Unreachable
from tieline.wire.journal import Journal

__all__ = ["Aside", "Parked", "cancelled_why", "woken_why"]

log = logging.getLogger("tieline.aside")

_AGE = 6.0  # seconds until the look: by then every process has looked for cancellations
_EVERY = 2.0
_LONGEST = 60.0  # seconds in which a look that fails is tried again


@dataclass(frozen=True, slots=True)
class Parked:
    """A message that was put aside. ``answers`` are the records it waits for, ``over`` says that it has come to its
    end since, and ``back`` brings it back, for a reason that makes it happen once."""

    agent: str
    key: str  # of the message, as the journal calls it
    number: int  # of the attempt that put it aside
    conversation: str  # its token
    answers: tuple[str, ...]
    over: str
    back: Callable[[str], Awaitable[None]]


def woken_why(step: str) -> str:
    """The reason to bring a message back when that answer is there."""
    return f"wake {step}"


def cancelled_why(agent: str, key: str) -> str:
    """The reason to bring a message back when its conversation is cancelled."""
    return f"cancelled {agent} {key}"


class Aside:
    """The messages that one process put aside lately."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lately: deque[tuple[float, Parked]] = deque()

    def put(self, parked: Parked) -> None:
        """It is aside as of now: its records are written."""
        self._lately.append((asyncio.get_running_loop().time(), parked))

    async def watch(self, is_cancelled: Callable[[str], bool]) -> None:
        """Look for ever. ``is_cancelled`` knows of a conversation by its token."""
        while True:
            await asyncio.sleep(_EVERY)
            now = asyncio.get_running_loop().time()
            while self._lately and self._lately[0][0] < now - _LONGEST:
                self._lately.popleft()
            due = [parked for since, parked in self._lately if since <= now - _AGE]
            try:
                await self._look(due, is_cancelled)
            except Unreachable:
                return  # the connection says so to whoever runs this process
            except TielineError as error:
                log.info("%d parked messages are looked at again later: %s", len(due), error)
            else:
                for _ in due:
                    self._lately.popleft()

    async def _look(self, due: list[Parked], is_cancelled: Callable[[str], bool]) -> None:
        found = await self._journal.glance([at for parked in due for at in (parked.over, *parked.answers)])
        for parked in due:
            if parked.over in found:
                continue
            answered = [woken_why(answer) for answer in parked.answers if answer in found]
            cancelled = [cancelled_why(parked.agent, parked.key)] if is_cancelled(parked.conversation) else []
            for why in answered + cancelled:
                # Under an id of its own: what came for the same reason while the message still ran was superseded.
                await parked.back(f"{why} {parked.number}")
