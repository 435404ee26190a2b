"""`Look`: what the server says of a consumer, at one moment; and when it removes a message."""

import math
from dataclasses import dataclass

from tieline.records.checkpoint import Due

__all__ = ["Look", "removed_at"]


@dataclass(frozen=True, slots=True)
class Look:
    """What a consumer says, once everything that was recorded before it was read.

    Up to ``floor`` the consumer of messages owes nothing, up to ``copies_floor`` that of copies. A message may be gone
    by ``max_age`` (None: it is kept). What was stored before ``since`` is not judged.
    """

    now: float
    floor: int
    copies_floor: int
    max_age: float | None = None
    since: float = 0.0


def removed_at(due: Due, max_age: float | None) -> float:
    """When the server removes a message, in seconds since 1970. One with the TTL ``never`` outlives the age too."""
    stored, expires, _ = due
    if expires is not None and math.isinf(expires):
        return math.inf
    ends = [end for end in (expires, None if max_age is None else stored + max_age) if end is not None]
    return min(ends, default=math.inf)
