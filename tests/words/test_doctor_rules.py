"""The doctor's rules, without a server: each one speaks of what it is for, and is silent beside it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tieline import Conversation, Message, Pod, Stream
from tieline.diagnosis.capacity import Alarm, alarms
from tieline.services.doctor import RULES, examine
from tieline.services.doctor.monitoring import beyond_doubt
from tieline.services.doctor.observation import (
    EXHAUSTED,
    ConsumerSeen,
    Monitored,
    Observation,
    ServerSeen,
    StreamSeen,
    Times,
    Unseen,
)
from tieline.services.skipped import Skipped
from tieline.wire.topology import Change

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "doctor.md"
DAY = 86_400.0

HEALTHY_CONSUMER = ConsumerSeen(stream="ORDERS", name="billing", filters=("orders.new",), max_deliver=5)
HEALTHY = StreamSeen(
    name="ORDERS", subjects=("orders.*",), discard="new", max_age=DAY, max_bytes=10**9, consumers=(HEALTHY_CONSUMER,)
)
CAPTURE = StreamSeen(name="ADVISORY", subjects=(EXHAUSTED,), discard="new", max_age=DAY)
SERVER = ServerSeen(name="n1", version="2.15.1")
SYNCED = Monitored(server="n1", sync_always=True, sync_interval=120)
KNOWN = {("ORDERS", "billing"): Times(100, 2.0)}


def seen(*streams: StreamSeen, **fields: Any) -> Observation:
    told: dict[str, Any] = {"server": SERVER, "monitored": SYNCED, "times": KNOWN} | fields
    return Observation(streams=(*streams, CAPTURE), **told)


def stream(**fields: Any) -> Observation:
    """A healthy stream but for these fields."""
    return seen(replace(HEALTHY, **fields))


def consumer(**fields: Any) -> Observation:
    """A healthy consumer but for these fields."""
    return stream(consumers=(replace(HEALTHY_CONSUMER, **fields),))


def filled(percent: int) -> tuple[Alarm, ...]:
    """The alarms of a stream that is that full."""
    return tuple(alarms([{"config": {"name": "ORDERS", "max_bytes": 100}, "state": {"bytes": percent}}]))


def twice(first: StreamSeen, second: StreamSeen) -> Observation:
    return replace(seen(first), again=(second,))


def two(**other: Any) -> Observation:
    beside = ConsumerSeen(stream="ORDERS", name="mail", max_deliver=5, **other)
    known = {**KNOWN, ("ORDERS", "mail"): Times(1, 0.1)}
    return replace(stream(consumers=(HEALTHY_CONSUMER, beside)), times=known)


def clustered(**fields: Any) -> Observation:
    server = ServerSeen(name="n1", version="2.15.1", cluster="C1", account="A")
    three = replace(CAPTURE, replicas=3)
    return Observation(
        server=server, monitored=SYNCED, times=KNOWN, streams=(replace(HEALTHY, **({"replicas": 3} | fields)), three)
    )


def waiting(**fields: Any) -> StreamSeen:
    return replace(HEALTHY, consumers=(replace(HEALTHY_CONSUMER, **({"pending": 3} | fields)),))


def queue(**fields: Any) -> StreamSeen:
    told: dict[str, Any] = {"retention": "workqueue", "messages": 5} | fields
    return replace(HEALTHY, consumers=(replace(HEALTHY_CONSUMER, pending=3, waiting=1),), **told)


class Quick(Message, subject="orders.quick", ttl="5m"):
    call_id: str


def declared() -> Pod:
    pod = Pod("shop", streams=(Stream(name="ORDERS", subjects=("orders.*",)),))

    @pod.agent
    async def clerk(_: Quick, __: Conversation) -> None: ...

    return pod


def change(action: str, **fields: Any) -> Change:
    told: dict[str, Any] = {"field": "max_age", "have": 1, "want": 2, "why": ""} | fields
    return Change("stream", "ORDERS", action, **told)  # type: ignore[arg-type]  # a table of literals


def stream_with_skipped() -> Observation:
    return replace(stream(), skipped=(Skipped("fact", 3, "host:1", 1e9, "CALL_AUDIT", 7, "call.audit.c"),))


CASES: list[tuple[str, str, Observation]] = [
    ("no-filter", "warning", consumer(filters=())),
    ("no-filter", "note", stream(subjects=("orders.new",), consumers=(replace(HEALTHY_CONSUMER, filters=()),))),
    ("catch-all-filter", "warning", consumer(filters=("orders.>",))),
    ("overlapping-filters", "note", two(filters=("orders.new",))),
    ("overlapping-filters", "warning", stream(
        subjects=("orders.*.*",),
        consumers=(replace(HEALTHY_CONSUMER, filters=("orders.new.*",)),
                   replace(HEALTHY_CONSUMER, filters=("orders.*.eu",))),
    )),
    ("acks-not-explicit", "error", consumer(acks="none")),
    ("acks-not-explicit", "warning", consumer(acks="all")),
    ("unlimited-deliveries", "warning", consumer(max_deliver=-1)),
    ("ack-wait-short", "warning", consumer(ack_wait=1.5)),
    ("ack-wait-short", "warning", consumer(backoff=(1.0, 60.0))),  # it goes before the ack wait
    ("ack-wait-short", "note", consumer(ack_wait=1.5, pod="shop")),  # Tieline extends deliveries
    ("ack-wait-short", "unknown", seen(HEALTHY, times={})),
    ("nobody-pulls", "warning", twice(waiting(), waiting())),
    ("nobody-pulls", "warning", twice(waiting(push=True, waiting=1), waiting(push=True, waiting=1))),
    ("nobody-pulls", "note", twice(waiting(in_flight=1), waiting(in_flight=1))),
    ("filling", "warning", seen(HEALTHY, alarms=filled(70))),
    ("filling", "error", seen(HEALTHY, alarms=filled(90))),
    ("several-domains", "warning", stream(subjects=("orders.*", "users.*"))),
    ("several-domains", "warning", stream(subjects=(">",))),
    ("no-limits", "warning", stream(max_age=0.0, max_bytes=0)),
    ("no-limits", "note", replace(stream(max_age=0.0, max_bytes=0), storage_limit=10**9)),
    ("forgets-silently", "warning", stream(discard="old")),
    ("forgets-silently", "note", stream(discard="old", consumers=())),
    ("not-durable", "error", stream(acknowledges=False)),
    ("not-durable", "warning", stream(storage="memory")),
    ("not-durable", "warning", stream(persists="async")),
    ("ttl-not-allowed", "warning", stream(expiring=("orders.new",))),
    ("ttl-not-allowed", "error", replace(stream(), pod=declared())),
    ("rollup-on-shared-subject", "warning", stream(rollups=True)),
    ("rollup-on-shared-subject", "warning", stream(rollups=True, markers=5.0)),
    ("rollup-on-shared-subject", "note", stream(rollups=True, schedules=True)),
    ("duplicate-window-short", "warning", stream(duplicates=5.0)),
    ("duplicate-window-short", "warning", replace(stream(), publish_patience=300.0)),
    ("warehouse", "warning", stream(max_age=8 * DAY)),
    ("warehouse", "warning", stream(max_age=0.0, messages=1, oldest=8 * DAY)),
    ("dead-letters-waiting", "warning", seen(replace(HEALTHY, name="DLQ", messages=2))),
    ("dead-letters-waiting", "note", seen(replace(queue(), subjects=("dead-letters.>",), messages=3))),
    ("exhausted-unseen", "warning", replace(stream(), streams=(HEALTHY,))),
    ("exhausted-unseen", "error", twice(queue(), queue())),
    ("unreadable-records", "warning", stream_with_skipped()),
    ("advisories-unread", "warning", replace(stream(), streams=(HEALTHY, replace(CAPTURE, messages=1)))),
    ("one-replica", "warning", clustered(replicas=1)),
    ("one-replica", "warning", clustered(replicas=2)),
    ("one-replica", "warning", clustered(consumers=(replace(HEALTHY_CONSUMER, replicas=1),))),
    ("cluster-traffic", "warning", clustered(on_system_account=True)),
    ("sync-interval", "warning", seen(HEALTHY, monitored=replace(SYNCED, sync_always=False))),
    ("sync-interval", "unknown", seen(HEALTHY, monitored=None)),
    ("server-old", "warning", seen(HEALTHY, server=replace(SERVER, version="2.12.9"))),
    ("server-old", "error", seen(HEALTHY, server=replace(SERVER, version="2.12.3"))),
    ("server-old", "error", seen(replace(HEALTHY, ours=True), server=replace(SERVER, version="2.12.9"))),
    ("clock-skew", "warning", seen(HEALTHY, skew=-1.5)),
    ("clock-skew", "unknown", seen(HEALTHY, skew=None)),
    ("drift", "warning", replace(stream(ttls=True), pod=declared(), changes=(change("update"),))),
    ("drift", "note", replace(stream(ttls=True), pod=declared(), changes=(change("update", field="metadata"),))),
    ("drift", "note", replace(stream(ttls=True), pod=declared(), changes=(change("keep", why="version 2 holds it"),))),
    ("not-seen", "unknown", replace(stream(), unseen=(Unseen("stream X", "no leader", "start its servers"),))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "severity", "saw"), CASES, ids=[f"{rule}-{n}" for n, (rule, *_) in enumerate(CASES)])
def test_a_rule_speaks_of_its_own_thing_only(rule: str, severity: str, saw: Observation) -> None:
    [finding] = examine(saw)
    assert (finding.rule, finding.severity) == (rule, severity)
    assert finding.what
    assert finding.remedy


MOVER = ConsumerSeen(stream="ADVISORY", name="dead-letters")

QUIET = [
    stream(),
    replace(stream(), streams=(HEALTHY, replace(CAPTURE, consumers=(MOVER,)))),  # takes all, and never gives up
    clustered(),
    two(filters=("orders.paid",)),
    two(filters=("orders.*",), archives=True),  # an archive is there to read everything
    consumer(filters=(), durable=False, acks="none"),  # a reader
    stream(schedules=True, max_age=0.0, max_bytes=0, discard="old", subjects=("later.*", "due.*"), consumers=()),
    stream(name="KV_SETTINGS", subjects=("$KV.SETTINGS.>",), discard="old", rollups=True, each=5, max_age=90 * DAY),
    stream(max_age=30 * DAY, consumers=(HEALTHY_CONSUMER, replace(HEALTHY_CONSUMER, durable=False, archives=True))),
    twice(waiting(), waiting(delivered=1)),  # somebody took one in between
    twice(waiting(), waiting(waiting=1)),
    twice(waiting(paused=True), waiting(paused=True)),
    twice(queue(), queue(messages=4)),  # it moves
    seen(HEALTHY, server=replace(SERVER, version="2.14.0")),
    seen(HEALTHY, skew=0.9),
]


@pytest.mark.parametrize("saw", QUIET, ids=range(len(QUIET)))
def test_what_is_right_is_not_spoken_of(saw: Observation) -> None:
    assert examine(saw) == []


@pytest.mark.parametrize(
    ("name", "process"),
    [("clerk", "clerk"), ("tool-crm", "tools"), ("clerk-waker", "clerk"), ("dead-letters", "audit")],
)
def test_the_remedy_names_the_process_that_would_pull(name: str, process: str) -> None:
    stream = CAPTURE if process == "audit" else HEALTHY
    owner = "" if process == "audit" else "shop"
    idle = replace(HEALTHY_CONSUMER, stream=stream.name, name=name, pod=owner, pending=1)
    saw = replace(stream, ours=True, consumers=(idle,))
    observed = Observation(server=SERVER, monitored=SYNCED, streams=(saw,), again=(saw,))
    [finding] = [found for found in examine(observed) if found.rule == "nobody-pulls"]
    assert f"tieline run POD {process}," in finding.remedy


def test_the_worst_comes_first() -> None:
    severities = [finding.severity for finding in examine(replace(consumer(acks="none", filters=()), monitored=None))]
    assert severities == ["error", "warning", "unknown"]


@pytest.mark.parametrize(("server", "skew"), [(99.0, -1.0), (100.5, 0.0), (104.0, 3.0)])
def test_a_slow_answer_is_no_skew(server: float, skew: float) -> None:
    assert beyond_doubt(datetime.fromtimestamp(server, UTC), 100.0, 101.0) == skew


def documented() -> Iterator[tuple[str, str, str]]:
    for line in GUIDE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", line):
            assert match[4].strip()
            yield match[1], match[2].strip(), match[3].strip()


def test_the_guide_has_every_rule_in_the_rules_own_words() -> None:
    assert list(documented()) == [(rule.name, rule.finds, rule.why) for rule in RULES]
    assert {rule for rule, *_ in CASES} == {rule.name for rule in RULES}
