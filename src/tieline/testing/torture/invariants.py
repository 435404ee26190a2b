"""What must hold whatever breaks. Each takes what a run left behind and gives the evidence against it."""

from collections import Counter
from collections.abc import Callable, Iterator

from tieline import headers as names
from tieline.testing.torture.record import Record

__all__ = ["INVARIANTS", "broken"]

_BOUND = 60.0  # seconds until something is handled again: far over what is measured, so that a slow machine is no bug
_COMPLETE = ("cause", "reason", "agent", "subject", "stream", "seq", "origin", "at", "attempts")

type Invariant = Callable[[Record], Iterator[str]]


def nothing_is_lost(record: Record) -> Iterator[str]:
    """Every message that was acknowledged had its effect, or is a dead letter."""
    effects = {(effect.lane, effect.number) for effect in record.effects}
    dead = {letter.seq for letter in record.dead}
    for one in record.acked:
        if (one.lane, one.number) not in effects and one.seq not in dead:
            yield f"message {one.seq} ({one.lane}/{one.number}, {one.kind}) was acknowledged, and nothing came of it"


def each_effect_once(record: Record) -> Iterator[str]:
    """No job had two effects, under two keys."""
    for (lane, number), count in Counter((effect.lane, effect.number) for effect in record.effects).items():
        if count > 1:
            yield f"job {lane}/{number} had {count} effects"


def in_order(record: Record) -> Iterator[str]:
    """Where each job was published after the one before had its effect, the effects are in that order."""
    ordered = {one.lane for one in record.acked if one.ordered}
    last: dict[str, int] = {}
    for effect in record.effects:
        if effect.lane in ordered:
            if effect.number < last.get(effect.lane, -1):
                yield f"lane {effect.lane}: the effect of {effect.number} came after that of {last[effect.lane]}"
            last[effect.lane] = effect.number


def dead_letters_are_complete(record: Record) -> Iterator[str]:
    """Each tells its cause and its attempts, carries its payload, and is the only one; none is of an innocent."""
    acked = {one.seq: one for one in record.acked}
    for seq, count in Counter(letter.seq for letter in record.dead).items():
        if count > 1:
            yield f"message {seq} has {count} dead letters"
    for letter in record.dead:
        missing = [name for name in _COMPLETE if name not in letter.told]
        if missing or names.CONVERSATION not in letter.headers:
            yield f"dead letter {letter.letter} does not tell {', '.join(missing) or 'its conversation'}"
        one = acked.get(letter.seq)
        if one is not None and letter.payload != one.payload:
            yield f"dead letter {letter.letter} does not carry the payload of message {letter.seq}"
        if one is not None and one.kind in ("plain", "slow"):
            reason = letter.told.get("reason")
            yield f"message {letter.seq} ({one.lane}/{one.number}) died, and was an innocent: {reason}"
    effects = {(effect.lane, effect.number) for effect in record.effects}
    for letter in record.dead:
        one = acked.get(letter.seq)
        if one is not None and (one.lane, one.number) in effects:
            yield f"message {letter.seq} ({one.lane}/{one.number}) had its effect, and is a dead letter too"


def nothing_is_told(record: Record) -> Iterator[str]:
    """What is redacted is in no log and in no fact."""
    if record.canary and record.canary in record.said:
        at = record.said.index(record.canary)
        yield f"a secret was told: …{record.said[max(0, at - 60) : at + 60]!r}…"


def it_goes_on(record: Record) -> Iterator[str]:
    """Soon after the fault something is handled again."""
    if record.recovery is None:
        yield "nothing was handled after the fault"
    elif record.recovery > _BOUND:
        yield f"nothing was handled for {record.recovery:.0f} s after the fault"


def copies_agree(record: Record) -> Iterator[str]:
    """The servers of a cluster hold the same."""
    for what in record.odd_copies:
        yield f"the copies differ: {what}"


def the_sum_holds(record: Record) -> Iterator[str]:
    """Published = done + dead + expired, for each stream and agent: nothing is unaccounted, and nothing pending."""
    for row in record.rows:
        if not row.holds:
            ends = f"done {row.done} + dead {row.dead} + expired {row.expired} + pending {row.pending}"
            ends += f" + unaccounted {row.unaccounted}"
            yield f"{row.stream}/{row.agent}: published {row.published}, {ends}, the server owes {row.at_server}"
        elif row.pending:
            yield f"{row.stream}/{row.agent}: {row.pending} are still pending"


INVARIANTS: dict[str, Invariant] = {
    "I1": nothing_is_lost,
    "I2": each_effect_once,
    "I3": in_order,
    "I4": dead_letters_are_complete,
    "I5": nothing_is_told,
    "I6": it_goes_on,
    "I7": copies_agree,
    "SUM": the_sum_holds,
}


def broken(record: Record) -> list[str]:
    """The evidence against every invariant, each line with its name."""
    return [f"{name}: {evidence}" for name, holds in INVARIANTS.items() for evidence in holds(record)]
