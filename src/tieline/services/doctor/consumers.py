"""Rules on consumers: what they take, how they acknowledge, and whether anybody pulls them."""

from collections.abc import Iterator

from tieline import subjects
from tieline.services.doctor.finding import Finding, Rule, Severity
from tieline.services.doctor.observation import ConsumerSeen, Observation, StreamSeen
from tieline.services.doctor.remedy import edit_consumer, recreate
from tieline.wire.topology import agent_of, is_resume

__all__ = ["RULES", "judge"]

NO_FILTER = Rule(
    "no-filter",
    "a durable consumer without a filter subject",
    "it is sent every message of the stream, also those of other agents, and must throw them away itself",
)
CATCH_ALL = Rule(
    "catch-all-filter",
    "a filter that takes everything the stream stores",
    "a new kind of message reaches a handler that was never written for it; a filter for each handler keeps them apart",
)
OVERLAP = Rule(
    "overlapping-filters",
    "two consumers of a stream whose filters meet",
    "each of them is sent the same messages: right for fan-out, work done twice where it was not meant",
)
ACKS = Rule(
    "acks-not-explicit",
    "a durable consumer whose ack policy is not explicit",
    "with none, a message counts as handled when it is sent, and a crash loses it; with all, one acknowledgement also "
    "settles earlier messages that are still being worked on",
)
UNLIMITED = Rule(
    "unlimited-deliveries",
    "max_deliver without limit on a consumer that is not Tieline's",
    "a message that always fails comes back for ever, and takes its share of every batch; Tieline's agents count "
    "attempts themselves",
)
ACK_WAIT = Rule(
    "ack-wait-short",
    "an ack wait under the 99th percentile of the handler's time",
    "the server takes a slow handler for dead and delivers the message again while the first run still works",
)
NOBODY = Rule(
    "nobody-pulls",
    "messages wait, and two looks in a row saw no pull and no delivery",
    "the work is not being done; nor does the server send advisories of exhausted tries while nobody pulls",
)
RULES = (NO_FILTER, CATCH_ALL, OVERLAP, ACKS, UNLIMITED, ACK_WAIT, NOBODY)


def judge(seen: Observation) -> Iterator[Finding]:
    """All findings about durable consumers. Ephemeral ones are readers, and not judged; an archive reads everything."""
    for stream in seen.streams:
        for consumer in stream.durables:
            if not (consumer.archives or _moves_letters(stream)):
                yield from _takes(stream, consumer)
            yield from _acknowledges(stream, consumer)
        yield from _overlaps(stream)
    yield from _slow(seen)
    yield from _unpulled(seen)


def _takes(stream: StreamSeen, consumer: ConsumerSeen) -> Iterator[Finding]:
    several = len(stream.subjects) > 1 or any("*" in subject or ">" in subject for subject in stream.subjects)
    remedy = edit_consumer(consumer, "--filter SUBJECT", '"filter_subjects": ["SUBJECT"]')
    if not consumer.filters:
        yield NO_FILTER.found(
            "warning" if several else "note", consumer.thing, f"no filter; it takes {_listed(stream.subjects)}", remedy
        )
    elif several and all(_taken(consumer, stored) for stored in stream.subjects):
        yield CATCH_ALL.found(
            "warning", consumer.thing, f"{_listed(consumer.filters)} takes all that {stream.name} stores", remedy
        )


def _moves_letters(stream: StreamSeen) -> bool:
    """Who reads dead letters or the server's word of them takes all of them, and must not give up on one."""
    return stream.dead or stream.captures


def _taken(consumer: ConsumerSeen, stored: str) -> bool:
    return any(subjects.covers(wanted, stored) for wanted in consumer.filters)


def _overlaps(stream: StreamSeen) -> Iterator[Finding]:
    """Equal filters are fan-out as it is usually meant; one filter inside another is usually an accident."""
    filtered = [
        consumer
        for consumer in stream.durables
        if consumer.filters and not consumer.archives and not all(_taken(consumer, s) for s in stream.subjects)
    ]
    for at, one in enumerate(filtered, 1):
        met: dict[Severity, list[str]] = {}
        for other in filtered[at:]:
            pairs = [(a, b) for a in one.filters for b in other.filters if subjects.overlaps(a, b)]
            if pairs:
                meant = all(a == b for a, b in pairs) or bool(one.pod and one.pod == other.pod)
                mine, theirs = next(((a, b) for a, b in pairs if a != b), pairs[0])
                met.setdefault("note" if meant else "warning", []).append(f"{mine} meets {theirs} of {other.name}")
        for severity, meetings in met.items():
            yield OVERLAP.found(
                severity,
                one.thing,
                _listed(meetings),
                "nothing where both are to handle them; else "
                + edit_consumer(one, "--filter SUBJECT", '"filter_subjects" that do not meet'),
            )


