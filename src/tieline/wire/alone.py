"""Leaving a server that is cut off from the rest of its cluster: it keeps its clients, and can do nothing for them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["Alone"]

log = logging.getLogger("tieline.connection")

_PATIENCE = 8.0  # seconds without any answer, after which another server is tried; elections take less


class Alone:
    """Judges by answers: one says that the server is not alone, and the lack of any for long that it may be.

    Nothing is lost by leaving one that is not: what was asked and not answered is asked again, as after any reconnect.
    """

    def __init__(self, leave: Callable[[], Awaitable[None]] | None) -> None:
        """``leave`` connects to another server; None where there is none."""
        self._leave = leave
        self._since: float | None = None  # of the first question without an answer, since the last answer
        self._leaving: asyncio.Task[None] | None = None

    def answered(self, cluster: Mapping[str, Any] | None = None) -> None:
        """Somebody who is not this process answered. ``cluster`` is what an info says of the leader and the replicas:
        a server that is cut off answers infos too, for as long as it is, and says there that it hears of nobody."""
        replicas = cluster.get("replicas", ()) if cluster else ()
        if not replicas or (cluster and cluster.get("leader") and any(replica["current"] for replica in replicas)):
            self._since = None

    def unanswered(self) -> None:
        """Nobody did, or the server said that it cannot for now."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > _PATIENCE and self._leave is not None and self._leaving is None:
            self._since = now
            log.warning("no answer for %g s: trying another server", _PATIENCE)
            self._leaving = asyncio.ensure_future(self._leave())
            self._leaving.add_done_callback(self._left)

    def _left(self, leaving: asyncio.Task[None]) -> None:
        self._leaving = None
        if not leaving.cancelled() and (error := leaving.exception()) is not None:
            log.info("the connection is closing already: %s", error)
