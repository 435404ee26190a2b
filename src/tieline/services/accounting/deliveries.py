"""`Deliveries`: which deliveries of an account's messages are owed, and which of them are copies of which message."""

import math
from collections.abc import Iterable, Iterator

from tieline.records.checkpoint import Answer, Due
from tieline.services.accounting.look import removed_at

__all__ = ["Deliveries"]


class Deliveries:
    """The deliveries of the messages of one account. A copy is a delivery under a sequence of its own."""

    def __init__(self) -> None:
        self._owed: dict[int, Due] = {}  # deliveries, of messages and copies, that nobody has answered for
        self._copies: dict[int, int] = {}  # of which message a sequence is a copy
        self._copies_of: dict[int, list[int]] = {}
        self._answers: dict[int, Answer] = {}  # of deliveries of messages that are not done
        self._soonest = math.inf  # nothing owed is gone by TTL before; a lower bound

    @property
    def owed(self) -> int:
        """How many deliveries are owed."""
        return len(self._owed)

    def owed_at(self, seqs: Iterable[int]) -> list[int]:
        """Those of ``seqs`` that are owed."""
        return [seq for seq in seqs if seq in self._owed]

    def owed_between(self, first: int, last: int) -> list[int]:
        """The deliveries from one sequence to another that are owed."""
        return [seq for seq in self._owed if first <= seq <= last]

    def due_before(self, when: float, max_age: float | None) -> Iterator[tuple[int, Due]]:
        """What is owed and will be removed by TTL or age before ``when``."""
        if self._soonest >= when and (max_age is None or all(due[0] + max_age >= when for due in self._oldest())):
            return
        yield from ((seq, due) for seq, due in self._owed.items() if removed_at(due, max_age) < when)

    def message_of(self, seq: int) -> int:
        """The message that the delivery is of."""
        return self._copies.get(seq, seq)

    def _owe(self, seq: int, due: Due) -> None:
        self._owed[seq] = due
        if due[1] is not None and due[1] < self._soonest:
            self._soonest = due[1]

    def _oldest(self) -> Iterator[Due]:
        """The delivery that was first stored, as far as their order tells; none where nothing is owed."""
        for seq in self._owed:
            yield self._owed[seq]
            return

    def _deliveries(self, message: int) -> list[int]:
        return [message, *self._copies_of.get(message, ())]

    def _is_owed(self, message: int) -> bool:
        return any(seq in self._owed for seq in self._deliveries(message))
