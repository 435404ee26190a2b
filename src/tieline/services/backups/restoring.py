"""Putting a backup back, and looking whether what is there now is what was saved."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tieline.errors import BackupFailed
from tieline.pod import Pod
from tieline.services.backups.manifest import Manifest, Saved, check_files, read_manifest
from tieline.services.backups.pausing import lift
from tieline.services.backups.taking import Progress
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.snapshots import CHUNK, Snapshot, drop, glimpsed, imported
from tieline.wire.topology import consumer_infos

__all__ = ["MARK", "Restored", "Source", "opened", "restore", "standing"]

MARK = "tieline.restoring"
"""In the metadata of a stream that is being restored: without it being taken out, it is not whole."""

_THERE = 30.0  # seconds until a cluster shows the consumers of a restored stream
_CAUGHT_UP = 60.0  # seconds that the other copies have to catch up
_LOOKS = 20  # if one of three had less, they would not see it in 3 of 10,000 times
_LOOK = 0.1
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Source:
    """A backup whose files are what its manifest says, and the streams of it that are wanted."""

    folder: Path
    manifest: Manifest
    streams: tuple[Saved, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """One stream as it was saved and as it is now. ``expired`` were too old by now, or over their TTL: the server
    drops them on the way in. ``wrong`` says what differs; empty where nothing does."""

    stream: str
    saved: int
    messages: int
    expired: int
    first_seq: int
    last_seq: int
    replicas: int
    consumers: int
    wrong: tuple[str, ...]


def opened(folder: Path, streams: Sequence[str] = ()) -> Source:
    """A backup, and ``streams`` of it (empty: all). Reads every file; `BackupFailed` names those that are damaged."""
    manifest = read_manifest(folder)
    missing = sorted(set(streams) - {saved.name for saved in manifest.streams})
    if missing:
        there = ", ".join(saved.name for saved in manifest.streams)
        raise BackupFailed(f"backup {folder} has no stream {', '.join(missing)}; it has {there}")
    wanted = tuple(saved for saved in manifest.streams if not streams or saved.name in streams)
    check_files(folder, wanted)
    return Source(folder, manifest, wanted)


async def standing(connection: Connection, source: Source) -> list[str]:
    """The streams that a restore would have to delete first. One that an earlier restore left half done is none."""
    return [saved.name for saved in source.streams if await _place(connection, saved.name) == "taken"]


async def _place(connection: Connection, stream: str) -> Literal["free", "half", "taken"]:
    """Asked one by one: the list of streams leaves out those without a leader, and they hold messages too."""
    try:
        info = await connection.api(f"STREAM.INFO.{stream}")
    except ApiError as error:
        return "free" if error.code == _NOT_FOUND else "taken"
    except NoAnswer:
        return "taken"
    return "half" if MARK in (info["config"].get("metadata") or {}) else "taken"


async def restore(
    connection: Connection, source: Source, progress: Progress, *, pod: Pod | None = None, force: bool = False
) -> list[Restored]:
    """Make the streams as they were saved, those with work last, and say what they are now.

    Replicas are the pod's; without one, three in a cluster and one elsewhere. Where a stream exists already:
    `BackupFailed` before anything is touched, or with ``force`` it is deleted. Every stream is marked until all are
    there, on all servers: when something breaks in the middle (`BackupFailed`), the next run begins anew.
    """
    there = await standing(connection, source)
    if there and not force:
        verb = "is" if len(there) == 1 else "are"
        raise BackupFailed(f"{', '.join(there)} {verb} there already; nothing was restored. --force deletes first")
    clustered = bool(connection.server.get("cluster"))
    backwards = [(saved, _config(saved, _replicas(saved, pod, clustered))) for saved in reversed(source.streams)]
    try:
        states = []
        for saved, config in backwards:
            if await _place(connection, saved.name) != "free":
                await _remove(connection, saved.name)
            states.append(await _import(connection, source.folder, saved, config, progress))
        checks = (_finished(connection, one, state) for one, state in zip(backwards, states, strict=True))
        found = await asyncio.gather(*checks)
        for _, config in backwards:
            await connection.api(f"STREAM.UPDATE.{config['name']}", config)  # without the mark: it counts from now on
    except (BackupFailed, ApiError, NoAnswer) as error:
        raise BackupFailed(f"{error}; what is there is marked as unfinished: run it again, it begins anew") from error
    return found[::-1]


async def _import(
    connection: Connection, folder: Path, saved: Saved, config: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """The state of the stream as the server has it, right after it was made."""

    def chunks() -> Iterator[bytes]:
        sent, size = 0, min(CHUNK, connection.max_payload)
        with (folder / saved.file).open("rb") as file:
            while chunk := file.read(size):
                sent += len(chunk)
                yield chunk
                progress(saved.name, sent, saved.size)

    marked = config | {"metadata": config["metadata"] | {MARK: "1"}}
    told = await imported(connection, Snapshot(marked, saved.state()), chunks())
    state: dict[str, Any] = told["state"]
    return state


async def _finished(connection: Connection, one: tuple[Saved, dict[str, Any]], state: dict[str, Any]) -> Restored:
    saved, config = one
    behind = await _behind(connection, saved.name, state)
    infos = await _consumers(connection, saved)
    await lift(connection, [(saved.name, name) for name in infos])
    messages = int(state["messages"])
    return Restored(
        stream=saved.name,
        saved=saved.messages,
        messages=messages,
        expired=max(0, saved.messages - messages),
        first_seq=int(state["first_seq"]),
        last_seq=int(state["last_seq"]),
        replicas=int(config["num_replicas"]),
        consumers=len(infos),
        wrong=(*_wrong_messages(saved, state), *behind, *_wrong_consumers(saved, state, infos)),
    )


def _wrong_messages(saved: Saved, state: Mapping[str, Any]) -> list[str]:
    wrong = []
    messages, last = int(state["messages"]), int(state["last_seq"])
    if last != saved.last_seq:
        wrong.append(f"last sequence {last}, not {saved.last_seq}")
    if messages > saved.messages or (messages < saved.messages and not _may_expire(saved)):
        wrong.append(f"{messages} messages, not {saved.messages}")
    if messages == saved.messages and messages and int(state["first_seq"]) != saved.first_seq:
        wrong.append(f"first sequence {state['first_seq']}, not {saved.first_seq}")
    return wrong


def _may_expire(saved: Saved) -> bool:
    """Whether messages may be too old by now. Those with a TTL of their own may be at any time."""
    age = int(saved.config.get("max_age") or 0) / 1e9
    old = 0.0 if saved.first_ts is None else (datetime.now(UTC) - saved.first_ts).total_seconds()
    return bool(saved.config.get("allow_msg_ttl")) or (age > 0 and old > age)


def _wrong_consumers(saved: Saved, state: Mapping[str, Any], infos: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = [f"no consumer {held.name}" for held in saved.consumers if held.name not in infos]
    if saved.moved:
        return wrong  # they went on while the snapshot was taken: where exactly it has them is not known
    whole = int(state["messages"]) == saved.messages  # what expired counts as acknowledged
    for held in saved.consumers:
        floor = int(infos[held.name]["ack_floor"]["stream_seq"]) if held.name in infos else held.floor
        expected = min(held.floor, saved.last_seq)
        if floor < expected or (whole and floor > expected):
            wrong.append(f"consumer {held.name}: acknowledged up to {floor}, not {expected}")
    return wrong


async def _behind(connection: Connection, stream: str, state: Mapping[str, Any]) -> list[str]:
    """What is wrong with the copies of a restored stream, once they had time to catch up.

    One server takes the backup, and the others get it from there, five seconds later at times, while the server calls
    them current all along (seen on 2.15.1). Its death before that would lose it. A reader is put on one of the three
    at random and told how much there is: if so many in a row see everything, all have it.
    """
    looks, last_seq = 0, int(state["last_seq"])
    try:
        async with asyncio.timeout(_CAUGHT_UP):
            while looks < _LOOKS:
                seen = await _glimpse(connection, stream)
                if seen is None:
                    return []
                there, last, messages = seen
                if last < last_seq:
                    return ["its leader changed, and the new one does not have it"]
                looks = looks + 1 if there >= messages else 0
                await asyncio.sleep(0 if looks else _LOOK)
    except TimeoutError:
        return [f"not all of its copies have caught up within {_CAUGHT_UP:g} s; `tieline audit replicas` compares them"]
    return []


async def _glimpse(connection: Connection, stream: str) -> tuple[int, int, int] | None:
    """What a copy holds, the leader's last sequence and its messages; None where there is nothing to compare."""
    while True:
        try:
            info = await connection.api(f"STREAM.INFO.{stream}")
            state = info["state"]
            if not (info.get("cluster") or {}).get("replicas") or not state["messages"]:
                return None
            return await glimpsed(connection, stream), int(state["last_seq"]), int(state["messages"])
        except (ApiError, NoAnswer):  # between two leaders, or on a server that does not know the stream yet
            await asyncio.sleep(_LOOK)


