"""Streams and consumers as data: what the server has, what the pod declares, and the way from one to the other.

Nothing here deletes. What holds messages is changed in place or left alone and said so.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tieline import subjects
from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.stream import Source, Stream
from tieline.wire import new_consumers
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.declared_consumers import (
    Consumer,
    agent_of,
    consumers_of,
    is_resume,
    is_waker,
    resume_name,
    waker_name,
)
from tieline.wire.infos import consumer_infos, stream_infos
from tieline.wire.peers import ask
from tieline.wire.room import fitted, with_room
from tieline.wire.stream_copy import DENIALS, is_rebuilt, rebuild
from tieline.wire.versions import newer_version, refuse_old

__all__ = [
    "Change",
    "Consumer",
    "agent_of",
    "apply",
    "consumer_infos",
    "consumers_of",
    "create_consumer",
    "is_resume",
    "is_waker",
    "plan",
    "resume_name",
    "stream_config",
    "stream_infos",
    "waker_name",
]

type Config = dict[str, Any]
type Action = Literal["create", "update", "keep", "refuse", "extra"]

_MAX_DELIVER = 1000  # a far backstop: attempts are counted by us, because the server counts innocents too
_MAX_ACK_PENDING = 10_000  # fleet-wide, well above all slots: sleepers and slow handlers never stop the others
_NANO = 1_000_000_000
_STREAM_MISSING, _STREAM_EXISTS, _CONSUMER_MISSING, _CONSUMER_EXISTS = 10059, 10058, 10014, 10148
_FIXED = frozenset({"storage", "retention", "max_consumers", "ack_policy"})  # set at creation only
_ONE_WAY = frozenset({"allow_msg_ttl", "allow_msg_schedules", "deny_delete", "deny_purge"})  # on, never off
_SHRINKING = frozenset({"max_age", "max_bytes", "max_msgs_per_subject"})  # lowering one deletes what no longer fits


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the pod and the server.

    ``action``: ``create`` and ``update`` are what `apply` does; ``keep`` is left to a newer version of the pod;
    ``refuse`` cannot be done without recreating or deleting; ``extra`` is on the server and not in the pod.
    ``stored`` is how many stored messages a consumer that is created will be given.
    """

    kind: Literal["stream", "consumer"]
    name: str
    action: Action
    field: str
    have: Any
    want: Any
    why: str = ""
    stored: int = 0


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
        "subject_delete_marker_ttl": int((stream.markers or 0) * _NANO),
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
    if consumer.declared_as not in ("", consumer.durable):
        metadata = {**metadata, new_consumers.RENAMED: consumer.declared_as}
    return {
        "durable_name": consumer.durable,
        "name": consumer.durable,
        "ack_policy": "explicit",
        **new_consumers.delivery_start(consumer.start),
        "filter_subjects": list(consumer.filters),
        "ack_wait": int(consumer.limits.ack_wait * _NANO),
        "max_deliver": _MAX_DELIVER,
        "max_ack_pending": _MAX_ACK_PENDING,
        "headers_only": consumer.kind == "waker",  # it looks where an answer is, not what it says
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


async def _items(connection: Connection, pod: Pod, smaller: float = 1.0) -> list[_Item]:
    # Streams may be shared by several pods, so each notes its own version; a consumer belongs to one.
    version = {f"tieline.version.{pod.name}": pod.version}
    owned = {"tieline.pod": pod.name, **version}
    replicas, fit = 3 if connection.server.get("cluster") else 1, await fitted(connection, pod, smaller)
    # SCHEDULE first: the server looks for a source that is missing only every ten seconds.
    ordered = sorted(fit.values(), key=lambda stream: not stream.schedules)
    streams = [_Item("stream", s.name, "", stream_config(s, replicas, version)) for s in ordered]
    consumers = [_Item("consumer", c.stream, c.durable, _consumer_config(c, owned)) for c in consumers_of(pod)]
    return streams + consumers


async def plan(connection: Connection, pod: Pod, *, force: bool = False) -> list[Change]:
    """What `apply` would do and what it would leave, field by field; empty when the server is as declared."""
    refuse_old(connection)
    items = await _items(connection, pod)
    await new_consumers.refuse_renames(connection, pod)
    changes: list[Change] = []
    for item in items:
        changes += _differences(item, await _config(connection, item), force)
    changes = [await _with_stored(connection, pod, change) for change in changes]
    left_behind = await new_consumers.consumers_left_behind(connection, pod, consumers_of(pod))
    why = "no agent of this pod has that name; `tieline apply --prune` removes it with what is left of it"
    return changes + [
        Change("consumer", f"{stream}/{info['name']}", "extra", "", None, None, why)
        for stream, infos in left_behind.items()
        for info in infos
    ]


async def apply(
    connection: Connection,
    pod: Pod,
    *,
    force: bool = False,
    before_replay: Callable[[Change], None] = lambda _: None,
) -> list[Change]:
    """Make the server as the pod declares, and return what was done and what was left.

    Idempotent; safe to run from several processes at once. Never deletes or recreates. ``force`` also changes what a
    newer version of the pod holds, and lowers limits that make the server drop stored messages. ``before_replay`` is
    called before a consumer is created that will be given stored messages. Raises `NotApplied` with the server's words
    when it refuses, and before anything is changed when another pod holds a consumer.
    """
    refuse_old(connection)
    return await with_room(connection, pod, lambda part: _applied(connection, pod, part, force, before_replay))


async def _applied(
    connection: Connection, pod: Pod, smaller: float, force: bool, before_replay: Callable[[Change], None]
) -> list[Change]:
    items = await _items(connection, pod, smaller)
    for item in items:
        _refuse_strangers(item, await _config(connection, item), pod)
    await new_consumers.refuse_renames(connection, pod)
    done: list[Change] = []
    for item in items:
        if is_rebuilt(item.wanted) and await rebuild(connection, item.wanted):
            done.append(Change(item.kind, item.name, "update", "deny_delete", True, False, "the stream was copied"))
        have = await _config(connection, item)
        changes = [await _with_stored(connection, pod, change) for change in _differences(item, have, force)]
        for change in changes:
            if change.stored:
                before_replay(change)
        if any(change.action == "create" for change in changes) and not await _create(connection, item):
            have = await _config(connection, item)  # another process made it in between: now it is an update
            changes = _differences(item, have, force)
        if have is not None and any(change.action == "update" for change in changes):
            await _update(connection, item, have, changes)
        done += changes
    return done


async def create_consumer(connection: Connection, pod: Pod, consumer: Consumer, begin: int) -> bool:
    """Create one of the pod's consumers so that it begins at a sequence. False where somebody else created it first."""
    name = f"{consumer.stream}/{consumer.durable}"
    [item] = [one for one in await _items(connection, pod) if one.name == name]
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": begin}
    return await _create(connection, replace(item, wanted=item.wanted | start))


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
    newer = newer_version(have, item.wanted)
    for field, want in item.wanted.items():
        if field in new_consumers.CREATION_ONLY:
            continue
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


def _refuse_strangers(item: _Item, have: Config | None, pod: Pod) -> None:
    owner = ((have or {}).get("metadata") or {}).get("tieline.pod", pod.name)
    if item.kind == "consumer" and owner != pod.name:
        whose = f"consumer {item.durable!r} of stream {item.stream} belongs to pod {owner!r}"
        raise NotApplied(f"{whose}; two pods in one account need different agent names, or an account each")


async def _create(connection: Connection, item: _Item) -> bool:
    """False where somebody else made it first, differently."""
    body = item.wanted
    try:
        if item.durable:
            if is_resume(item.durable):
                config = await new_consumers.resume_beginning(connection, item.stream, item.durable, item.wanted)
            else:
                config = await new_consumers.beginning(connection, item.stream, item.wanted)
            body = {"stream_name": item.stream, "config": config, "action": "create"}
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


async def _with_stored(connection: Connection, pod: Pod, change: Change) -> Change:
    """A consumer that would be created, with how many stored messages it would be given, and how to avoid that."""
    stream, _, durable = change.name.partition("/")
    if change.action != "create" or not durable or is_waker(durable) or is_resume(durable):
        return change
    if not (stored := await new_consumers.stored_for(connection, stream, change.want)):
        return change
    left_behind = await new_consumers.consumers_left_behind(connection, pod, consumers_of(pod))
    why = new_consumers.explain_stored(stored, change.want, left_behind.get(stream, ()))
    return replace(change, stored=stored, why=why)
