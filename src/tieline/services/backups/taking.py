"""Taking a backup: the snapshot of each stream into a folder that gets its name when it is whole."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tieline.errors import BackupFailed
from tieline.pod import Pod
from tieline.services.backups.manifest import Held, Manifest, Saved, write_manifest
from tieline.services.backups.order import in_order
from tieline.services.backups.pausing import paused
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.snapshots import exported
from tieline.wire.topology import consumer_infos, stream_infos

__all__ = ["Progress", "Wanted", "take"]

_PARTIAL = ".partial"
_EPOCH_YEAR = 1  # of the time that the server gives for an empty stream

type Progress = Callable[[str, int, int], None]
"""Told of a stream's name, the bytes so far, and about how many there will be (a snapshot is compressed)."""

type Infos = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to save. ``streams``: these alone; empty: all of the account. ``settle`` is how many seconds deliveries have
    to end when the consumers are paused; None: they are not paused, and work goes on."""

    pod: Pod
    streams: Sequence[str] = ()
    settle: float | None = 10.0


async def take(connection: Connection, wanted: Wanted, to: Path, progress: Progress) -> Manifest:
    """Save the streams into the folder ``to``, which must not be there yet, and return what it holds.

    A crash leaves ``to`` with ``.partial`` behind its name, which the next run removes. Raises `BackupFailed` when a
    stream is missing, the disk is too small, or the connection breaks; then nothing is left.
    """
    infos = await _chosen(connection, wanted)
    with _Folder(to) as folder:
        folder.check_room(sum(int(info["state"]["bytes"]) for info in infos.values()))
        consumers = {name: await _durables(connection, name) for name in infos}
        order = in_order({name: info["config"] for name, info in infos.items()}, {n for n in infos if consumers[n]})
        async with AsyncExitStack() as stack:
            running = 0
            if wanted.settle is not None:
                every = [(name, str(one["name"])) for name in order for one in consumers[name]]
                running = await stack.enter_async_context(paused(connection, every, wanted.settle))
            saved = [await _save(connection, infos[name], folder.path, progress) for name in order]
        manifest = Manifest(
            pod=wanted.pod.name,
            version=wanted.pod.version,
            at=datetime.now(UTC),
            tieline=version("tieline"),
            server=str(connection.server.get("version", "")),
            cluster=str(connection.server.get("cluster") or ""),
            paused=wanted.settle is not None,
            running=running,
            streams=tuple(saved),
        )
        folder.finish(manifest)
    return manifest


async def _chosen(connection: Connection, wanted: Wanted) -> Infos:
    infos = await stream_infos(connection)
    missing = sorted(set(wanted.streams or wanted.pod.streams) - set(infos))
    if missing:
        raise BackupFailed(
            f"no such stream: {', '.join(missing)}; `tieline apply` makes a pod's, or name those there are"
        )
    return {name: infos[name] for name in wanted.streams or infos}


async def _durables(connection: Connection, stream: str) -> list[dict[str, Any]]:
    return [info for info in await consumer_infos(connection, stream) if info["config"].get("durable_name")]


async def _save(connection: Connection, info: Mapping[str, Any], folder: Path, progress: Progress) -> Saved:
    name, about = str(info["config"]["name"]), int(info["state"]["bytes"])
    before = [_held(one) for one in await _durables(connection, name)]
    file, sha, size, taken = f"{name}.snapshot", hashlib.sha256(), 0, datetime.now(UTC)
    with (folder / file).open("wb") as out:

        def write(chunk: bytes) -> None:
            nonlocal size
            out.write(chunk)
            sha.update(chunk)
            size += len(chunk)
            progress(name, size, max(about, size))

        snapshot = await exported(connection, name, write)
        out.flush()
        os.fsync(out.fileno())
    progress(name, size, size)
    after = [_held(one) for one in await _durables(connection, name)]
    state, first = snapshot.state, datetime.fromisoformat(snapshot.state["first_ts"])
    return Saved(
        name=name,
        file=file,
        sha256=sha.hexdigest(),
        size=size,
        messages=state["messages"],
        bytes=state["bytes"],
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        first_ts=None if first.year == _EPOCH_YEAR else first,
        taken=taken,
        config=dict(snapshot.config),
        consumers=tuple(before),
        moved=[(one.floor, one.in_flight) for one in before] != [(one.floor, one.in_flight) for one in after],
    )


def _held(info: Mapping[str, Any]) -> Held:
    in_flight = int(info["num_ack_pending"])
    owed, floor = int(info["num_pending"]) + in_flight, int(info["ack_floor"]["stream_seq"])
    return Held(name=str(info["name"]), owed=owed, in_flight=in_flight, floor=floor)


class _Folder:
    """A folder under a name of its own, until it is finished. What goes wrong inside is a `BackupFailed`."""

    def __init__(self, to: Path) -> None:
        self._to = to
        self.path = to.with_name(to.name + _PARTIAL)

    def __enter__(self) -> Self:
        if self._to.exists():
            raise BackupFailed(f"{self._to} is there already; a backup is never written over. Give a new folder")
        try:
            if self.path.exists():
                shutil.rmtree(self.path)  # what a crash left
            self.path.mkdir(parents=True, mode=0o700)  # messages hold what callers say
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, ApiError | NoAnswer):
            raise BackupFailed(f"backup {self._to} broke off: {error}; nothing of it is left") from error
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise self._failed(error) from error

    def check_room(self, needed: int) -> None:
        """Snapshots are compressed: as many bytes as the streams have are enough."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise BackupFailed(
                f"{self._to}: the streams have {needed:,} bytes and the disk {free:,} free; choose another"
            )

    def finish(self, manifest: Manifest) -> None:
        """In this order: the name comes when everything is on the disk, so that it never names a part."""
        write_manifest(self.path, manifest)
        _sync(self.path)
        self.path.rename(self._to)
        _sync(self._to.parent)

    def _failed(self, error: OSError) -> BackupFailed:
        return BackupFailed(f"backup {self._to} cannot be written: {error.strerror or error}; nothing of it is left")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
