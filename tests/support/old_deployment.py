"""A deployment of commit 9a418b6 with data, for tests of upgrades: every change of what is stored must be able to go on
from here.

``tests/data/old-deployment.tar.gz`` is the server's store, ``old-deployment.json`` says what is in it, and
`support.old_deployment_pod` is its pod. `support.old_deployment_recording` made them.
"""

import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tieline.server import ServerConfig
from tieline.testing import Server

__all__ = ["OLD_CONVERSATIONS", "OLD_STREAMS", "OldConversation", "old_conversations", "old_deployment"]

_DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True, slots=True)
class OldConversation:
    """One conversation of the old deployment. ``message`` is the class of its first message, ``kind`` what its handler
    does, ``state`` where it stood when the server was stopped (the JSON file explains the words)."""

    id: str
    message: str
    kind: str
    state: str


_DESCRIBED = json.loads((_DATA / "old-deployment.json").read_text())

OLD_CONVERSATIONS = tuple(OldConversation(**one) for one in _DESCRIBED["conversations"])
OLD_STREAMS: dict[str, int] = _DESCRIBED["streams"]
"""Messages of each stream when the server was stopped."""


def old_conversations(*states: str) -> list[str]:
    """The ids of the conversations in one of these states."""
    return [one.id for one in OLD_CONVERSATIONS if one.state in states]


@asynccontextmanager
async def old_deployment(folder: Path) -> AsyncIterator[Server]:
    """A server on a copy of the old deployment's data, in ``folder``; nothing has been applied to it yet."""
    data = folder / "old-deployment"
    with tarfile.open(_DATA / "old-deployment.tar.gz") as archive:
        archive.extractall(data, filter="data")
    async with Server(ServerConfig(data=data, sync="2m")) as server:
        yield server
