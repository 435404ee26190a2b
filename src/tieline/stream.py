"""`Stream`: one domain's messages, as data; and the streams that every pod has."""

import re
from dataclasses import dataclass
from datetime import timedelta

from tieline import subjects
from tieline.declared.arguments import Seconds, flag, instance, instances, texts, whole
from tieline.errors import BadDeclaration

__all__ = ["DEFAULT_MAX_BYTES", "Source", "Stream", "default_streams"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DAY = 86_400.0
_MIB = 1024 * 1024

DEFAULT_MAX_BYTES = 256 * _MIB
"""What a stream may hold that says nothing else. `Pod` gives it more where its ``expects`` asks for it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The server copies what ``stream`` stores on ``subject`` to ``to`` (NATS stream sourcing with a transform)."""

    stream: str
    subject: str
    to: str

    def __post_init__(self) -> None:
        for name in ("stream", "subject", "to"):
            instance(f"source.{name}", getattr(self, name), str, "a text")
        subjects.check_filter(self.subject)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One stream: file storage, limits retention, refusing rather than forgetting when full (``discard: new``).

    ``max_age`` is in seconds or text such as ``"2h"`` (None: for ever), ``max_bytes`` in bytes (None: no limit).
    ``duplicates`` is the window within which a second publish with the same ``Nats-Msg-Id`` is dropped. ``write_once``
    lets each subject be written a single time; ``keep_last`` keeps the newest message of each subject. ``delays`` lets
    `publish` delay its messages. ``replicas`` of None means 3 on a cluster and 1 on a single server.
    ``markers``: for so long the server leaves a mark where the last message of a subject became too old. It lets
    whoever may publish to the stream empty it (``Nats-Rollup``): only for streams that no agent publishes to.
    """

    name: str
    subjects: tuple[str, ...]
    max_age: Seconds[float | None] = Seconds(_DAY, optional=True)
    max_bytes: int | None = DEFAULT_MAX_BYTES
    duplicates: Seconds[float] = Seconds(timedelta(minutes=10).total_seconds())
    replicas: int | None = None
    ttls: bool = True
    write_once: bool = False
    keep_last: bool = False
    schedules: bool = False
    atomic: bool = False
    delays: bool = True
    markers: Seconds[float | None] = Seconds(None, optional=True)
    sources: tuple[Source, ...] = ()
    republish: tuple[str, str] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.match(instance("stream name", self.name, str, "a text")):
            raise BadDeclaration(f"stream name {self.name!r}: use letters, digits, '_' and '-', at most 64")
        self._check_types()
        if not self.subjects:
            raise BadDeclaration(f"stream {self.name}: no subjects; name the subjects of its one domain")
        for subject in self.subjects:
            subjects.check_filter(subject)
            if subject == ">":
                raise BadDeclaration(
                    f"stream {self.name}: '>' is one stream for everything; name one domain's subjects"
                )
        if self.max_age is not None and self.max_age < 1:
            raise BadDeclaration(f"stream {self.name}: max_age must be at least 1, not {self.max_age!r}")
        if self.max_age is not None and self.duplicates > self.max_age:
            raise BadDeclaration(
                f"stream {self.name}: the duplicate window ({self.duplicates:g} s) is longer than max_age "
                f"({self.max_age:g} s); NATS refuses that, shorten duplicates"
            )

    def _check_types(self) -> None:
        """One subject or source may stand alone; it becomes a tuple of one."""
        own = f"stream {self.name}"
        object.__setattr__(self, "subjects", texts(f"{own}: subjects", self.subjects))
        object.__setattr__(self, "sources", instances(f"{own}: sources", self.sources, Source, "a Source"))
        for name in ("ttls", "write_once", "keep_last", "schedules", "atomic", "delays"):
            flag(f"{own}: {name}", getattr(self, name))
        if self.max_bytes is not None:
            whole(f"{own}: max_bytes", self.max_bytes, 1024)
        if self.replicas is not None:
            whole(f"{own}: replicas", self.replicas, 1)
        if self.republish is not None and len(texts(f"{own}: republish", self.republish)) != 2:
            raise BadDeclaration(f"{own}: republish must be two texts, from and to, not {self.republish!r}")
        instance(f"{own}: description", self.description, str, "a text")


def default_streams() -> tuple[Stream, ...]:
    """The streams of the wire contract: intents, tools, the journal, results, the audit, dead letters, time."""
    return (
        Stream(
            name="CALL_INTENT",
            subjects=("call.intent.*", "redrive.call_intent.*"),
            atomic=True,  # redrives
            description="what callers want, one subject an intent",
        ),
        Stream(
            name="TOOL_CALL",
            subjects=("tool.call.*", "redrive.tool_call.*"),
            atomic=True,  # redrives
            delays=False,
            description="tool calls, one subject a tool",
        ),
        Stream(
            name="STEP",
            subjects=("step.*.*.*.*",),
            max_age=15 * _DAY,  # age of dead letters + longest park + 1 day
            max_bytes=1024 * _MIB,
            ttls=False,
            write_once=True,
            republish=("step.*.*.*.*", "nudge.step.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}"),
            delays=False,
            description="the journal: each step's result, written once",
        ),
        Stream(
            name="TOOL_RESULT",
            subjects=("tool.result.*",),
            sources=(Source("STEP", "step.*.*.tool.*", "tool.result.{{wildcard(2)}}"),),
            delays=False,
            description="tool results by conversation, for any listener",
        ),
        Stream(
            name="CANCELLED",
            subjects=("cancelled.*",),
            max_age=15 * _DAY,
            max_bytes=16 * _MIB,
            keep_last=True,
            markers=_DAY,
            delays=False,
            description="which conversations are cancelled, for every process to read",
        ),
        Stream(
            name="CALL_AUDIT",
            subjects=("call.audit", "call.audit.*"),
            max_age=7 * _DAY,
            max_bytes=512 * _MIB,
            ttls=False,
            atomic=True,
            delays=False,
            description="facts by conversation",
        ),
        Stream(
            name="ACCOUNTING",
            subjects=("accounting.*", "accounting.*.*"),
            max_age=None,
            max_bytes=64 * _MIB,
            ttls=False,
            keep_last=True,
            atomic=True,  # a checkpoint that needs several messages
            delays=False,
            description="each pod's accounts, and how far its streams were read",
        ),
        Stream(
            name="STATE",
            subjects=("state.*",),
            max_age=30 * _DAY,
            keep_last=True,
            delays=False,
            description="each conversation's state",
        ),
        Stream(
            name="OBJ_TIELINE",
            subjects=("$O.TIELINE.C.>", "$O.TIELINE.M.>"),
            max_age=16 * _DAY,  # a day over the journal's: an object is used again for that long
            max_bytes=1024 * _MIB,
            ttls=False,
            delays=False,
            description="large payloads and results: an object store (ADR-20)",
        ),
        Stream(
            name="KEYS",
            subjects=("key.*",),
            max_age=None,
            max_bytes=16 * _MIB,
            ttls=False,
            keep_last=True,
            delays=False,
            description="who signs: the JWT of each user",
        ),
        Stream(
            name="RATE",
            subjects=("rate.*",),
            max_bytes=_MIB,
            duplicates=60.0,
            ttls=False,
            keep_last=True,
            delays=False,
            description="when each rate-limited tool may be called next",
        ),
        Stream(
            name="DLQ",
            subjects=("DLQ.>",),
            max_age=7 * _DAY,
            ttls=False,
            delays=False,
            description="messages that will not be delivered again, with their cause",
        ),
        Stream(
            name="SCHEDULE",
            subjects=("schedule.*", "due.>"),
            max_age=None,
            max_bytes=None,
            schedules=True,
            delays=False,
            description="delayed messages, held by the server",
        ),
        Stream(
            name="ADVISORY",
            subjects=(
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>",
            ),
            max_age=7 * _DAY,
            max_bytes=64 * _MIB,
            ttls=False,
            delays=False,
            description="the server's word on messages of consumers that are not ours",
        ),
    )
