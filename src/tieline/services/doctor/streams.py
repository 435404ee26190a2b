"""Rules on streams: what they store, how long, how safely, and who could empty them."""

from collections.abc import Iterator

from tieline.services.doctor.finding import Finding, Rule, Severity
from tieline.services.doctor.observation import Observation, StreamSeen
from tieline.services.doctor.remedy import edit_stream

__all__ = ["RULES", "judge"]

_DAY = 86_400.0
_LONG = 7 * _DAY

DOMAINS = Rule(
    "several-domains",
    "one stream that stores the subjects of several domains",
    "limits, replicas and the duplicate window belong to the stream: one domain's flood pushes out the others' "
    "messages, and one purge empties all of them",
)
NO_LIMITS = Rule(
    "no-limits",
    "a stream without a limit of age, bytes or messages",
    "it grows until the disk is full; then streams stop storing, publishers only time out, and freeing space does not "
    "help before a restart",
)
FORGETS = Rule(
    "forgets-silently",
    "a size limit with discard old",
    "when it is full the server still acknowledges, and drops the oldest messages whether or not anybody has handled "
    "them; with discard new the publisher is told",
)
WEAK = Rule(
    "not-durable",
    "memory storage, asynchronous persistence, or no acknowledgement of publishes",
    "what the publisher takes for stored can be gone after a restart or a crash",
)
TTL = Rule(
    "ttl-not-allowed",
    "messages with a TTL on a stream that does not allow TTLs",
    "a publish with Nats-TTL is refused (err_code 10166), and what was copied here with one never expires",
)
ROLLUP = Rule(
    "rollup-on-shared-subject",
    "delete markers or rollup headers on a stream whose subjects are shared",
    "whoever may publish one message may empty the subject or the whole stream with the header Nats-Rollup; a marker "
    "on a shared subject stands for the last message only",
)
WINDOW = Rule(
    "duplicate-window-short",
    "a duplicate window shorter than publishers keep trying",
    "a retry after the window is stored a second time, although it carries the same Nats-Msg-Id",
)
WAREHOUSE = Rule(
    "warehouse",
    "messages kept for more than seven days and no archive that reads them",
    "a stream is a buffer: restarts, catch-up of replicas and backups grow with it, and history has no second copy",
)
FILLING = Rule(
    "filling",
    "a stream, or the account's storage, that is 70 % full or more",
    "what is full takes no more messages; a pod whose journal (STEP) or audit (CALL_AUDIT) is full waits for room",
)
RULES = (FILLING, DOMAINS, NO_LIMITS, FORGETS, WEAK, TTL, ROLLUP, WINDOW, WAREHOUSE)


def judge(seen: Observation) -> Iterator[Finding]:
    """All findings about streams, and about what a pod publishes to them."""
    for alarm in seen.alarms:
        severity: Severity = "warning" if alarm.level == "warning" else "error"
        yield FILLING.found(severity, alarm.thing, f"{alarm.ratio:.0%} full; when full, {alarm.means}", alarm.remedy)
    mirrored = {stream.mirror for stream in seen.streams}
    for stream in seen.streams:
        yield from _domains(stream)
        yield from _limits(stream, seen.storage_limit)
        yield from _durable(stream)
        yield from _expiring(stream, seen)
        yield from _rollups(stream)
        yield from _window(stream, seen.publish_patience)
        if stream.name not in mirrored:
            yield from _kept(stream)


def _domains(stream: StreamSeen) -> Iterator[Finding]:
    if stream.schedules:  # holds what is to be sent on, whatever the domain
        return
    first = {subject.split(".")[0] for subject in stream.subjects}
    roots = sorted(root for root in first if root != "redrive" and not root.startswith("$"))
    if len(roots) > 1 or {"*", ">"} & set(roots):
        yield DOMAINS.found(
            "warning",
            stream.thing,
            f"it stores {', '.join(stream.subjects)}",
            f"one stream for each of {', '.join(roots)}; "
            + edit_stream(stream, "--subjects SUBJECT", '"subjects": ["SUBJECT"]'),
        )


