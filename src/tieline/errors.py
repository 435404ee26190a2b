"""Errors, one for each reaction a caller may have.

Every message names the thing, the value and the remedy. Details are fields.
"""

__all__ = [
    "BackupFailed",
    "BadDeclaration",
    "BadPayload",
    "BadSettings",
    "Conflict",
    "ConsumerGone",
    "Denied",
    "NeedsApproval",
    "NoReply",
    "NotAccepted",
    "NotApplied",
    "NotAwaited",
    "ObjectGone",
    "ProcessFailed",
    "ServerFailed",
    "TielineError",
    "ToolFailed",
    "ToolRefused",
    "Unconfirmed",
    "Unreachable",
    "Unsettled",
    "first_of",
]


class TielineError(Exception):
    """The root: ``except TielineError`` catches everything this library raises on purpose."""


class BadDeclaration(TielineError, ValueError):
    """A pod, agent, tool, message or stream is declared in a way that cannot work. Raised at import, never later."""


class BadSettings(TielineError, ValueError):
    """A setting or ``TIELINE_*`` variable has a value that cannot be used."""


class BadPayload(TielineError, ValueError):
    """A payload does not fit the message it should be. Retrying cannot help."""


class ObjectGone(BadPayload, LookupError):
    """A large payload or result is no longer in the object store, or damaged. The message says which and why.

    A handler that lets it pass makes its message a dead letter (``invalid``): another run would not find it either.
    """


class Unreachable(TielineError, ConnectionError):
    """The NATS connection is closed and will not come back within the reconnect budget."""


class NotAccepted(TielineError):
    """A publish was not stored, or not known to be stored. Publishing again with the same id is safe.

    ``subject`` is where it was to go; ``err_code`` is the server's reason (0 where the server did not answer).
    """

    def __init__(self, message: str, *, subject: str, err_code: int = 0) -> None:
        super().__init__(message)
        self.subject = subject
        self.err_code = err_code


class Unconfirmed(NotAccepted):
    """The server did not say within ``publish.patience`` that it stored a message. It may be stored or not."""


class Denied(NotAccepted):
    """The credentials of this process, or what its agent declares, do not allow this publish. Nothing was stored."""


class NotAwaited(TielineError, RuntimeError):
    """A handler called an async function without ``await``, so it did nothing. The message is a dead letter at once:
    another run would forget it again. Correct the code, deploy it, and redrive the letter."""


class ConsumerGone(TielineError, LookupError):
    """The durable consumer an agent pulls from does not exist (any more). Nothing is delivered until it does."""


class NotApplied(TielineError):
    """The server refused a stream or consumer, or only recreating it could make it so. Nothing was deleted."""


class BackupFailed(TielineError, RuntimeError):
    """A backup could not be taken or put back as a whole. The message names the stream or file, and what is left."""


class ServerFailed(TielineError, RuntimeError):
    """The embedded nats-server did not start or died. The message ends with the last lines of its log."""


class ProcessFailed(TielineError, RuntimeError):
    """A supervised process did not become ready. The message ends with the last lines it said."""


class ToolFailed(TielineError):
    """A tool call ended without a value: the tool refused, failed for good, or never answered.

    The failure is recorded: a second run of the handler gets the same error without calling the tool again.
    """

    def __init__(self, message: str, *, tool: str, cause: str) -> None:
        super().__init__(message)
        self.tool = tool
        self.cause = cause


class ToolRefused(TielineError):
    """Raise it in a tool: this call can never succeed. It is recorded at once and not tried again."""


class NeedsApproval(TielineError):
    """Raise it in a tool: a person has to agree first. The caller gets `ToolFailed` with the cause ``"approval"``."""


class NoReply(TielineError):
    """An agent or a person that was asked did not answer in time, or refused. Recorded: a second run gets the same."""

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Conflict(TielineError):
    """Somebody else changed a conversation's state in between. Read it again and decide anew."""


class Unsettled(TielineError):
    """An outcome could not be recorded. The message is not lost: the server delivers it again."""


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One task of a group fails and the others with it: the first error is the one to tell."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
