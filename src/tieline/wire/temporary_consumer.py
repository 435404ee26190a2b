"""`TemporaryConsumer`: a consumer that one reader makes for itself, and that does not outlive the reader.

The server deletes a temporary consumer that nobody reads after its inactive threshold. That is the last resort, for a
reader that was killed: everybody else discards the consumer at once.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

from tieline.errors import Unreachable
from tieline.wire.connection import ApiError, Connection, NoAnswer

__all__ = ["TemporaryConsumer"]

INACTIVE_THRESHOLD: Final = 60  # seconds after which the server deletes a consumer whose reader was killed
_PAUSE = 0.5  # seconds between two tries
_STILL_CREATED = 2.0  # seconds in which a consumer may yet come to be, if its creation was not answered
_NANOSECONDS = 1_000_000_000
_AT_ONCE = 1_000_000  # nanoseconds; the server adds a random 0.1 to 1 s


class TemporaryConsumer:
    """One consumer, its name unique. `create` makes it, `discard` removes it; closing the connection discards it too.

    To discard is to shorten the inactive threshold, so that the server deletes the consumer within about a second.
    Not: to delete it. The server cannot limit the right to delete consumers to some of them, so who may only read does
    not have it.
    """

    def __init__(self, connection: Connection, stream: str, config: Mapping[str, Any]) -> None:
        self.stream = stream
        self.name = f"feed-{os.urandom(6).hex()}"
        self._connection = connection
        self._config = {**config, "name": self.name, "inactive_threshold": INACTIVE_THRESHOLD * _NANOSECONDS}
        self._answered = False  # the server said that it created the consumer
        self._removal: asyncio.Task[None] | None = None

    async def create(self) -> dict[str, Any]:
        """Create the consumer; returns what the server says about it. Raises like `Connection.api`, and may be tried
        again: the name stays the same."""
        if self.removed not in self._connection.before_close:
            self._connection.before_close.append(self.removed)
        body = {"stream_name": self.stream, "config": self._config}
        answer = await self._connection.api(f"CONSUMER.CREATE.{self.stream}.{self.name}", body)
        self._answered = True
        return answer

    def discard(self) -> None:
        """Remove the consumer, in the background. Never waits and never raises, so it fits into any ``finally``."""
        if self._removal is None:
            self._removal = asyncio.create_task(self._remove(), name="tieline-discard-consumer")
            self._removal.add_done_callback(self._forget)

    async def removed(self) -> None:
        """Return when the consumer is removed, or cannot be."""
        self.discard()
        if self._removal is not None:
            await asyncio.shield(self._removal)

    def _forget(self, _: asyncio.Task[None]) -> None:
        if self.removed in self._connection.before_close:
            self._connection.before_close.remove(self.removed)

    async def _remove(self) -> None:
        shortened = {**self._config, "inactive_threshold": _AT_ONCE}
        body = {"stream_name": self.stream, "config": shortened, "action": "update"}
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < INACTIVE_THRESHOLD:  # after that the server has deleted it
            try:
                await self._connection.api(f"CONSUMER.CREATE.{self.stream}.{self.name}", body)
                return
            except NoAnswer:
                await asyncio.sleep(_PAUSE)
            except ApiError:
                # It is gone. Or the creation, whose answer nobody awaited, is still being worked on: the server handles
                # requests side by side.
                if self._answered or loop.time() - began > _STILL_CREATED:
                    return
                await asyncio.sleep(_PAUSE)
            except Unreachable:
                return
