"""What the log says of failed runs: the first failure with its traceback, one line for each retry and dead letter.

No payload is logged. The values of fields that a message class declares in ``redact`` are taken out of what an error
says, since an error may quote anything.
"""

import logging
from typing import Any

from tieline import subjects
from tieline.messages import binding_of
from tieline.outcomes import Cause
from tieline.records.reading import read_object
from tieline.runtime.attempt import Attempt
from tieline.runtime.bus import Bus

__all__ = ["log_dead_letter", "log_retry"]

log = logging.getLogger("tieline.settle")

_SHORTEST = 3  # characters of a value that is taken out: shorter ones stand in every text
_LONGEST_LINE = 500  # characters of a reason in one line


def log_retry(attempt: Attempt, cause: Cause, counted: int, wait: float, bus: Bus) -> None:
    """A run failed and the message will be handled again in ``wait`` seconds."""
    _log(
        logging.WARNING,
        f"attempt {counted} of {attempt.duty.limits.attempts} failed, next in {wait:.1f} s",
        (attempt, cause, bus),
        first=counted <= 1,
    )


def log_dead_letter(attempt: Attempt, cause: Cause, counted: int, bus: Bus) -> None:
    """A message will not be handled again. ``counted`` is how many attempts failed."""
    attempts = f" after {counted} attempts" if counted > 1 else ""
    _log(logging.WARNING, f"dead letter{attempts}: {cause.kind}", (attempt, cause, bus), first=counted <= 1)


def _log(level: int, what: str, about: tuple[Attempt, Cause, Bus], *, first: bool) -> None:
    if not log.isEnabledFor(level):
        return
    attempt, cause, bus = about
    hidden = _redacted_values(attempt, bus)
    reason = _without(cause.reason, hidden)[:_LONGEST_LINE].replace("\n", " ")
    trace = _without(cause.traceback, hidden).rstrip() if first else ""
    log.log(
        level,
        "%s [%s] %s: %s%s",
        attempt.duty.name,
        attempt.call.id,
        what,
        reason,
        f"\n{trace}" if trace else "",
    )


def _redacted_values(attempt: Attempt, bus: Bus) -> list[str]:
    """The values of the message's redacted fields, the longest first."""
    agent = bus.pod.agent_on_bus(attempt.duty.name)
    if agent is None:
        return []
    names: set[str] = set()
    for model in agent.models:
        binding = binding_of(model)
        if subjects.covers(binding.filter, attempt.delivery.subject):
            for name in binding.redact:
                declared = model.model_fields[name]
                names |= {name, *(one for one in (declared.alias, declared.serialization_alias) if one)}
    if not names:
        return []
    payload = read_object(attempt.delivery.payload)
    if payload is None:
        return []
    values = [text for name in names & payload.keys() for text in _texts(payload[name])]
    return sorted(values, key=len, reverse=True)


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for one in value.values() for text in _texts(one)]
        case list():
            return [text for one in value for text in _texts(one)]
        case int() | float() if not isinstance(value, bool):
            return [str(value)]
        case _:
            return []


def _without(text: str, values: list[str]) -> str:
    for value in values:
        if len(value) >= _SHORTEST:
            text = text.replace(value, "(redacted)")
    return text
