"""Where a dead letter is sent again: to the one consumer that gave it up, or, for want of that, where a person says."""

from dataclasses import dataclass

from tieline import subjects
from tieline.records.reading import read_name
from tieline.services.letters.reading import Letter
from tieline.wire.connection import ApiError, Connection
from tieline.wire.topology import resume_name

__all__ = ["Target", "Targets"]

_MISSING = frozenset({10014, 10059})


@dataclass(frozen=True, slots=True)
class Target:
    """``own``: only the consumer that gave the letter up gets what is published to ``subject``."""

    subject: str
    own: bool


class Targets:
    """Finds the targets of letters; the server is asked once for each consumer.

    ``anywhere``: a subject that a person named for all of them. ``force``: where a consumer has no subject of its own,
    the original one will do, which everybody else that consumes it hears again.
    """

    def __init__(self, connection: Connection, *, anywhere: str | None = None, force: bool = False) -> None:
        self._connection = connection
        self._anywhere = anywhere
        self._force = force
        self._filters: dict[tuple[str, str], frozenset[str] | None] = {}

    async def of(self, letter: Letter) -> Target | str:
        """The target, or why there is none."""
        stream = letter.stream
        if self._anywhere is not None:
            return Target(self._anywhere, own=False)
        if not stream or not letter.subject:
            return "it does not say which stream and subject it comes from; --to-subject names one"
        if read_name(letter.agent) is None:
            return f"{letter.agent!r} is not the name of a consumer; --to-subject names a subject"
        own = subjects.redrive(stream, letter.agent)
        # In a deployment of an earlier version, the consumer of new messages takes it too.
        filters = await self._filters_of(stream, letter.agent)
        resumed = await self._filters_of(stream, resume_name(letter.agent))
        if own in (filters or frozenset()) | (resumed or frozenset()):
            return Target(own, own=True)
        if self._force:
            return Target(letter.subject, own=False)
        if filters is None:
            return f"stream {stream} has no consumer {letter.agent}; `tieline apply` makes those of a pod"
        return (
            f"consumer {letter.agent} is not Tieline's: everybody who consumes {letter.subject} would get it again; "
            "--to-subject sends it elsewhere, --force there all the same"
        )

    async def _filters_of(self, stream: str, durable: str) -> frozenset[str] | None:
        key = (stream, durable)
        if key not in self._filters:
            try:
                config = (await self._connection.api(f"CONSUMER.INFO.{stream}.{durable}"))["config"]
                self._filters[key] = frozenset(config.get("filter_subjects") or [config.get("filter_subject") or ">"])
            except ApiError as error:
                if error.err_code not in _MISSING:
                    raise
                self._filters[key] = None
        return self._filters[key]
