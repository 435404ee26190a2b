"""`Settlements`: which messages of a stream an agent has settled, where the audit of single facts is switched off.

With ``TIELINE_AUDIT=off`` a process writes no `Settled` fact. It writes this record instead, one for each agent, stream
and batch, on ``call.audit``, before it acknowledges the messages. Dead letters and parked messages are not in it: DLQ
and STEP hold their records.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tieline.errors import BadPayload

__all__ = ["MAX_MESSAGES", "Settlements", "ranges_of"]

MAX_MESSAGES = 10_000
"""How many messages one record may name. A writer stays far below it; a reader refuses more."""

_MAX_SEQ = 2**63 - 1
_MAX_NAME = 256  # characters of an agent's or stream's name

type Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Settlements:
    """``agent`` settled these sequences of ``stream``; ``at`` is in seconds since 1970. Ranges include both ends.

    ``done``: the handler finished. ``superseded``: the delivery was a stale copy, so it says nothing of the message.
    """

    agent: str
    stream: str
    at: float
    done: Ranges
    superseded: Ranges = ()

    def encode(self) -> bytes:
        """The payload of the record."""
        return json.dumps(
            {
                "fact": "settlements",
                "at": round(self.at, 4),
                "by": self.agent,
                "stream": self.stream,
                "done": self.done,
                "superseded": self.superseded,
            }
        ).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "Settlements":
        """The record in ``payload``. `BadPayload` names what is wrong with it; its size is bounded."""
        try:
            body = json.loads(payload)
        except (ValueError, RecursionError):
            raise BadPayload("a settlement record is not JSON") from None
        if not isinstance(body, dict) or body.get("fact") != "settlements":
            raise BadPayload("not a settlement record")
        done, superseded = _ranges(body.get("done")), _ranges(body.get("superseded", []))
        named = sum(last - first + 1 for first, last in (*done, *superseded))
        if named > MAX_MESSAGES:
            raise BadPayload(f"a settlement record names {named:,} messages; at most {MAX_MESSAGES:,} are read")
        return cls(_name(body, "by"), _name(body, "stream"), _time(body.get("at")), done, superseded)


def ranges_of(sequences: Iterable[int]) -> Ranges:
    """``sequences`` as sorted, inclusive ranges: 3, 1, 2, 7 become (1, 3), (7, 7)."""
    found: list[tuple[int, int]] = []
    for seq in sorted(sequences):
        if found and seq <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(seq, found[-1][1]))
        else:
            found.append((seq, seq))
    return tuple(found)


def _ranges(value: object) -> Ranges:
    if not isinstance(value, list) or len(value) > MAX_MESSAGES:
        raise BadPayload("a settlement record holds no list of ranges")
    found = []
    for each in value:
        match each:
            case [int() as first, int() as last] if 0 < first <= last <= _MAX_SEQ:
                found.append((first, last))
            case _:
                raise BadPayload(f"{each!r:.80} is not a range of sequences")
    return tuple(found)


def _name(body: dict[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        raise BadPayload(f"{key} of a settlement record is not a name: {value!r:.80}")
    return value


def _time(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise BadPayload(f"a settlement record carries no time: {value!r:.80}")
    return float(value)
