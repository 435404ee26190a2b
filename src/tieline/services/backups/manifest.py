"""What a backup is made of: a folder with a snapshot of each stream, and the manifest that makes it one.

The manifest is written last and the folder gets its name after it: what has the name is whole.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tieline.errors import BackupFailed

__all__ = ["MANIFEST", "Held", "Manifest", "Saved", "check_files", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
_BLOCK = 1024 * 1024


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Held(_Part):
    """A durable consumer as it stood before the snapshot. ``owed`` were not acknowledged yet; ``floor`` is the sequence
    up to which all are."""

    name: str
    owed: int
    in_flight: int
    floor: int


class Saved(_Part):
    """The snapshot of one stream, exactly as its file holds it. ``moved`` says that the stream's consumers went on
    while it was taken, so that they may be a little further than ``consumers`` has them."""

    name: str
    file: str
    sha256: str
    size: int
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    first_ts: datetime | None
    taken: datetime
    config: dict[str, Any]
    consumers: tuple[Held, ...]
    moved: bool

    def state(self) -> dict[str, Any]:
        """As the restore request wants it."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "consumer_count": len(self.consumers),
        }


class Manifest(_Part):
    """A whole backup. ``streams`` are in the order in which they were taken; ``paused`` says that no agent worked
    meanwhile, and ``running`` how many deliveries did not come to an end before that."""

    format: Literal[1] = 1
    pod: str
    version: str
    at: datetime
    tieline: str
    server: str
    cluster: str
    paused: bool
    running: int
    streams: tuple[Saved, ...]

    @property
    def size(self) -> int:
        """Bytes of all snapshots."""
        return sum(saved.size for saved in self.streams)


@dataclass(frozen=True, slots=True)
class _Damage:
    file: str
    why: str


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, and return once it is on the disk."""
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup. `BackupFailed` where the folder is none, or one of a newer Tieline."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError as error:
        raise BackupFailed(
            f"{folder} is no backup: {error.strerror} ({MANIFEST}); `tieline backup` writes it last, so without it the "
            "folder is not whole"
        ) from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise BackupFailed(
            f"{folder / MANIFEST} cannot be used: {where}: {first['msg']}; it is damaged, or of a newer Tieline"
        ) from error


def check_files(folder: Path, streams: Sequence[Saved]) -> None:
    """Compare each file with its sha256. `BackupFailed` names every one that is missing or has changed."""
    damages = [found for found in (_damage(folder, saved) for saved in streams) if found is not None]
    if damages:
        named = ", ".join(f"{one.file} ({one.why})" for one in damages)
        raise BackupFailed(f"backup {folder} is damaged: {named}; nothing was restored. Take another copy of it")


def _damage(folder: Path, saved: Saved) -> _Damage | None:
    if Path(saved.file).name != saved.file:
        return _Damage(json.dumps(saved.file), "not a file of this folder")
    sha = hashlib.sha256()
    try:
        with (folder / saved.file).open("rb") as file:
            while block := file.read(_BLOCK):
                sha.update(block)
    except OSError as error:
        return _Damage(saved.file, error.strerror or str(error))
    return None if sha.hexdigest() == saved.sha256 else _Damage(saved.file, "its sha256 is another")
