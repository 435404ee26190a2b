"""What a look at a server comes to: rules, and the findings they make."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["SEVERITIES", "Finding", "Rule", "Severity"]

type Severity = Literal["error", "warning", "note", "unknown"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note", "unknown")  # the worst first


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing, or (``unknown``) could not be looked at.

    ``thing`` is what it is about: ``stream S``, ``consumer S/C``, ``server NAME``, ``pod NAME``. ``remedy`` is the
    command or setting that puts it right.
    """

    rule: str
    severity: Severity
    thing: str
    what: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What is looked for, and why it matters. The guide prints the same words."""

    name: str
    finds: str
    why: str

    def found(self, severity: Severity, thing: str, what: str, remedy: str) -> Finding:
        """A finding of this rule."""
        return Finding(rule=self.name, severity=severity, thing=thing, what=what, why=self.why, remedy=remedy)
