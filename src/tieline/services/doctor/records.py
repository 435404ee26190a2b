"""Rules on what is stored: records that processes could not read."""

from collections.abc import Iterator
from datetime import UTC, datetime

from tieline.services.doctor.finding import Finding, Rule
from tieline.services.doctor.observation import Observation

__all__ = ["RULES", "judge"]

UNREADABLE = Rule(
    "unreadable-records",
    "records that a process of Tieline skipped because it could not read them",
    "what they say is missing from sums, timelines and states; the client that writes them has a bug or is hostile",
)
RULES = (UNREADABLE,)


def judge(seen: Observation) -> Iterator[Finding]:
    """One finding for each kind of record that was skipped while the audit kept the note of it."""
    for skipped in seen.skipped:
        when = datetime.fromtimestamp(skipped.at, UTC).isoformat(" ", "seconds")
        yield UNREADABLE.found(
            "warning",
            f"stream {skipped.stream}",
            f"{skipped.kind}: {skipped.total:,} skipped by {skipped.by}, as of {when}; the last is message "
            f"{skipped.seq} on {skipped.subject}",
            f"nats stream get {skipped.stream} {skipped.seq} shows it; stop the client that writes such records, then "
            f"remove it: nats stream rmm {skipped.stream} {skipped.seq}",
        )
