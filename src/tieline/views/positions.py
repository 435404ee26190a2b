"""`Positions`: which consumers take a message, and how far each of them is, as of one moment."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tieline import subjects
from tieline.wire.connection import Connection
from tieline.wire.topology import consumer_infos, is_resume

__all__ = ["Positions"]

_MAX_SUBJECTS = 4_096  # subjects whose consumers are remembered


class Positions:
    """The durable consumers of Tieline's agents. Others are left out: no record says when they have handled a message.
    So are those of what is brought back: a copy stands for the message that an agent has taken before.

    Take the positions before you read facts and records. A message that its consumer has passed by then has left a
    record or a fact, because both are stored before the acknowledgement.
    """

    def __init__(self, infos: Mapping[str, list[dict[str, Any]]]) -> None:
        """``infos``: what the server says about the consumers of each stream."""
        self._filters: dict[str, list[tuple[str, list[str]]]] = {}
        self._floors: dict[tuple[str, str], int] = {}
        self._begins: dict[tuple[str, str], tuple[int, float]] = {}  # the first sequence and time that it is for
        self._takers: dict[tuple[str, str], frozenset[str]] = {}
        for stream, found in infos.items():
            for info in found:
                if "tieline.pod" in (info["config"].get("metadata") or {}) and not is_resume(info["name"]):
                    self._add(stream, info)

    @classmethod
    async def now(cls, connection: Connection) -> "Positions":
        """As the server says. Raises like `Connection.api`."""
        names = (await connection.api("STREAM.NAMES")).get("streams") or []
        return cls({stream: await consumer_infos(connection, stream) for stream in names})

    def takers(self, stream: str, subject: str, seq: int, at: float) -> frozenset[str]:
        """The consumers that get a message of this subject, stored at that sequence and time."""
        key = (stream, subject)
        if key not in self._takers:
            if len(self._takers) >= _MAX_SUBJECTS:
                self._takers.clear()
            filters = self._filters.get(stream, ())
            self._takers[key] = frozenset(
                name for name, wanted in filters if any(subjects.covers(one, subject) for one in wanted)
            )
        return frozenset(name for name in self._takers[key] if self._is_for(stream, name, seq, at))

    def owes(self, stream: str, name: str, seq: int) -> bool:
        """Whether the message may still have to be handled by this consumer."""
        return seq > self._floors.get((stream, name), 0)

    def _is_for(self, stream: str, name: str, seq: int, at: float) -> bool:
        """False for a message that was stored before the consumer begins, such as one with ``start="new"``."""
        first, since = self._begins[stream, name]
        return seq >= first and at >= since

    def _add(self, stream: str, info: dict[str, Any]) -> None:
        name, config = info["name"], info["config"]
        filters = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        self._filters.setdefault(stream, []).append((name, filters))
        floor = info["ack_floor"] if info["num_ack_pending"] else info["delivered"]
        self._floors[stream, name] = int(floor["stream_seq"])
        since = 0.0
        if config.get("deliver_policy") == "new":
            since = _time(info.get("created"))
        elif config.get("deliver_policy") == "by_start_time":
            since = _time(config.get("opt_start_time"))
        self._begins[stream, name] = (int(config.get("opt_start_seq") or 0), since)


def _time(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
