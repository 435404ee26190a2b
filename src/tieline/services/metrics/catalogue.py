"""Every metric: its name, kind, labels and meaning. Names that begin otherwise are prometheus-nats-exporter's."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["ACCOUNT", "CONSUMER", "FACTS", "NOW", "STREAM", "VARZ", "Kind", "Metric", "catalogue"]

type Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``source`` is where its value stands in what the server answers, key by key."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    source: tuple[str, ...] = ()


_SERVER = ("server_id", "server_name", "cluster", "domain")
_ACCOUNT = (*_SERVER, "account")
_STREAM = (*_ACCOUNT, "stream_name", "stream_leader", "is_stream_leader")
_CONSUMER = (*_STREAM, "consumer_name", "consumer_leader", "is_consumer_leader")
_WHO = ("pod", "agent")
_WHAT = (*_WHO, "subject")
_STEP = (*_WHO, "kind", "tool")


def _gauges(prefix: str, labels: tuple[str, ...], rows: str) -> tuple[Metric, ...]:
    """One a line: the name after ``prefix``, the place of the value, the meaning."""
    told = (row.split(maxsplit=2) for row in rows.strip().splitlines())
    return tuple(Metric(f"{prefix}_{name}", "gauge", labels, text, tuple(at.split("."))) for name, at, text in told)


STREAM = _gauges(
    "jetstream_stream",
    _STREAM,
    """
    total_messages state.messages messages stored
    total_bytes state.bytes bytes stored
    first_seq state.first_seq sequence of the oldest message
    last_seq state.last_seq sequence of the newest message
    consumer_count state.consumer_count consumers, those that come and go included
    limit_messages config.max_msgs messages it may hold; -1 is no limit
    limit_bytes config.max_bytes bytes it may hold; -1 is no limit
    """,
)
CONSUMER = _gauges(
    "jetstream_consumer",
    _CONSUMER,
    """
    num_pending num_pending messages never delivered: the lag
    num_ack_pending num_ack_pending deliveries not acknowledged
    num_redelivered num_redelivered messages delivered more than once and not acknowledged
    num_waiting num_waiting pulls that wait: processes with a free slot; not told of push consumers
    delivered_consumer_seq delivered.consumer_seq deliveries so far, repeats included
    delivered_stream_seq delivered.stream_seq sequence of the newest message delivered
    ack_floor_consumer_seq ack_floor.consumer_seq deliveries below which everything is acknowledged
    ack_floor_stream_seq ack_floor.stream_seq sequence below which everything is acknowledged
    """,
)
ACCOUNT = _gauges(
    "jetstream_account",
    _ACCOUNT,
    """
    max_memory limits.max_memory bytes of memory it may use; -1 is no limit
    max_storage limits.max_storage bytes of disk it may use; -1 is no limit
    memory_used memory bytes of memory used
    storage_used storage bytes of disk used
    """,
)
VARZ = _gauges(
    "gnatsd_varz",
    ("server_id",),
    """
    connections connections open connections
    total_connections total_connections connections since the start
    max_connections max_connections connections it takes
    subscriptions subscriptions subscriptions
    in_msgs in_msgs messages received
    out_msgs out_msgs messages sent
    in_bytes in_bytes bytes received
    out_bytes out_bytes bytes sent
    slow_consumers slow_consumers connections closed because they read too slowly
    max_payload max_payload bytes of the largest message
    routes routes routes to other servers of the cluster
    leafnodes leafnodes leaf nodes
    mem mem bytes of memory
    cpu cpu percent of one core
    cores cores cores of the machine
    """,
)

_CONSUMED = (*_WHO, "stream")
NOW = {
    metric.name.removeprefix("tieline_"): metric
    for metric in (
        Metric("tieline_up", "gauge", (), "1 where the server's streams could be read for this scrape, else 0"),
        Metric("tieline_facts_behind", "gauge", (), "facts in the audit that the counters do not have yet"),
        Metric("tieline_in_flight", "gauge", _CONSUMED, "deliveries an agent's processes hold, or hold off to retry"),
        Metric("tieline_in_flight_free", "gauge", _CONSUMED, "more that the server would give out: max_ack_pending"),
        Metric("tieline_processes_waiting", "gauge", _CONSUMED, "pulls that wait: about the processes with free slots"),
        Metric("tieline_dead_letters", "gauge", (*_WHO, "cause"), "dead letters in DLQ now"),
        Metric("tieline_stream_bytes_ratio", "gauge", ("stream_name",), "how full a stream with a limit is; 1 is full"),
        Metric("tieline_storage_bytes_ratio", "gauge", (), "how full the account's storage is, where it has a limit"),
        Metric("tieline_accountant_up", "gauge", ("pod",), "1 where the pod's accountant answered, else 0"),
        Metric("tieline_sum_messages", "gauge", (*_CONSUMED, "state"), "what became of the messages: the sum"),
        Metric("tieline_sum_difference", "gauge", _CONSUMED, "messages by which the sum does not add up; else 0"),
    )
}  # fmt: skip

FACTS = {
    metric.name.removeprefix("tieline_"): metric
    for metric in (
        Metric("tieline_published_total", "counter", _WHAT, "messages stored; tool calls and records are not told"),
        Metric("tieline_publish_retries_total", "counter", _WHAT, "tries beyond the first that those took"),
        Metric("tieline_handled_total", "counter", _WHAT, "deliveries handled"),
        Metric("tieline_failed_total", "counter", _WHAT, "deliveries that failed, to be tried again or dead"),
        Metric("tieline_retried_total", "counter", _WHAT, "those of them that are tried again"),
        Metric("tieline_dead_total", "counter", (*_WHAT, "cause"), "those of them that became dead letters"),
        Metric("tieline_parked_total", "counter", _WHAT, "deliveries put aside for an answer or a time"),
        Metric("tieline_interrupted_total", "counter", _WHAT, "deliveries handed back without counting as attempts"),
        Metric("tieline_handler_duration_seconds", "histogram", (*_WHO, "outcome"), "from receipt to settlement"),
        Metric("tieline_steps_total", "counter", (*_STEP, "result"), "step results: ok, failed, or found recorded"),
        Metric("tieline_step_duration_seconds", "histogram", _STEP, "of steps that were not found, as handlers saw it"),
        Metric("tieline_breaker_switches_total", "counter", ("pod", "tool", "state"), "circuit breakers that switched"),
        Metric("tieline_model_requests_total", "counter", (*_WHO, "model"), "requests that models answered"),
        Metric("tieline_model_tokens_total", "counter", (*_WHO, "model", "direction"), "tokens: input, cached, output"),
        Metric("tieline_model_cost_dollars_total", "counter", (*_WHO, "model"), "US dollars, where prices are known"),
        Metric("tieline_model_unpriced_total", "counter", (*_WHO, "model"), "requests whose price is not known"),
        Metric("tieline_model_duration_seconds", "histogram", (*_WHO, "model"), "of requests that models answered"),
        Metric("tieline_letters_redriven_total", "counter", _WHO, "dead letters that people sent again"),
        Metric("tieline_letters_dropped_total", "counter", _WHO, "dead letters that people removed"),
        Metric("tieline_unreadable_total", "counter", ("kind",), "records that processes skipped as unreadable"),
    )
}  # fmt: skip


def catalogue() -> tuple[Metric, ...]:
    """All of them, in the order of the guide."""
    return (*NOW.values(), *FACTS.values(), *STREAM, *CONSUMER, *ACCOUNT, *VARZ)
