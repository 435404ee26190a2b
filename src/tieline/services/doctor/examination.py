"""Every rule, and what they make of an observation."""

from collections.abc import Iterator

from tieline.services.doctor import cluster, consumers, letters, pod, records, streams
from tieline.services.doctor.finding import SEVERITIES, Finding, Rule
from tieline.services.doctor.observation import Observation

__all__ = ["RULES", "examine"]

NOT_SEEN = Rule(
    "not-seen",
    "something that could not be looked at",
    "what was not seen may be wrong",
)
RULES: tuple[Rule, ...] = (
    *consumers.RULES,
    *streams.RULES,
    *letters.RULES,
    *records.RULES,
    *cluster.RULES,
    *pod.RULES,
    NOT_SEEN,
)


def examine(seen: Observation) -> list[Finding]:
    """What is wrong, the worst first; within a severity by rule, in the order of `RULES`. Looks at nothing else."""
    order = [rule.name for rule in RULES]
    return sorted(_all(seen), key=lambda found: (SEVERITIES.index(found.severity), order.index(found.rule)))


def _all(seen: Observation) -> Iterator[Finding]:
    yield from consumers.judge(seen)
    yield from streams.judge(seen)
    yield from letters.judge(seen)
    yield from records.judge(seen)
    yield from cluster.judge(seen)
    yield from pod.judge(seen)
    for unseen in seen.unseen:
        yield NOT_SEEN.found("unknown", unseen.thing, unseen.why, unseen.remedy)
