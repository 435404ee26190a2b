"""Facts: what happened, for observers. The runtime tells them; the audit, metrics and dashboards listen.

A fact never decides anything: work goes on whether or not somebody listens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Ending", "Fact", "Observer", "Published", "Settled", "Started", "Stepped"]


type Ending = Literal["done", "retry", "dead", "interrupted"]


@dataclass(slots=True)
class Published:
    """A message was stored. ``payload`` is redacted as its class declares; ``expires`` is in seconds since 1970."""

    conversation: str
    by: str
    subject: str
    stream: str
    seq: int
    msg_id: str
    cause: str
    payload: dict[str, Any]
    expires: float | None


@dataclass(slots=True)
class Started:
    """A handler began to run again, or runs long. ``attempt`` counts attempts, not deliveries."""

    conversation: str
    by: str
    subject: str
    stream: str
    seq: int
    origin: str
    attempt: int


@dataclass(slots=True)
class Settled:
    """A delivery was answered for. ``took`` is in seconds, from receipt to settlement."""

    conversation: str
    by: str
    subject: str
    stream: str
    seq: int
    origin: str
    attempt: int
    outcome: Ending
    reason: str
    took: float


@dataclass(slots=True)
class Stepped:
    """A step has its result. ``took`` is in seconds, as the handler saw it; ``found`` says that the journal had it."""

    conversation: str
    by: str
    kind: str
    name: str
    ok: bool
    found: bool
    took: float


type Fact = Published | Started | Settled | Stepped
type Observer = Callable[[Fact], None]
