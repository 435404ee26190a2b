"""Removes delayed messages from SCHEDULE once they have been delivered to their streams.

When a delay ends, the server stores the message in SCHEDULE on ``due.<subject>``, and the stream of that subject copies
it from there (NATS stream sourcing). Without a TTL the original stays in SCHEDULE for ever, with its payload.

The server says of each source up to which sequence it has copied (``seq`` in STREAM.INFO, since 2.15). It raises that
number only after the copy is stored: a full stream tries again, and a restart keeps it. So everything on the source's
subjects up to that number can go. Safe to kill at any point, and to run in several processes at once.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tieline import subjects
from tieline.records.reading import read_integer
from tieline.runtime.bus import Bus
from tieline.services.stopping import until_stopped
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.topology import stream_infos

__all__ = ["DueMessages", "run"]

log = logging.getLogger("tieline.due_messages")

_SCHEDULE = "SCHEDULE"
_EVERY = 30.0  # seconds between looks
_MISSING = frozenset({10059, 10037})


@dataclass(frozen=True, slots=True)
class _Source:
    """What one stream copies from SCHEDULE: the filter, and up to which sequence it has copied; None: nobody knows."""

    filter: str
    copied: int | None


class DueMessages:
    """Looks every ``every`` seconds. One for each process that runs it."""

    def __init__(self, connection: Connection, every: float = _EVERY) -> None:
        self._connection = connection
        self._every = every
        self._removed: dict[str, int] = {}  # up to which sequence, by filter: so that a quiet bus is left alone

    async def work(self) -> None:
        """Look for ever. A server that does not answer is asked again at the next look."""
        while True:
            try:
                if removed := await self.remove():
                    log.info("removed %d delivered messages from %s", removed, _SCHEDULE)
            except (ApiError, NoAnswer) as error:
                log.warning("delivered messages stay in %s for now: %s", _SCHEDULE, error)
            await asyncio.sleep(self._every)

    async def remove(self) -> int:
        """Remove what every stream that copies it has stored; how many messages that were."""
        infos = await stream_infos(self._connection)
        if _SCHEDULE not in infos:
            return 0
        stored = read_integer(infos[_SCHEDULE]["state"].get("last_seq")) or 0
        sources = [source for name in infos if _copies(infos[name]) for source in await self._sources_of(name)]
        removed = 0
        for pattern in sorted({source.filter for source in sources}):
            upto = _copied_by_all(pattern, sources)
            # A position beyond the end is that of a SCHEDULE which was made again: it says nothing of this one.
            if upto is not None and self._removed.get(pattern, 0) < upto <= stored:
                removed += await self._purge(pattern, upto)
                self._removed[pattern] = upto
        return removed

    async def _sources_of(self, stream: str) -> list[_Source]:
        try:
            info = await self._connection.api(f"STREAM.INFO.{stream}")
        except ApiError as error:
            if error.err_code in _MISSING:
                return []
            raise
        configured = [pattern for source in _from_schedule(info["config"]) for pattern in _filters(source)]
        known = {
            pattern: read_integer(source.get("seq"), least=1)
            for source in info.get("sources") or ()
            if isinstance(source, dict) and source.get("name") == _SCHEDULE
            for pattern in _filters(source)
        }
        return [_Source(pattern, known.get(pattern)) for pattern in configured]

    async def _purge(self, pattern: str, upto: int) -> int:
        answer = await self._connection.api(f"STREAM.PURGE.{_SCHEDULE}", {"filter": pattern, "seq": upto + 1})
        return read_integer(answer.get("purged")) or 0


def _copied_by_all(pattern: str, sources: Iterable[_Source]) -> int | None:
    """Up to which sequence all streams that copy from ``pattern`` have what is there; None where one has nothing."""
    positions = [source.copied for source in sources if subjects.overlaps(source.filter, pattern)]
    known = [position for position in positions if position is not None]
    return min(known) if len(known) == len(positions) else None


def _copies(info: dict[str, Any]) -> bool:
    return any(_from_schedule(info["config"]))


def _from_schedule(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [source for source in config.get("sources") or () if source.get("name") == _SCHEDULE]


def _filters(source: dict[str, Any]) -> list[str]:
    """The subjects of one source that are due messages; waiting ones are nobody's to remove here."""
    transforms = [one.get("src") for one in source.get("subject_transforms") or ()]
    found = transforms or [source.get("filter_subject")]
    return [pattern for pattern in found if isinstance(pattern, str) and pattern.startswith(subjects.due(""))]


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set. Raises `Unreachable` when the connection is lost."""
    await until_stopped(DueMessages(bus.connection).work(), bus.connection, stop)
