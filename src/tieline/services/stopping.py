"""A service's work, until it is asked to stop or has lost its server."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tieline.wire.connection import Connection

__all__ = ["until_stopped"]


async def until_stopped(work: Coroutine[Any, Any, None], connection: Connection, stop: asyncio.Event) -> None:
    """Do ``work`` until ``stop`` is set; then it is cancelled. What it raises passes, and `Unreachable` when lost."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        ends: list[asyncio.Future[Any]] = [working, stopping, connection.lost]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if connection.lost.done():
            connection.lost.result()
        if working.done():
            working.result()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait((working, stopping))
