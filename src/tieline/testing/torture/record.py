"""What a run leaves behind, for the invariants to judge. Nothing in it is judged yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tieline.services.ledger import Row
from tieline.testing.torture.effects import Effect
from tieline.testing.torture.office import Kind

__all__ = ["Acked", "Dead", "Record"]


@dataclass(frozen=True, slots=True)
class Acked:
    """A publish that the server acknowledged. ``ordered``: the next of its lane was published after its effect."""

    lane: str
    number: int
    kind: Kind
    seq: int
    payload: bytes
    ordered: bool


@dataclass(frozen=True, slots=True)
class Dead:
    """A dead letter: its own sequence, what it says of itself, and its payload."""

    letter: int
    told: Mapping[str, object]
    headers: Mapping[str, str]
    payload: bytes

    @property
    def seq(self) -> int:
        """Of the message in its stream."""
        seq = self.told.get("seq")
        return seq if isinstance(seq, int) else 0


@dataclass(slots=True)
class Record:
    """A run under one fault. Seconds; ``recovery`` is None where nothing was handled after the fault.

    ``said`` is everything the processes printed and the audit holds; ``canary`` must not be in it.
    """

    acked: list[Acked] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    runs: int = 0
    unacked: int = 0
    recovery: float | None = None
    longest_gap: float = 0.0
    odd_copies: list[str] = field(default_factory=list)
    said: str = ""
    canary: str = ""
    notes: list[str] = field(default_factory=list)
