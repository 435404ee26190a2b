"""What is read off a server, as plain values: rules are functions of it, and need no server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tieline import subjects
from tieline.diagnosis.capacity import Alarm
from tieline.pod import Pod
from tieline.services.skipped import Skipped
from tieline.wire.topology import Change

__all__ = ["EXHAUSTED", "ConsumerSeen", "Monitored", "Observation", "ServerSeen", "StreamSeen", "Times", "Unseen"]

_NANO = 1_000_000_000
_DEAD = re.compile(r"(?i)(?:^|[^a-z])(?:dlq|dead[-_]?letters?)(?:[^a-z]|$)")
EXHAUSTED = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"  # where the server says that a consumer's tries ran out


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSeen:
    """One consumer. Durations are in seconds. ``pod`` is whose it is, empty where it is not Tieline's.

    ``delivered`` counts deliveries. ``bound`` says that somebody listens to a push consumer's subject.
    """

    stream: str
    name: str
    durable: bool = True
    filters: tuple[str, ...] = ()
    acks: str = "explicit"
    ack_wait: float = 30.0
    backoff: tuple[float, ...] = ()
    max_deliver: int = -1
    replicas: int = 0
    push: bool = False
    bound: bool = False
    paused: bool = False
    pod: str = ""
    archives: bool = False
    pending: int = 0
    in_flight: int = 0
    waiting: int = 0
    delivered: int = 0

    @property
    def thing(self) -> str:
        """How findings name it."""
        return f"consumer {self.stream}/{self.name}"

    @property
    def patience(self) -> float:
        """How long the server waits for the first acknowledgement: ``backoff`` goes before ``ack_wait``."""
        return self.backoff[0] if self.backoff else self.ack_wait

    @property
    def unheard(self) -> bool:
        """Whether messages wait and nobody asks for them right now. A busy reader looks the same for a moment."""
        heard = self.bound if self.push else self.waiting > 0
        return self.pending > 0 and not heard and not self.paused

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "ConsumerSeen":
        """From an entry of ``$JS.API.CONSUMER.LIST``."""
        config = info["config"]
        single = config.get("filter_subject")
        notes = config.get("metadata") or {}
        return cls(
            stream=info["stream_name"],
            name=info["name"],
            durable=bool(config.get("durable_name")),
            filters=tuple(config.get("filter_subjects") or ([single] if single else [])),
            acks=config.get("ack_policy", "none"),
            ack_wait=config.get("ack_wait", 0) / _NANO,
            backoff=tuple(wait / _NANO for wait in config.get("backoff") or ()),
            max_deliver=config.get("max_deliver", -1),
            replicas=config.get("num_replicas", 0),
            push=bool(config.get("deliver_subject")),
            bound=bool(info.get("push_bound")),
            paused=bool(info.get("paused")),
            pod=str(notes.get("tieline.pod", "")),
            archives="archive" in info["name"].lower() or "tieline.archive" in notes,
            pending=info.get("num_pending", 0),
            in_flight=info.get("num_ack_pending", 0),
            waiting=info.get("num_waiting", 0),
            delivered=info["delivered"]["consumer_seq"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSeen:
    """One stream and its consumers. Durations are in seconds, limits of 0 are none; ``oldest`` is an age.

    ``ours``: a Tieline pod made it. ``expiring`` are subjects of sampled messages that carry a TTL.
    """

    name: str
    subjects: tuple[str, ...] = ()
    retention: str = "limits"
    storage: str = "file"
    discard: str = "old"
    max_age: float = 0.0
    max_bytes: int = 0
    max_messages: int = 0
    each: int = 0  # messages one subject may have
    replicas: int = 1
    duplicates: float = 120.0
    ttls: bool = False
    markers: float = 0.0
    rollups: bool = False
    schedules: bool = False
    acknowledges: bool = True
    persists: str = ""
    mirror: str = ""
    ours: bool = False
    messages: int = 0
    oldest: float = 0.0
    readers: int = 0  # consumers of all kinds
    on_system_account: bool = False
    expiring: tuple[str, ...] = ()
    consumers: tuple[ConsumerSeen, ...] = ()

    @property
    def thing(self) -> str:
        """How findings name it."""
        return f"stream {self.name}"

    @property
    def keyed(self) -> bool:
        """Whether each subject is one entity's: a key of a bucket, a conversation's state, a part of an object."""
        return self.each > 0 or self.name.startswith(("KV_", "OBJ_"))

    @property
    def captures(self) -> bool:
        """Whether it keeps the server's word that a consumer's tries ran out."""
        return any(subjects.overlaps(EXHAUSTED, stored) for stored in self.subjects)

    @property
    def dead(self) -> bool:
        """Whether it holds dead letters: by its name, or because everything it stores is named so."""
        roots = [subject.split(".")[0] for subject in self.subjects]
        return bool(_DEAD.search(self.name)) or (bool(roots) and all(_DEAD.search(root) for root in roots))

    @property
    def durables(self) -> tuple[ConsumerSeen, ...]:
        """The consumers that work is done on: ephemeral ones are readers that the server forgets."""
        return tuple(consumer for consumer in self.consumers if consumer.durable)

    @property
    def unowed(self) -> int:
        """Messages of a work queue that none of its consumers owes anybody; 0 for other streams."""
        if self.retention != "workqueue":
            return 0
        return self.messages - sum(consumer.pending + consumer.in_flight for consumer in self.consumers)

    @classmethod
    def of(
        cls, info: Mapping[str, Any], consumers: tuple[ConsumerSeen, ...] = (), expiring: tuple[str, ...] = ()
    ) -> "StreamSeen":
        """From an entry of ``$JS.API.STREAM.LIST``."""
        config, state = info["config"], info["state"]
        return cls(
            name=config["name"],
            subjects=tuple(config.get("subjects") or ()),
            retention=config.get("retention", "limits"),
            storage=config.get("storage", "file"),
            discard=config.get("discard", "old"),
            max_age=config.get("max_age", 0) / _NANO,
            max_bytes=max(0, config.get("max_bytes", -1)),
            max_messages=max(0, config.get("max_msgs", -1)),
            each=max(0, config.get("max_msgs_per_subject", -1)),
            replicas=config.get("num_replicas", 1),
            duplicates=config.get("duplicate_window", 0) / _NANO,
            ttls=bool(config.get("allow_msg_ttl")),
            markers=config.get("subject_delete_marker_ttl", 0) / _NANO,
            rollups=bool(config.get("allow_rollup_hdrs")),
            schedules=bool(config.get("allow_msg_schedules")),
            acknowledges=not config.get("no_ack"),
            persists=config.get("persist_mode", ""),
            mirror=(config.get("mirror") or {}).get("name", ""),
            ours=any(key.startswith("tieline.") for key in config.get("metadata") or {}),
            messages=state["messages"],
            oldest=_age(info) if state["messages"] else 0.0,
            readers=state.get("consumer_count", 0),
            on_system_account=bool((info.get("cluster") or {}).get("system_account")),
            expiring=expiring,
            consumers=consumers,
        )


def _age(info: Mapping[str, Any]) -> float:
    now = datetime.fromisoformat(info["ts"]) if "ts" in info else datetime.now(UTC)
    return max(0.0, (now - datetime.fromisoformat(info["state"]["first_ts"])).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSeen:
    """What the server said of itself. ``cluster`` is empty where it is alone."""

    name: str
    version: str
    cluster: str = ""
    account: str = "$G"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitored:
    """What ``/varz`` says. ``sync_interval`` is in seconds."""

    server: str
    sync_always: bool
    sync_interval: float


@dataclass(frozen=True, slots=True)
class Times:
    """How long one consumer's handlers took, from the facts of the audit. Seconds."""

    count: int
    p99: float


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, in the server's words or ours, and what would show it."""

    thing: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """All that one visit saw. ``again`` are the streams as they were a little later; empty where nothing needed it.

    ``skew`` is how far the server's clock is ahead of ours, in seconds and beyond doubt: the time that the answer
    took is allowed for. None where the server told no time. ``times`` are by stream and consumer; ``changes`` are
    what ``tieline plan`` would show; ``skipped`` are records that nobody could read; ``publish_patience`` is how long
    publishers try, in seconds.
    """

    server: ServerSeen
    streams: tuple[StreamSeen, ...] = ()
    again: tuple[StreamSeen, ...] = ()
    storage_limit: int = 0
    monitored: Monitored | None = None
    skew: float | None = 0.0
    times: Mapping[tuple[str, str], Times] = field(default_factory=dict)
    pod: Pod | None = None
    changes: tuple[Change, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    listed: bool = True  # whether streams could be listed at all
    publish_patience: float = 30.0
    alarms: tuple[Alarm, ...] = ()  # streams and storage that have little room left

    @property
    def consumers(self) -> tuple[ConsumerSeen, ...]:
        """All durable consumers."""
        return tuple(consumer for stream in self.streams for consumer in stream.durables)
