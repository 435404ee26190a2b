"""`Row`: one line of the sum, for everything that shows it."""

from dataclasses import dataclass

__all__ = ["Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the sum: published = done + dead + expired + pending + unaccounted + accepted + before.

    ``unaccounted`` messages left their consumer, or their stream, without a fact or a record of their end; ``accepted``
    are those that an operator has looked at since. ``before`` are those that left before accounting began, and
    are not judged. ``parked`` of the pending ones were put aside, and are not at the server's consumer; ``owed`` is
    what should be: the other pending ones, and copies of messages that ended meanwhile; ``unacked`` deliveries have
    their end on record and may not be acknowledged yet. ``at_server`` is what the server says is pending: a second
    opinion, None while messages move. ``upto`` is the watermark: the sequence of the stream up to which the row
    counts; ``behind`` more wait to be read. ``since`` and ``until``: when unseen messages were stored (since 1970).
    """

    stream: str
    agent: str
    published: int = 0
    done: int = 0
    dead: int = 0
    expired: int = 0
    pending: int = 0
    unaccounted: int = 0
    accepted: int = 0
    before: int = 0
    parked: int = 0
    owed: int = 0
    unacked: int = 0
    at_server: int | None = None
    upto: int = 0
    behind: int = 0
    since: float | None = None
    until: float | None = None

    @property
    def difference(self) -> int:
        """Messages by which the columns do not add up, and by which the server's count differs from ours."""
        ends = self.done + self.dead + self.expired + self.pending + self.unaccounted + self.accepted + self.before
        wrong = abs(self.published - ends)
        if self.at_server is None:
            return wrong
        return wrong + max(self.owed - self.at_server, self.at_server - self.owed - self.unacked, 0)

    @property
    def holds(self) -> bool:
        """Every message is answered for: the columns add up, the server agrees, and nothing is unaccounted."""
        return self.difference == 0 and self.unaccounted == 0
