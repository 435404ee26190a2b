"""Streams and consumers as data: what the server has, what the pod declares, and the way from one to the other.

Nothing here deletes. What holds messages is changed in place or left alone and said so.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tieline import subjects
from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.settings import Limits
from tieline.stream import Source, Stream
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.peers import ask
from tieline.wire.stream_copy import DENIALS, is_rebuilt, rebuild
from tieline.wire.versions import refuse_old

__all__ = [
    "Change",
    "Consumer",
    "agent_of",
    "apply",
    "consumer_infos",
    "consumers_of",
    "is_waker",
    "plan",
    "stream_config",
    "stream_infos",
    "waker_name",
]

type Config = dict[str, Any]
type Action = Literal["create", "update", "keep", "refuse", "extra"]

_WAKER = "-waker"
_MAX_DELIVER = 1000  # a far backstop: attempts are counted by us, because the server counts innocents too
_MAX_ACK_PENDING = 10_000  # fleet-wide, well above all slots: sleepers and slow handlers never stop the others
_NANO = 1_000_000_000
_STREAM_MISSING, _STREAM_EXISTS, _CONSUMER_MISSING, _CONSUMER_EXISTS = 10059, 10058, 10014, 10148
_FIXED = frozenset({"storage", "retention", "max_consumers", "ack_policy", "deliver_policy"})  # set at creation only
_ONE_WAY = frozenset({"allow_msg_ttl", "allow_msg_schedules", "deny_delete", "deny_purge"})  # on, never off
_SHRINKING = frozenset({"max_age", "max_bytes", "max_msgs_per_subject"})  # lowering one deletes what no longer fits


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable pull consumer that a pod declares: an agent's or a tool's hold on one stream."""

    stream: str
    durable: str
    filters: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the pod and the server.

    ``action``: ``create`` and ``update`` are what `apply` does; ``keep`` is left to a newer version of the pod;
    ``refuse`` cannot be done without recreating or deleting; ``extra`` is on the server and not in the pod.
    """

    kind: Literal["stream", "consumer"]
    name: str
    action: Action
    field: str
    have: Any
    want: Any
    why: str = ""


def consumers_of(pod: Pod) -> list[Consumer]:
    """The consumers of a pod: one for each agent and stream it takes messages from, one for each tool, and one for each
    agent's parked messages."""
    found = []
    for agent in pod.agents.values():
        by_stream: dict[str, list[str]] = {}
        for subject in agent.filters:
            by_stream.setdefault(pod.stream_of(subject).name, []).append(subject)
        for stream, filters in by_stream.items():
            found.append(Consumer(stream, agent.name, (*filters, *_redrive(pod, stream, agent.name)), agent.limits))
    for tool in pod.tools.values():
        subject, durable = subjects.tool_call(tool.name), f"tool-{tool.name}"
        stream = pod.stream_of(subject).name
        found.append(Consumer(stream, durable, (subject, *_redrive(pod, stream, durable)), tool.limits))
    for name in pod.agents:
        # Answers that may come long after their asker parked; whichever process gets one brings the message back.
        kinds = tuple(subjects.step_filter(name, kind) for kind in ("ask", "human"))
        found.append(Consumer("STEP", waker_name(name), kinds, pod.limits))
    return found


def waker_name(agent: str) -> str:
    """The consumer that brings an agent's parked messages back."""
    return f"{agent}{_WAKER}"


def is_waker(durable: str) -> bool:
    """Whether a consumer brings parked messages back: what it takes are records, and no messages."""
    return durable.endswith(_WAKER)


def agent_of(durable: str) -> str:
    """The agent whose consumer it is, of either kind."""
    return durable.removesuffix(_WAKER)


def _redrive(pod: Pod, stream: str, durable: str) -> tuple[str, ...]:
    subject = subjects.redrive(stream, durable)
    stored = any(subjects.covers(own, subject) for own in pod.streams[stream].subjects)
    return (subject,) if stored else ()


