"""Which records processes skipped because they could not read them, by the notes they left in the audit."""

import json
from dataclasses import dataclass

from tieline import subjects
from tieline.records.facts import read_fact
from tieline.records.reading import read_integer, read_text
from tieline.wire.connection import Connection
from tieline.wire.unreadable import KINDS

__all__ = ["AUDIT", "Skipped", "skipped_records"]

AUDIT = "CALL_AUDIT"


@dataclass(frozen=True, slots=True)
class Skipped:
    """What a process said last of one kind of records. ``total``: how many it had skipped since its start. ``stream``,
    ``seq`` and ``subject`` are of the last one. ``at`` is in seconds since 1970."""

    kind: str
    total: int
    by: str
    at: float
    stream: str
    seq: int
    subject: str


async def skipped_records(connection: Connection) -> tuple[Skipped, ...]:
    """The newest note of each kind, as long as the audit keeps it. Raises `NoAnswer`; empty where there is no audit."""
    body = json.dumps({"multi_last": [subjects.unreadable(kind) for kind in KINDS], "batch": len(KINDS)}).encode()
    replies = await connection.request_all(f"$JS.API.DIRECT.GET.{AUDIT}", body)
    found = (_read_note(reply.payload) for reply in replies if reply.status is None)
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.kind))


def _read_note(payload: bytes) -> Skipped | None:
    match read_fact(payload):
        case {"fact": "unreadable", "kind": str(kind), "at": float() | int() as at, "total": int(total), **rest}:
            by, stream, subject = (read_text(rest.get(name), 200) for name in ("by", "stream", "subject"))
            return Skipped(
                read_text(kind, 20), total, by, float(at), stream, read_integer(rest.get("seq")) or 0, subject
            )
    return None
