"""Facts: what happened, for observers. The runtime tells them; the audit, metrics and dashboards listen.

A fact never decides anything: work goes on whether or not somebody listens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Ending",
    "Expired",
    "Fact",
    "LetterDropped",
    "LetterEdited",
    "LetterRedriven",
    "Light",
    "ModelUsed",
    "Observer",
    "Published",
    "Settled",
    "Started",
    "Stepped",
    "Switched",
]


type Ending = Literal["done", "retry", "dead", "interrupted", "parked", "superseded"]
type Light = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Published:
    """A message was stored, after so many ``tries``. ``payload`` is redacted as its class declares; ``expires`` is in
    seconds since 1970."""

    conversation: str
    by: str
    subject: str
    stream: str
    seq: int
    msg_id: str
    cause: str
    payload: dict[str, Any]
    expires: float | None
    tries: int


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
    """A delivery was answered for. ``took`` is in seconds, from receipt to settlement.

    ``parked``: the message was put aside, and comes back as a copy of its own ``seq`` with the same ``origin``.
    """

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
    """A step has its result. ``took`` is in seconds, as the handler saw it; ``found`` says that the journal had it, and
    ``changed`` that it was recorded for other arguments than this run's. ``step`` is where the result is recorded."""

    conversation: str
    by: str
    step: str
    kind: str
    name: str
    ok: bool
    found: bool
    changed: bool
    took: float


@dataclass(slots=True)
class Switched:
    """A tool's circuit breaker changed in one process: ``open`` hands calls back, ``half-open`` tries one, ``closed``
    lets all through. ``conversation`` is that of the call which changed it, ``failures`` how many came in a row."""

    conversation: str
    by: str
    tool: str
    state: Light
    failures: int
    reason: str


@dataclass(slots=True)
class ModelUsed:
    """A model answered one request, and is to be paid for it. Told once for each request that was really made, never
    for one that the journal had. ``step`` is where the answer is recorded; ``cached_tokens`` are among the input's.
    ``cost`` is in US dollars, None where the price is not known. ``took`` is in seconds."""

    conversation: str
    by: str
    step: str
    model: str
    provider: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None
    took: float


@dataclass(slots=True)
class Expired:
    """The TTL of a message ended and ``by`` had not handled it. Told once, by the accountant. ``expires`` is when."""

    conversation: str
    by: str
    subject: str
    stream: str
    seq: int
    expires: float


@dataclass(slots=True)
class LetterRedriven:
    """A person sent a dead letter again, to ``subject``. ``letter`` is its sequence in DLQ, ``agent`` who had given it
    up, ``deaths`` how often it had died. Told again where the command was killed and run again.

    The letter is removed next, so the fact keeps what it said: that it ``died`` (in seconds since 1970) of ``cause``
    after ``attempt`` attempts, in ``words``, and the end of the ``traceback``."""

    conversation: str
    by: str
    letter: int
    agent: str
    origin: str
    subject: str
    deaths: int
    reason: str
    died: float
    attempt: int
    cause: str
    words: str
    error: str
    traceback: str


@dataclass(slots=True)
class LetterDropped:
    """A person removed a dead letter: its message will never be handled. The fields are those of a redrive."""

    conversation: str
    by: str
    letter: int
    agent: str
    origin: str
    subject: str
    deaths: int
    reason: str
    died: float
    attempt: int
    cause: str
    words: str
    error: str
    traceback: str


@dataclass(slots=True)
class LetterEdited:
    """A person put a dead letter with another payload, ``replaced_by``, in the place of ``letter``. ``changed`` names
    the fields, never their values."""

    conversation: str
    by: str
    letter: int
    replaced_by: int
    agent: str
    origin: str
    changed: list[str]
    reason: str


type Fact = (
    Expired
    | Published
    | Started
    | Settled
    | Stepped
    | Switched
    | ModelUsed
    | LetterRedriven
    | LetterDropped
    | LetterEdited
)
type Observer = Callable[[Fact], None]
