"""A reading of the server as Prometheus has it: gauges, under the names and labels of the catalogue."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from tieline.diagnosis.capacity import account_ratio, ratio_of
from tieline.records.reading import read_integer, read_number
from tieline.services.metrics.catalogue import ACCOUNT, CONSUMER, NOW, STREAM, VARZ, Metric
from tieline.services.metrics.labels import CAUSES, OTHER, Known, pod_of
from tieline.services.metrics.reading import Reading

__all__ = ["families"]

type Info = Mapping[str, Any]
type Labelled = tuple[tuple[str, ...], Info]

_STATES = ("published", "done", "dead", "expired", "pending", "unaccounted", "accepted", "before", "parked")


def families(reading: Reading, known: Known, behind: int | None) -> Iterator[GaugeMetricFamily]:
    """What a scrape is told beside the counters. ``behind``: how many facts are still to be counted; None: not known.

    Where the server could not be read only `tieline_up` is left, and Prometheus marks the others as stale.
    """
    yield _family(NOW["up"], [((), float(reading.up))])
    if not reading.up:
        return
    if behind is not None:
        yield _family(NOW["facts_behind"], [((), behind)])
    account = _account_labels(reading)
    leaders = {name: _leader(info) for name, info in reading.streams.items()}
    # A stream's and a consumer's leader answers for it, so what is told is the leader's word.
    streams = [((*account, name, leaders[name], "true"), info) for name, info in reading.streams.items()]
    consumers = [
        ((*account, stream, leaders[stream], "true", info["name"], _leader(info), "true"), info)
        for info in reading.consumers
        for stream in [info["stream_name"]]
    ]
    yield from _told(STREAM, streams)
    yield from _told(CONSUMER, consumers)
    if reading.account is not None:
        yield from _told(ACCOUNT, [(account, reading.account)])
    if reading.monitored is not None:
        yield from _told(VARZ, [((account[0],), reading.monitored)])
    yield from _storage(reading)
    yield from _agents(reading, known)
    yield from _letters(reading, known)
    yield from _sums(reading, known)


def _account_labels(reading: Reading) -> tuple[str, ...]:
    told = reading.server
    named = [str(told.get(key) or "") for key in ("server_id", "server_name", "cluster", "domain")]
    return (*named, str(told.get("remote_account") or "$G"))


def _leader(info: Info) -> str:
    return str((info.get("cluster") or {}).get("leader") or "")


def _told(metrics: Iterable[Metric], things: Sequence[Labelled]) -> Iterator[GaugeMetricFamily]:
    for metric in metrics:
        found = [(labels, value) for labels, info in things if (value := _value(metric, info)) is not None]
        if found:
            yield _family(metric, found)


def _value(metric: Metric, info: Info) -> float | None:
    if metric.source == ("num_waiting",) and info["config"].get("deliver_subject"):
        return None  # nobody pulls from a push consumer, and nobody should be alarmed by it
    value: Any = info
    for key in metric.source:
        value = value.get(key) if isinstance(value, dict) else None
    return read_number(value)


def _storage(reading: Reading) -> Iterator[GaugeMetricFamily]:
    ratios = ((name, ratio_of(info, reading.planned)) for name, info in reading.streams.items())
    yield _family(NOW["stream_bytes_ratio"], [((name,), ratio) for name, ratio in ratios if ratio is not None])
    if (storage := account_ratio(reading.account or {})) is not None:
        yield _family(NOW["storage_bytes_ratio"], [((), storage)])


def _agents(reading: Reading, known: Known) -> Iterator[GaugeMetricFamily]:
    """What facts do not carry: how much is held now, as the server counts it."""
    held, free, waiting = [], [], []
    for info in reading.consumers:
        labels = (*known.who(info["name"]), info["stream_name"])
        if pod_of(info) is None or pod_of(info) != labels[0]:
            continue
        held.append((labels, float(info["num_ack_pending"])))
        waiting.append((labels, float(info["num_waiting"])))
        if (most := info["config"].get("max_ack_pending", -1)) > 0:
            free.append((labels, float(max(0, most - info["num_ack_pending"]))))
    yield _family(NOW["in_flight"], held)
    yield _family(NOW["in_flight_free"], free)
    yield _family(NOW["processes_waiting"], waiting)


def _letters(reading: Reading, known: Known) -> Iterator[GaugeMetricFamily]:
    counts: dict[tuple[str, ...], float] = {}
    for group in reading.letters:
        who = known.consumer(group.agent)
        if known.only is not None and who[1] == OTHER:
            continue
        labels = (*who, group.cause if group.cause in CAUSES else OTHER)
        counts[labels] = counts.get(labels, 0.0) + group.count
    yield _family(NOW["dead_letters"], list(counts.items()))


def _sums(reading: Reading, known: Known) -> Iterator[GaugeMetricFamily]:
    answered = [((pod,), float(rows is not None)) for pod, rows in reading.sums.items()]
    yield _family(NOW["accountant_up"], answered)
    rows = [
        ((pod, *known.account(str(row.get("agent")), str(row.get("stream")))), row)
        for pod, rows in reading.sums.items()
        for row in rows or ()
    ]
    states = [((*labels, state), float(_count(row, state))) for labels, row in rows for state in _STATES]
    yield _family(NOW["sum_messages"], states)
    yield _family(NOW["sum_difference"], [(labels, float(_difference(row))) for labels, row in rows])


def _difference(row: Info) -> int:
    """By how many messages the columns of a row do not add up, and by how many the server counts otherwise."""
    counted = read_integer(row.get("difference"))
    if counted is not None:
        return counted
    told = sum(_count(row, state) for state in ("done", "dead", "expired", "pending"))  # an older accountant
    owed, at_server = _count(row, "owed"), read_integer(row.get("at_server"))
    return abs(_count(row, "published") - told) + (0 if at_server is None else abs(owed - at_server))


def _count(row: Info, key: str) -> int:
    return read_integer(row.get(key)) or 0


def _family(metric: Metric, values: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