def stream_config(stream: Stream, replicas: int, metadata: Mapping[str, str]) -> Config:
    """The fields of a stream's configuration that we own, as the server names them."""
    config: Config = {
        "name": stream.name,
        "description": stream.description,
        "subjects": list(stream.subjects),
        "retention": "limits",
        "storage": "file",
        "discard": "old" if stream.schedules or stream.keep_last else "new",
        "max_age": int((stream.max_age or 0) * _NANO),
        "max_bytes": stream.max_bytes if stream.max_bytes is not None else -1,
        "max_msgs_per_subject": 1 if stream.write_once or stream.keep_last else -1,
        "discard_new_per_subject": stream.write_once,
        "deny_delete": False,
        "deny_purge": False,
        "num_replicas": stream.replicas or replicas,
        "duplicate_window": int(stream.duplicates * _NANO),
        "allow_direct": True,
        "allow_msg_ttl": stream.ttls,
        "allow_msg_schedules": stream.schedules,
        "allow_atomic": stream.atomic,
        "metadata": dict(metadata),
    }
    config["sources"] = [
        {"name": source.stream, "subject_transforms": [{"src": source.subject, "dest": source.to}]}
        for source in (*stream.sources, *_delayed(stream))
    ]
    config["republish"] = (
        None if stream.republish is None else {"src": stream.republish[0], "dest": stream.republish[1]}
    )
    return config


def _delayed(stream: Stream) -> list[Source]:
    """What is due travels on by server-side sourcing: a schedule's target must lie in its own stream (ADR-51)."""
    if not stream.delays:
        return []
    found = []
    for subject in stream.subjects:
        numbers = itertools.count(1)
        to = ".".join(f"{{{{wildcard({next(numbers)})}}}}" if part == "*" else part for part in subject.split("."))
        found.append(Source("SCHEDULE", subjects.due(subject), to))
    return found


def _consumer_config(consumer: Consumer, metadata: Mapping[str, str]) -> Config:
    return {
        "durable_name": consumer.durable,
        "name": consumer.durable,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "filter_subjects": list(consumer.filters),
        "ack_wait": int(consumer.limits.ack_wait * _NANO),
        "max_deliver": _MAX_DELIVER,
        "max_ack_pending": _MAX_ACK_PENDING,
        "metadata": dict(metadata),
    }


@dataclass(frozen=True, slots=True)
class _Item:
    """One stream or consumer as the pod wants it."""

    kind: Literal["stream", "consumer"]
    stream: str
    durable: str  # empty for a stream
    wanted: Config

    @property
    def name(self) -> str:
        return f"{self.stream}/{self.durable}" if self.durable else self.stream

    def endpoint(self, verb: str) -> str:
        parts = ["CONSUMER" if self.durable else "STREAM", verb, self.stream, self.durable]
        return ".".join(part for part in parts if part)


def _items(pod: Pod, clustered: bool) -> list[_Item]:
    # Streams may be shared by several pods, so each notes its own version; a consumer belongs to one.
    version = {f"tieline.version.{pod.name}": pod.version}
    owned = {"tieline.pod": pod.name, **version}
    replicas = 3 if clustered else 1
    streams = [_Item("stream", s.name, "", stream_config(s, replicas, version)) for s in pod.streams.values()]
    consumers = [_Item("consumer", c.stream, c.durable, _consumer_config(c, owned)) for c in consumers_of(pod)]
    return streams + consumers


async def plan(connection: Connection, pod: Pod, *, force: bool = False) -> list[Change]:
    """What `apply` would do and what it would leave, field by field; empty when the server is as declared."""
    refuse_old(connection)
    changes: list[Change] = []
    for item in _items(pod, bool(connection.server.get("cluster"))):
        changes += _differences(item, await _config(connection, item), force)
    return changes + await _extra(connection, pod)


