"""`AcceptedLoss`: an operator has looked at messages that nobody can account for, and says so.

Stored on ``call.audit``. Every accountant that reads it counts those messages as accepted, and the sum holds again.
"""

import json
from dataclasses import dataclass
from typing import Final

from tieline.errors import BadPayload
from tieline.records.ranges import pack_ranges, unpack_ranges
from tieline.records.reading import read_integer, read_name, read_object, read_text, read_time

__all__ = ["ACCEPTED", "MOST_RANGES", "AcceptedLoss"]

ACCEPTED: Final = "lossaccepted"
MOST_RANGES: Final = 5_000
"""How many ranges one record may hold. Whoever accepts more writes several."""


@dataclass(frozen=True, slots=True)
class AcceptedLoss:
    """``accepted_by`` accepts that messages of ``stream`` are lost to ``agent`` (or were unseen by anybody): those in
    ``ranges``, and ``earlier`` of those that the stream had before it was created again. ``at``: since 1970."""

    stream: str
    agent: str
    ranges: tuple[tuple[int, int], ...]
    earlier: int
    accepted_by: str
    reason: str
    at: float

    def encode(self) -> bytes:
        """The payload of the record."""
        return json.dumps(
            {
                "fact": ACCEPTED,
                "at": round(self.at, 4),
                "by": self.accepted_by,
                "stream": self.stream,
                "agent": self.agent,
                "ranges": pack_ranges(self.ranges),
                "earlier": self.earlier,
                "reason": self.reason,
            }
        ).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "AcceptedLoss":
        """The record in ``payload``. `BadPayload` where it is not one."""
        body = read_object(payload) or {}
        stream, agent = read_name(body.get("stream")), read_text(body.get("agent"), 255)
        at, earlier = read_time(body.get("at")), read_integer(body.get("earlier"))
        ranges = unpack_ranges(body.get("ranges"))
        if body.get("fact") != ACCEPTED or stream is None or not agent or at is None or earlier is None:
            raise BadPayload("not a record of an accepted loss")
        if ranges is None or len(ranges) > MOST_RANGES:
            raise BadPayload(f"an accepted loss names no ranges of sequences, or more than {MOST_RANGES:,}")
        return cls(
            stream=stream,
            agent=agent,
            ranges=tuple(ranges),
            earlier=earlier,
            accepted_by=read_text(body.get("by"), 255),
            reason=read_text(body.get("reason")),
            at=at,
        )
