"""How large streams may become: what the pod expects, within a share of what its account may store.

Limits that Tieline chose only grow. A stream that holds more than is expected today keeps its limit.
"""

import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.stream import Stream
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.infos import stream_infos

__all__ = ["SHARE", "account_storage", "fitted", "with_room"]

log = logging.getLogger("tieline.topology")

SHARE = 0.8
"""Of what the account may store, at most: the rest is for restores and for streams that are not the pod's."""

_SMALLER = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)  # shares of what is expected, tried where there is no room
_NO_ROOM = frozenset({10002, 10047, 10122})  # in the account, on the server's disk, for one stream
_LEAST = 1024 * 1024


async def with_room[T](connection: Connection, pod: Pod, attempt: Callable[[float], Awaitable[T]]) -> T:
    """``attempt`` with the share of the expected sizes for which the server has room: all of it, or less and less.

    Raises what the last attempt raises.
    """
    for smaller, next_smaller in itertools.pairwise(_SMALLER):
        try:
            return await attempt(smaller)
        except NotApplied as refused:
            if not _is_no_room(refused):
                raise
            log.warning("the server has no room for the sizes that the pod expects, trying less: %s", refused)
        await _lower_unused(connection, pod, next_smaller)
    return await attempt(_SMALLER[-1])


async def _lower_unused(connection: Connection, pod: Pod, smaller: float) -> None:
    """Streams that were just made and never held anything took the room of those that are still to be made."""
    for name, info in (await stream_infos(connection)).items():
        limit = int((pod.streams[name].max_bytes if name in pod.sized else None) or 0) * smaller
        if info["state"]["last_seq"] == 0 and limit and info["config"].get("max_bytes", -1) > limit:
            await connection.api(f"STREAM.UPDATE.{name}", info["config"] | {"max_bytes": max(_LEAST, int(limit))})


async def fitted(connection: Connection, pod: Pod, smaller: float = 1.0) -> dict[str, Stream]:
    """The pod's streams with the sizes that they are to have on this server. Explicit sizes stay as they are."""
    try:
        infos = await stream_infos(connection)
        storage = account_storage(await connection.api("INFO"))
    except (ApiError, NoAnswer):
        infos, storage = {}, None  # whoever asks next gets the same answer, and says so
    bounded = {name: stream.max_bytes for name, stream in pod.streams.items() if stream.max_bytes is not None}
    chosen = {name: size * smaller for name, size in bounded.items() if name in pod.sized}
    if storage is not None:
        copies = 3 if connection.server.get("cluster") else 1
        left = storage * SHARE / copies - sum(size for name, size in bounded.items() if name not in chosen)
        part = min(1.0, max(0.0, left) / max(1.0, sum(chosen.values())))
        chosen = {name: size * part for name, size in chosen.items()}
    chosen = {name: max(size, min(_LEAST, bounded[name])) for name, size in chosen.items()}
    return {
        name: stream if name not in chosen else replace(stream, max_bytes=_grown(chosen[name], infos.get(name)))
        for name, stream in pod.streams.items()
    }


def _grown(size: float, info: Mapping[str, Any] | None) -> int | None:
    """At least what the stream may hold today."""
    if info is None:
        return int(size)
    today = int(info["config"].get("max_bytes", -1))
    return None if today <= 0 else max(int(size), today)


def account_storage(told: Mapping[str, Any]) -> int | None:
    """The bytes that an account may store on disk, copies counted, as ``$JS.API.INFO`` says; None: no limit."""
    limits = [told.get("limits") or {}, *((tier.get("limits") or {}) for tier in (told.get("tiers") or {}).values())]
    found = [int(limit.get("max_storage", -1)) for limit in limits]
    return min((limit for limit in found if limit > 0), default=None)


def _is_no_room(refused: NotApplied) -> bool:
    """Whether the server refused a stream because it has no room for its limits."""
    return isinstance(refused.__cause__, ApiError) and refused.__cause__.err_code in _NO_ROOM