async def apply(connection: Connection, pod: Pod, *, force: bool = False) -> list[Change]:
    """Make the server as the pod declares, and return what was done and what was left.

    Idempotent; safe to run from several processes at once. Never deletes or recreates. ``force`` also changes what a
    newer version of the pod holds, and lowers limits that make the server drop stored messages. Raises `NotApplied`
    with the server's words when it refuses, and before anything is changed when another pod holds a consumer.
    """
    refuse_old(connection)
    items = _items(pod, bool(connection.server.get("cluster")))
    for item in items:
        _refuse_strangers(item, await _config(connection, item), pod)
    done: list[Change] = []
    for item in items:
        if is_rebuilt(item.wanted) and await rebuild(connection, item.wanted):
            done.append(Change(item.kind, item.name, "update", "deny_delete", True, False, "the stream was copied"))
        have = await _config(connection, item)
        changes = _differences(item, have, force)
        if any(change.action == "create" for change in changes) and not await _create(connection, item):
            have = await _config(connection, item)  # another process made it in between: now it is an update
            changes = _differences(item, have, force)
        if have is not None and any(change.action == "update" for change in changes):
            await _update(connection, item, have, changes)
        done += changes
    return done


async def _config(connection: Connection, item: _Item) -> Config | None:
    try:
        answer = await ask(connection, item.endpoint("INFO"))
    except ApiError as error:
        if error.err_code in (_STREAM_MISSING, _CONSUMER_MISSING):
            return None
        raise NotApplied(f"{item.kind} {item.name}: the server says: {error}") from error
    except NoAnswer as silence:
        raise NotApplied(f"{item.kind} {item.name}: JetStream does not answer: {silence}") from silence
    config: Config = answer["config"]
    return config


def _differences(item: _Item, have: Config | None, force: bool) -> list[Change]:
    if have is None:
        return [Change(item.kind, item.name, "create", "", None, item.wanted)]
    changes = []
    newer = _newer_version(have, item.wanted)
    for field, want in item.wanted.items():
        now = _comparable(field, have, item.wanted)
        if now == _comparable(field, item.wanted, item.wanted):
            continue
        action, why = _allowed(field, now, want)
        if field in DENIALS and is_rebuilt(item.wanted):
            action, why = "update", "the server never turns it off: the stream is copied, and new records wait"
        if newer and not force:
            action, why = "keep", f"version {newer} of the pod holds it"
        if action == "refuse" and force and field in _SHRINKING:
            action, why = "update", "forced"
        changes.append(Change(item.kind, item.name, action, field, now, want, why))
    return changes


def _allowed(field: str, now: Any, want: Any) -> tuple[Action, str]:
    if field in _FIXED:
        return "refuse", "it is set when the stream or consumer is made; only recreating it could change it"
    if field in _ONE_WAY and now and not want:
        return "refuse", "the server never turns it off again"
    if field in _SHRINKING and want and want > 0 and (not now or now < 0 or want < now):
        return "refuse", "lowering it would make the server delete stored messages; apply --force does it all the same"
    return "update", ""


def _comparable(field: str, config: Config, wanted: Config) -> Any:
    value = config.get(field)
    match field:
        case "filter_subjects":
            single = config.get("filter_subject")
            return sorted(value or ([single] if single else []))
        case "subjects":
            return sorted(value or [])
        case "metadata":
            return {key: (value or {}).get(key) for key in wanted["metadata"]}
        case "sources":
            return [(s["name"], s.get("subject_transforms")) for s in value or []]
        case "max_msgs_per_subject" | "max_bytes":
            return -1 if value in (None, 0) else value
        case "republish":
            return {k: value[k] for k in ("src", "dest")} if value else None
        case _:
            return value or None  # the server leaves out what is off or zero


def _newer_version(have: Config, wanted: Config) -> str:
    """The version of the same pod that made it, where newer: this one must not undo what that one needs. Else empty."""
    notes = have.get("metadata") or {}
    for key, version in wanted["metadata"].items():
        made_by = str(notes.get(key, ""))
        if key.startswith("tieline.version.") and _ordered(made_by) > _ordered(version):
            return made_by
    return ""


