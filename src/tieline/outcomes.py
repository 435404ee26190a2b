"""What a handler's run came to."""

import traceback
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Cause",
    "CauseKind",
    "Changed",
    "Done",
    "HandBack",
    "Outcome",
    "Park",
    "Parking",
    "Refuse",
    "Retry",
    "Superseded",
    "Wait",
]

type CauseKind = Literal[
    "raised",
    "timeout",
    "invalid",
    "refused",
    "vanished",
    "expired",
    "deadline",
    "changed",
    "cancelled",
    "unknown",
    "untrusted",
]

_TRACEBACK_BYTES = 8_000  # of the innermost frames: enough to find the line, small enough for a header


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a run did not come to `Done`: in a word, in words, and with the traceback where there was one."""

    kind: CauseKind
    reason: str
    error: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, kind: CauseKind = "raised") -> "Cause":
        """The cause an exception stands for."""
        text = "".join(traceback.format_exception(error))
        name = type(error).__qualname__
        return cls(kind, f"{name}: {error}" if str(error) else name, name, text[-_TRACEBACK_BYTES:])


@dataclass(frozen=True, slots=True)
class Done:
    """The message was handled. It is acknowledged and not delivered to this agent again."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The run failed in a way that may pass. It counts as an attempt; the last attempt dead-letters.

    ``after`` is the wait in seconds; None lets the agent's growing, jittered back-off decide.
    """

    reason: str = "the handler asked for a retry"
    after: float | None = None
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The message can never be handled. It becomes a dead letter at once and is not retried."""

    reason: str
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """What a parked message waits for: the record at ``step`` (if any), at most ``until`` (seconds since 1970)."""

    step: str | None
    until: float | None


@dataclass(frozen=True, slots=True)
class Park:
    """The run waits for something that may take long. The message is put aside, holds nothing, and comes back."""

    waits: tuple[Wait, ...]


@dataclass(frozen=True, slots=True)
class HandBack:
    """The message was not run: it comes again after so many seconds, here or elsewhere, and no attempt is counted."""

    reason: str
    after: float


@dataclass(frozen=True, slots=True)
class Superseded:
    """This delivery decides nothing about the message, because another run does. No attempt is counted.

    ``ack``: it is one copy of several, which nobody needs any more; else the message belongs to another process now.
    """

    reason: str
    ack: bool = True


class Parking(BaseException):
    """Unwinds a handler that has to wait for long; becomes `Park`. Not an `Exception`: handlers must not catch it."""


class Changed(Parking):
    """Unwinds a handler whose code asks for something else than another version recorded; becomes a dead letter."""


type Outcome = Done | Retry | Refuse | Park | HandBack | Superseded
