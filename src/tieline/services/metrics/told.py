"""What facts tell, as counters and histograms. They begin at zero with the process; Prometheus knows resets."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from tieline.records.reading import read_number
from tieline.services.metrics.catalogue import FACTS, Metric
from tieline.services.metrics.labels import CAUSES, KINDS, OTHER, OUTCOMES, STATES, Known, Models
from tieline.wire import unreadable

__all__ = ["Told"]

type Fact = Mapping[str, Any]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_REMEMBERED = 50_000  # facts that are not counted again: a batch whose answer was lost is stored a second time
_MOST = 1e15
_BY_PEOPLE = frozenset({"letterredriven", "letterdropped"})  # they say which agent they are about
_SLEEPS = "tried again in "  # how a fact says that a failed message was put aside until its next attempt
_UNREADABLE = "unreadable"


class Told:
    """Counts facts, each once. Written by the task that reads them; a scrape reads it from a thread of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters = {m.name: _counter(m, registry) for m in FACTS.values() if m.kind == "counter"}
        self._histograms = {m.name: _histogram(m, registry) for m in FACTS.values() if m.kind == "histogram"}
        self._models = Models()
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def tell(self, fact: Fact, payload: bytes, known: Known) -> None:
        """Count ``fact``, which stood in ``payload``. What is no fact of ours, or of a pod that is not asked for, is
        passed over."""
        about = fact.get("agent" if fact.get("fact") in _BY_PEOPLE else "by")
        whole = fact.get("fact") == _UNREADABLE  # of the account: nobody can say whose such a record is
        if (whole or (isinstance(about, str) and known.takes(about))) and self._first(_identity(fact, payload)):
            self._count(fact, known)

    def _first(self, key: int) -> bool:
        if key in self._seen:
            return False
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > _REMEMBERED:
            self._seen.discard(self._order.popleft())
        return True

    def _count(self, fact: Fact, known: Known) -> None:
        match fact:
            case {"fact": "published", "by": str(by), "stream": str(stream), "subject": str(subject)}:
                if known.keeps(stream):
                    self._published(fact, (*known.who(by), known.subject(stream, subject)))
            case {"fact": "settled", "by": str(by), "stream": str(stream), "subject": str(subject)}:
                self._settled(fact, (*known.who(by), known.subject(stream, subject)))
            case {"fact": "stepped", "by": str(by), "kind": str(kind), "name": str(name)}:
                # Other steps are named by their handlers, as freely as they like.
                tool = known.tool(name) if kind == "tool" else ""
                self._stepped(fact, (*known.who(by), kind if kind in KINDS else OTHER, tool))
            case {"fact": "modelused", "by": str(by), "model": str(model)}:
                self._asked(fact, (*known.who(by), self._models.label(model)))
            case {"fact": "switched", "by": str(by), "tool": str(tool), "state": str(state)}:
                labels = (known.who(by)[0], known.tool(tool), state if state in STATES else OTHER)
                self._add("breaker_switches_total", labels)
            case {"fact": "letterredriven", "agent": str(agent)}:
                self._add("letters_redriven_total", known.consumer(agent))
            case {"fact": "letterdropped", "agent": str(agent)}:
                self._add("letters_dropped_total", known.consumer(agent))
            case {"fact": "unreadable", "kind": str(kind)}:
                what = kind if kind in unreadable.KINDS else OTHER
                self._add("unreadable_total", (what,), _amount(fact.get("count")))
            case _:
                pass

    def _published(self, fact: Fact, labels: tuple[str, ...]) -> None:
        self._add("published_total", labels)
        self._add("publish_retries_total", labels, _amount(fact.get("tries")) - 1)

    def _settled(self, fact: Fact, labels: tuple[str, ...]) -> None:
        outcome, reason = fact.get("outcome"), str(fact.get("reason"))
        match outcome:
            case "done":
                self._add("handled_total", labels)
            case "retry":
                self._failed(labels, "retried_total")
            case "parked" if reason.startswith(_SLEEPS):
                self._failed(labels, "retried_total")
            case "parked":
                self._add("parked_total", labels)
            case "dead":
                cause = reason.partition(":")[0]
                self._failed(labels, "dead_total", cause if cause in CAUSES else OTHER)
            case "interrupted":
                self._add("interrupted_total", labels)
            case _:
                pass
        ending = str(outcome) if outcome in OUTCOMES else OTHER
        self._observe("handler_duration_seconds", (*labels[:2], ending), fact.get("took"))

    def _failed(self, labels: tuple[str, ...], how: str, *more: str) -> None:
        self._add("failed_total", labels)
        self._add(how, (*labels, *more))

    def _stepped(self, fact: Fact, labels: tuple[str, ...]) -> None:
        found = fact.get("found") is True
        result = "found" if found else "ok" if fact.get("ok") is True else "failed"
        self._add("steps_total", (*labels, result))
        if not found:
            self._observe("step_duration_seconds", labels, fact.get("took"))

    def _asked(self, fact: Fact, labels: tuple[str, ...]) -> None:
        self._add("model_requests_total", labels)
        for direction in ("input", "cached", "output"):
            self._add("model_tokens_total", (*labels, direction), _amount(fact.get(f"{direction}Tokens")))
        if fact.get("cost") is None:
            self._add("model_unpriced_total", labels)
        else:
            self._add("model_cost_dollars_total", labels, _amount(fact.get("cost")))
        self._observe("model_duration_seconds", labels, fact.get("took"))

    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1.0) -> None:
        if amount > 0:
            self._counters[f"tieline_{name}"].labels(*labels).inc(amount)

    def _observe(self, name: str, labels: tuple[str, ...], seconds: object) -> None:
        self._histograms[f"tieline_{name}"].labels(*labels).observe(_amount(seconds))


def _counter(metric: Metric, registry: CollectorRegistry) -> Counter:
    return Counter(metric.name, metric.help, metric.labels, registry=registry)


def _histogram(metric: Metric, registry: CollectorRegistry) -> Histogram:
    return Histogram(metric.name, metric.help, metric.labels, buckets=_SECONDS, registry=registry)


def _identity(fact: Fact, payload: bytes) -> int:
    """What a repeat has in common with the first: all of it. But a message that is published again with the same id
    tells a fact of its own, and only its place is the same."""
    if fact.get("fact") == "published":
        return hash(f"{fact.get('stream')} {fact.get('seq')}")
    return hash(payload)


def _amount(value: object) -> float:
    """A number that can be counted, else 0: a fact may say anything."""
    return read_number(value, least=0.0, most=_MOST) or 0.0
