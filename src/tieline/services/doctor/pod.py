"""Rules on a pod: whether the server is as the pod declares."""

from collections.abc import Iterator

from tieline.services.doctor.finding import Finding, Rule, Severity
from tieline.services.doctor.observation import Observation
from tieline.wire.topology import Change

__all__ = ["RULES", "judge"]

DRIFT = Rule(
    "drift",
    "streams or consumers that are not as the pod declares",
    "what was tested is not what runs: a missing consumer ends its agent, another limit drops what the pod counts on",
)
RULES = (DRIFT,)

_SEVERITY: dict[str, Severity] = {
    "create": "warning",
    "update": "warning",
    "refuse": "warning",
    "keep": "note",
    "extra": "note",
}
_REMEDY: dict[str, str] = {
    "create": "tieline apply POD",
    "update": "tieline apply POD",
    "refuse": "correct the pod, or tieline apply --force POD where only stored messages stand against it, or recreate "
    "it by hand",
    "keep": "nothing while the newer version is being rolled out; tieline apply --force POD goes back",
    "extra": "when its work is done: nats consumer rm STREAM CONSUMER",
}


def judge(seen: Observation) -> Iterator[Finding]:
    """One finding for each stream or consumer and what would have to be done to it; one for a mere new version."""
    if seen.pod is None:
        return
    together: dict[tuple[str, str, str], list[Change]] = {}
    for change in seen.changes:
        together.setdefault((change.kind, change.name, change.action), []).append(change)
    noted = [key for key, changes in together.items() if key[2] == "update" and _only_noted(changes)]
    if noted:
        what = f"version {seen.pod.version} is not yet noted on {len(noted)} streams and consumers that fit it"
        yield DRIFT.found("note", f"pod {seen.pod.name}", what, _REMEDY["update"])
    for key in noted:
        del together[key]
    for (kind, name, action), changes in together.items():
        remedy = _REMEDY[action].replace("STREAM CONSUMER", name.replace("/", " "))
        yield DRIFT.found(_SEVERITY[action], f"{kind} {name}", _told(action, changes), remedy)


def _only_noted(changes: list[Change]) -> bool:
    return all(change.field == "metadata" for change in changes)


def _told(action: str, changes: list[Change]) -> str:
    if action == "create":
        return "the pod declares it and the server has none"
    if action == "extra":
        return changes[0].why
    fields = ", ".join(f"{change.field} is {change.have!r}, declared {change.want!r}" for change in changes)
    why = "; ".join(sorted({change.why for change in changes if change.why}))
    return f"{fields} ({why})" if why else fields
