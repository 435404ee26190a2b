"""`Unseen`: sequences of one stream that were gone before anybody read them, and of which no fact tells."""

from collections.abc import Iterable

from tieline.records.checkpoint import UnseenState
from tieline.records.ranges import Ranges
from tieline.services.ledger import Row

__all__ = ["UNSEEN", "Unseen"]

UNSEEN = "(unseen)"


class Unseen:
    """The gaps in what was read of one stream. A fact about a sequence takes it out."""

    def __init__(self) -> None:
        self.upto = 0  # read so far
        self._upto_at = 0.0  # when that message was stored
        self._gone = Ranges()
        self._accepted = Ranges()
        self._since = self._until = 0.0  # the neighbors of what is gone were stored then
        self._earlier = self._earlier_accepted = 0  # of earlier lives of the stream

    def __contains__(self, seq: int) -> bool:
        return seq in self._gone

    def skip_to(self, seq: int, at: float) -> None:
        """Do not judge what is before ``seq``: it is older than the stream keeps."""
        self.upto, self._upto_at = max(self.upto, seq - 1), at

    def read(self, seq: int, at: float) -> tuple[int, int] | None:
        """The stream was read up to ``seq``, which was stored at ``at``; the first and the last sequence that were
        skipped. Say `add` of those that nobody knows."""
        if seq <= self.upto:
            return None
        skipped = (self.upto + 1, seq - 1) if seq > self.upto + 1 else None
        if skipped is not None:
            since = self._upto_at or at
            self._since = min(self._since, since) if self._gone else since
            self._until = max(self._until, at) if self._gone else at
        self.upto, self._upto_at = seq, at
        return skipped

    def read_to(self, last: int, now: float) -> tuple[int, int] | None:
        """Everything up to ``last`` that is still there was read, at ``now``: like `read` of the message after it."""
        if last <= self.upto:
            self._upto_at = max(self._upto_at, now if last == self.upto else 0.0)
            return None
        skipped = self.read(last + 1, now)
        self.upto = last
        return skipped

    def add(self, first: int, last: int) -> None:
        """Nobody knows what these were."""
        self._gone.add(first, last)

    def found(self, seq: int) -> bool:
        """Somebody tells of ``seq``. False where it was not among the unseen."""
        return bool(self._gone.discard(seq))

    def accept(self, ranges: Iterable[tuple[int, int]], earlier: int = 0) -> None:
        """An operator has looked at these, and has accepted the loss."""
        for first, last in ranges:
            self._accepted.add(first, last)
        taken = min(earlier, self._earlier)
        self._earlier -= taken
        self._earlier_accepted += taken

    @property
    def earlier(self) -> int:
        """How many were unseen in the stream's earlier lives, and are not accepted."""
        return self._earlier

    def open(self) -> list[tuple[int, int]]:
        """The ranges that nobody has accepted."""
        left = Ranges(self._gone)
        for first, last in self._accepted:
            left.discard(first, last)
        return list(left)

    def renewed(self) -> "Unseen":
        """The gaps once the stream was created again: only the counts stay."""
        fresh = Unseen()
        left = sum(last - first + 1 for first, last in self.open())
        fresh._earlier = self._earlier + left
        fresh._earlier_accepted = self._earlier_accepted + len(self._gone) - left
        fresh._since, fresh._until = self._since, self._until
        return fresh

    def row(self, stream: str) -> Row | None:
        """The line of the sum; None where everything was seen."""
        left = sum(last - first + 1 for first, last in self.open()) + self._earlier
        gone = len(self._gone) + self._earlier + self._earlier_accepted
        if not gone:
            return None
        return Row(
            stream=stream,
            agent=UNSEEN,
            published=gone,
            unaccounted=left,
            accepted=gone - left,
            since=round(self._since, 3),
            until=round(self._until, 3),
        )

    def state(self) -> UnseenState:
        """Everything known, for a checkpoint."""
        return UnseenState(
            upto=self.upto,
            upto_at=self._upto_at,
            gone=list(self._gone),
            accepted=list(self._accepted),
            since=self._since,
            until=self._until,
            earlier=self._earlier,
            earlier_accepted=self._earlier_accepted,
        )

    @classmethod
    def of(cls, state: UnseenState) -> "Unseen":
        """As `state` had it."""
        unseen = cls()
        unseen.upto, unseen._upto_at = state.upto, state.upto_at
        unseen._gone, unseen._accepted = Ranges(state.gone), Ranges(state.accepted)
        unseen._since, unseen._until = state.since, state.until
        unseen._earlier, unseen._earlier_accepted = state.earlier, state.earlier_accepted
        return unseen
