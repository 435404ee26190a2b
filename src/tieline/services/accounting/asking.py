"""Asking for the sum: one way for the command, the metrics, the dashboard and tests.

The running accountant is asked, and takes a look first, so that its answer is of this moment. Where none runs, the
newest checkpoint is loaded and caught up from there, without changing anything.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from tieline.records.reading import read_integer, read_json, read_time
from tieline.services.ledger import Row
from tieline.wire.connection import Connection, NoAnswer

__all__ = ["CATCHING_UP", "ask", "encode_rows", "read_rows", "sum_subject"]

CATCHING_UP = b'{"catchingUp":true}'
"""The answer of an accountant that has not read everything yet."""

_PATIENCE = 5.0  # seconds for an accountant that has to catch up first


def sum_subject(pod: str) -> str:
    """Where the accountant of a pod answers with its rows, as JSON."""
    return f"tieline.sum.{pod}"


async def ask(connection: Connection, pod: str, wait: float = _PATIENCE) -> list[Row]:
    """The rows of the running accountant. `NoAnswer` where none runs, or it is not of this version."""
    until = time.monotonic() + wait
    while True:
        reply = await connection.request(sum_subject(pod), b"", wait=max(0.1, until - time.monotonic()))
        rows = read_rows(reply.payload)
        if rows is not None:
            return rows
        if time.monotonic() > until:
            raise NoAnswer(f"the accountant of {pod} did not catch up in time")
        await asyncio.sleep(0.1)


def encode_rows(rows: Sequence[Row]) -> bytes:
    """What an accountant answers."""
    return json.dumps([asdict(row) | {"difference": row.difference, "holds": row.holds} for row in rows]).encode()


def read_rows(payload: bytes) -> list[Row] | None:
    """The rows in an answer; None where they are not of this version."""
    answer = read_json(payload)
    if not isinstance(answer, list):
        return None
    rows = [_row(each) for each in answer]
    return [row for row in rows if row is not None] if None not in rows else None


def _row(answer: Any) -> Row | None:
    """A row as an accountant of this version wrote it. Anybody who listens on the subject can have answered."""
    if not isinstance(answer, Mapping) or "unaccounted" not in answer:
        return None
    known = {each.name: answer[each.name] for each in fields(Row) if each.name in answer}
    for name, value in known.items():
        if name in ("stream", "agent"):
            readable = isinstance(value, str)
        elif name in ("since", "until"):
            readable = value is None or read_time(value) is not None
        else:
            readable = read_integer(value) is not None or (name == "at_server" and value is None)
        if not readable:
            return None
    return Row(**known) if {"stream", "agent"} <= known.keys() else None