def _ordered(version: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((1, int(p), "") if p.isdigit() else (0, 0, p) for p in version.replace("-", ".").split("."))


def _refuse_strangers(item: _Item, have: Config | None, pod: Pod) -> None:
    owner = ((have or {}).get("metadata") or {}).get("tieline.pod", pod.name)
    if item.kind == "consumer" and owner != pod.name:
        raise NotApplied(
            f"consumer {item.durable!r} of stream {item.stream} belongs to pod {owner!r}; two pods in one account need "
            "different agent names, or an account each"
        )


async def _create(connection: Connection, item: _Item) -> bool:
    """False where somebody else made it first, differently."""
    body = item.wanted if not item.durable else {"stream_name": item.stream, "config": item.wanted, "action": "create"}
    try:
        await ask(connection, item.endpoint("CREATE"), body)
    except ApiError as error:
        if error.err_code in (_STREAM_EXISTS, _CONSUMER_EXISTS):
            return False
        raise NotApplied(f"{item.kind} {item.name} cannot be made: {error}") from error
    except NoAnswer as silence:
        raise NotApplied(f"{item.kind} {item.name} may not be made, apply again: {silence}") from silence
    return True


async def _update(connection: Connection, item: _Item, have: Config, changes: list[Change]) -> None:
    """Change only the fields that may change; what we do not know of stays as it is."""
    config = have | {change.field: change.want for change in changes if change.action == "update"}
    if "metadata" in item.wanted:
        config["metadata"] = (have.get("metadata") or {}) | item.wanted["metadata"]
    if "filter_subjects" in config:
        config.pop("filter_subject", None)
    try:
        if item.durable:
            body = {"stream_name": item.stream, "config": config, "action": "update"}
            await ask(connection, item.endpoint("CREATE"), body)
        else:
            await ask(connection, item.endpoint("UPDATE"), config)
    except ApiError as error:
        fields = ", ".join(change.field for change in changes if change.action == "update")
        raise NotApplied(f"{item.kind} {item.name}: the server refuses to change {fields}: {error}") from error
    except NoAnswer as silence:
        raise NotApplied(f"{item.kind} {item.name} may not be changed, apply again: {silence}") from silence


async def _extra(connection: Connection, pod: Pod) -> list[Change]:
    """Consumers that this pod made once and no longer declares: they hold up nothing, but nobody pulls them."""
    declared = {(consumer.stream, consumer.durable) for consumer in consumers_of(pod)}
    extra = []
    for stream in pod.streams:
        for info in await consumer_infos(connection, stream):
            mine = (info["config"].get("metadata") or {}).get("tieline.pod") == pod.name
            if mine and (stream, info["name"]) not in declared:
                why = "no agent of this pod has that name; remove it by hand when its work is done"
                extra.append(Change("consumer", f"{stream}/{info['name']}", "extra", "", None, None, why))
    return extra


async def stream_infos(connection: Connection) -> dict[str, dict[str, Any]]:
    """What the server knows of every stream of the account, by name; those without a leader do not answer."""
    found: dict[str, dict[str, Any]] = {}
    offset = 0  # counts those that do not answer too: by what was found alone, their page would be asked for for ever
    while True:
        answer = await connection.api("STREAM.LIST", {"offset": offset})
        page = answer.get("streams") or []
        found |= {info["config"]["name"]: info for info in page}
        offset += len(page) + len(answer.get("missing") or ())
        if not page or offset >= int(answer.get("total", 0)):
            return found


async def consumer_infos(connection: Connection, stream: str) -> list[dict[str, Any]]:
    """What the server knows of every consumer of a stream; empty where there is no such stream."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        except ApiError as error:
            if error.err_code == _STREAM_MISSING:
                return []
            raise
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= int(answer.get("total", 0)):
            return found