def _limits(stream: StreamSeen, account: int) -> Iterator[Finding]:
    if stream.schedules:  # a limit would drop what is still to be sent
        return
    limited = stream.max_bytes or stream.max_messages
    if not limited and not stream.max_age:
        bounded = f"; the account's own limit is {account} bytes for all" if account > 0 else ""
        yield NO_LIMITS.found(
            "note" if bounded else "warning",
            stream.thing,
            f"no limit ({stream.retention} retention){bounded}",
            edit_stream(
                stream,
                "--max-age 24h --max-bytes 1GB --discard new",
                '"max_age": 86400000000000, "max_bytes": 1000000000, "discard": "new"',
            ),
        )
    if limited and stream.discard == "old" and not stream.keyed and not stream.mirror:
        worked_on = any(consumer.acks != "none" for consumer in stream.durables)
        yield FORGETS.found(
            "warning" if worked_on else "note",
            stream.thing,
            "discard old with a limit of " + (f"{limited} bytes" if stream.max_bytes else f"{limited} messages"),
            edit_stream(stream, "--discard new", '"discard": "new"'),
        )


def _durable(stream: StreamSeen) -> Iterator[Finding]:
    if not stream.acknowledges:
        yield WEAK.found(
            "error",
            stream.thing,
            "no_ack: publishers get no answer",
            edit_stream(stream, "--ack", '"no_ack": false'),
        )
    if stream.storage == "memory":
        yield WEAK.found(
            "warning",
            stream.thing,
            f"memory storage, {stream.replicas} {'replica' if stream.replicas == 1 else 'replicas'}",
            f"fixed once made: make a stream with file storage, move the subjects of {stream.name} to it",
        )
    if stream.persists == "async":
        yield WEAK.found(
            "warning",
            stream.thing,
            "persist_mode async: 13 of 500 acknowledged messages were gone after a killed server",
            f"fixed once made: make a stream without persist_mode, move the subjects of {stream.name} to it",
        )


def _expiring(stream: StreamSeen, seen: Observation) -> Iterator[Finding]:
    if stream.ttls:
        return
    remedy = edit_stream(stream, "--allow-msg-ttl", '"allow_msg_ttl": true') + " (it can never be turned off again)"
    if stream.expiring:
        subject = stream.expiring[0]
        yield TTL.found("warning", stream.thing, f"a message on {subject} carries Nats-TTL, which is ignored", remedy)
    for agent in seen.pod.agents.values() if seen.pod else ():
        for model in agent.models:
            bound = model.tieline_binding
            if bound and bound.ttl and seen.pod and seen.pod.stream_of(bound.filter).name == stream.name:
                what = f"{model.__name__} ({bound.filter}) has a TTL of {bound.ttl:g} s: its publishes are refused"
                yield TTL.found("error", stream.thing, what, remedy)


def _rollups(stream: StreamSeen) -> Iterator[Finding]:
    if stream.keyed or stream.mirror or not (stream.rollups or stream.markers):
        return
    if stream.schedules:
        yield ROLLUP.found(
            "note",
            stream.thing,
            "rollup headers are allowed, because the server forces them on where messages are scheduled",
            f"permit publishing to {', '.join(stream.subjects)} only to those who schedule",
        )
        return
    what = f"delete markers ({stream.markers:g} s)" if stream.markers else "rollup headers are allowed"
    yield ROLLUP.found(
        "warning",
        stream.thing,
        f"{what} on {', '.join(stream.subjects)}",
        edit_stream(
            stream,
            ("--subject-del-markers-ttl 0s " if stream.markers else "") + "--no-allow-rollup",
            ('"subject_delete_marker_ttl": 0, ' if stream.markers else "") + '"allow_rollup_hdrs": false',
        ),
    )


def _window(stream: StreamSeen, patience: float) -> Iterator[Finding]:
    if stream.captures:  # written by the server, which retries nothing
        return
    if stream.subjects and not stream.mirror and stream.duplicates < patience:
        yield WINDOW.found(
            "warning",
            stream.thing,
            f"duplicate window {stream.duplicates:g} s, publishers try for {patience:g} s",
            edit_stream(stream, "--dupe-window 10m", '"duplicate_window": 600000000000')
            + "; or a lower TIELINE_PUBLISH_PATIENCE",
        )


def _kept(stream: StreamSeen) -> Iterator[Finding]:
    if stream.retention != "limits" or stream.keyed or stream.schedules or stream.mirror:
        return
    if any(consumer.archives for consumer in stream.consumers):
        return
    if stream.max_age > _LONG:
        what = f"max_age {stream.max_age / _DAY:.3g} days"
    elif not stream.max_age and stream.oldest > _LONG:
        what = f"no max_age, the oldest message is {stream.oldest / _DAY:.3g} days old"
    else:
        return
    yield WAREHOUSE.found(
        "warning",
        stream.thing,
        f"{what}, and no consumer called archive or mirror reads it",
        "give it an archive (a durable consumer with archive in its name, or a mirror); then "
        + edit_stream(stream, "--max-age 7d", '"max_age": 604800000000000'),
    )