async def _consumers(connection: Connection, saved: Saved) -> dict[str, dict[str, Any]]:
    """The durable consumers of a restored stream. A cluster shows them a moment later than the stream."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _THERE
    while True:
        infos = {str(info["name"]): info for info in await consumer_infos(connection, saved.name)}
        if {held.name for held in saved.consumers} <= set(infos) or loop.time() >= until:
            return {name: info for name, info in infos.items() if info["config"].get("durable_name")}
        await asyncio.sleep(_LOOK)


def _replicas(saved: Saved, pod: Pod | None, clustered: bool) -> int:
    declared = pod.streams.get(saved.name) if pod is not None else None
    if declared is not None and declared.replicas is not None:
        return declared.replicas
    return 3 if clustered else 1


def _config(saved: Saved, replicas: int) -> dict[str, Any]:
    """As it was, but for the replicas, the notes that the server makes itself, and where its servers were."""
    kept = {key: value for key, value in (saved.config.get("metadata") or {}).items() if not key.startswith("_nats.")}
    config = {key: value for key, value in saved.config.items() if key != "placement"}
    return config | {"num_replicas": replicas, "metadata": {k: v for k, v in kept.items() if k != MARK}}


async def _remove(connection: Connection, stream: str) -> None:
    if not await drop(connection, stream):
        raise BackupFailed(f"stream {stream} cannot be deleted: the server does not answer")
