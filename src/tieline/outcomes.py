"""What a handler's run came to."""

import traceback
from dataclasses import dataclass
from typing import Literal

__all__ = ["Cause", "Done", "Outcome", "Refuse", "Retry"]

type CauseKind = Literal["raised", "timeout", "invalid", "refused", "vanished", "expired", "deadline"]

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


type Outcome = Done | Retry | Refuse