def _acknowledges(stream: StreamSeen, consumer: ConsumerSeen) -> Iterator[Finding]:
    if consumer.acks in ("none", "all"):
        remedy = recreate(consumer, "--ack explicit", '"ack_policy": "explicit"')
        yield ACKS.found(
            "error" if consumer.acks == "none" else "warning", consumer.thing, f"ack policy {consumer.acks}", remedy
        )
    elif consumer.acks == "explicit" and consumer.max_deliver < 1 and not (consumer.pod or _moves_letters(stream)):
        yield UNLIMITED.found(
            "warning",
            consumer.thing,
            f"max_deliver {consumer.max_deliver}",
            edit_consumer(consumer, "--max-deliver 5", '"max_deliver": 5')
            + "; and keep what dies: a stream on $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
        )


def _slow(seen: Observation) -> Iterator[Finding]:
    untimed = []
    letters = {stream.name for stream in seen.streams if _moves_letters(stream)}
    for consumer in seen.consumers:
        times = seen.times.get((consumer.stream, consumer.name))
        if consumer.acks != "explicit":
            continue
        if times is None:
            untimed += [] if consumer.pod or consumer.stream in letters else [f"{consumer.stream}/{consumer.name}"]
        elif times.p99 > consumer.patience:
            what = f"ack wait {consumer.patience:g} s, p99 of {times.count} runs {times.p99:.3g} s"
            wanted = max(1, round(times.p99 * 2))
            remedy = edit_consumer(consumer, f"--wait {wanted}s", f'"ack_wait": {wanted * 1_000_000_000}')
            if consumer.pod:
                what += "; Tieline extends the delivery while a handler runs, unless it blocks the event loop"
                remedy = f"nothing, or Limits(ack_wait={wanted}) in the pod and `tieline apply POD`"
            yield ACK_WAIT.found("note" if consumer.pod else "warning", consumer.thing, what, remedy)
    if untimed:
        yield ACK_WAIT.found(
            "unknown",
            "consumers",
            f"no handler times are known of {_listed(untimed)}: CALL_AUDIT has no facts of them",
            "compare each one's own p99 with its ack_wait; agents of Tieline tell theirs",
        )


def _unpulled(seen: Observation) -> Iterator[Finding]:
    later = {(c.stream, c.name): c for stream in seen.again for c in stream.durables}
    advised = {stream.name for stream in seen.streams if stream.captures and stream.ours}
    for first in seen.consumers:
        second = later.get((first.stream, first.name))
        if second is None or not (first.unheard and second.unheard) or second.delivered != first.delivered:
            continue
        main = later.get((first.stream, agent_of(first.name))) if is_resume(first.name) else None
        if main is not None and (main.in_flight or not main.unheard):
            continue  # its process has no free slot, or has just asked for new messages
        if second.in_flight:
            yield NOBODY.found(
                "note",
                first.thing,
                f"{second.pending} wait and nobody asks for more; {second.in_flight} are delivered and not settled: "
                "its readers are busy, or died a moment ago",
                "look again after its ack wait; if it stays so, start another replica",
            )
            continue
        remedy = "start its readers"
        if first.pod or first.stream in advised:
            process = "audit" if first.stream in advised else _process(first)
            remedy = f"start it: tieline run POD {process}, or tieline up POD"
        yield NOBODY.found(
            "warning",
            first.thing,
            f"{second.pending} wait and nobody {'listens' if first.push else 'pulls'}",
            f"{remedy}; or, if nobody needs it any more: nats consumer rm {first.stream} {first.name}",
        )


def _process(consumer: ConsumerSeen) -> str:
    """The process of a pod that pulls it: tools share one, and an agent's brings its parked messages back."""
    return "tools" if consumer.name.startswith("tool-") else agent_of(consumer.name)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
