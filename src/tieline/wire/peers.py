"""Asking servers that may have just found each other."""

import asyncio
import time
from typing import Any

from tieline.wire.connection import ApiError, Connection, NoAnswer

__all__ = ["ask"]

_NO_PEERS = 10005  # a cluster's leader knows others as offline until they have spoken
_PATIENCE = 10.0  # seconds
_PAUSE = 0.25


async def ask(connection: Connection, endpoint: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """`Connection.api`, with patience for a cluster that has no leader yet, or fewer peers than we want replicas.

    For what may be asked twice: an answer may have been lost.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return await connection.api(endpoint, body)
        except ApiError as error:
            if error.err_code != _NO_PEERS or time.monotonic() > until:
                raise
        except NoAnswer:
            if not connection.server.get("cluster") or time.monotonic() > until:
                raise
        await asyncio.sleep(_PAUSE)
