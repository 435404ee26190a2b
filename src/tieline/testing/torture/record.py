"""What a run leaves behind, for the invariants to judge. Nothing in it is judged yet."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tieline.services.ledger import Row
from tieline.testing.torture.effects import Effect
from tieline.testing.torture.office import Kind

__all__ = ["Acked", "Dead", "Outcomes", "Record"]


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


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the load: acknowledged = done + dead + lost, each message once.

    ``other_effects`` and ``other_dead`` are of messages beside it: those that the fault published itself, and publishes
    that were stored although nobody got an acknowledgement.
    """

    acknowledged: int
    done: int
    dead: int
    lost: int
    other_effects: int
    other_dead: int

    def __str__(self) -> str:
        total = f"{self.acknowledged} acknowledged = {self.done} done + {self.dead} dead"
        if self.lost:
            total += f" + {self.lost} lost"
        if self.other_effects or self.other_dead:
            total += f"; of other messages {self.other_effects} done, {self.other_dead} dead"
        return total


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

    def outcomes(self) -> Outcomes:
        """What became of each acknowledged message, and how much there is beside them."""
        effects = {(effect.lane, effect.number) for effect in self.effects}
        letters = {letter.seq for letter in self.dead}
        jobs, seqs = {(one.lane, one.number) for one in self.acked}, {one.seq for one in self.acked}
        done = [one for one in self.acked if (one.lane, one.number) in effects]
        dead = [one for one in self.acked if (one.lane, one.number) not in effects and one.seq in letters]
        return Outcomes(
            acknowledged=len(self.acked),
            done=len(done),
            dead=len(dead),
            lost=len(self.acked) - len(done) - len(dead),
            other_effects=len(effects - jobs),
            other_dead=len(letters - seqs),
        )
