"""The torture suite: each invariant sees what it is there for, and the quick faults hold. All of them: TORTURE=1."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tieline.errors import BadSettings
from tieline.services.ledger import Row
from tieline.testing.torture import FAULTS, Fault, chosen, tortured
from tieline.testing.torture.effects import Effect, Effects
from tieline.testing.torture.invariants import INVARIANTS, broken
from tieline.testing.torture.load import Plan, kinds_of
from tieline.testing.torture.record import Acked, Dead, Record

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "torture.md"
QUICK = {1, 6, 7, 11, 21, 22, 24, 30}
EVERYTHING = os.environ.get("TORTURE") == "1"


def good() -> Record:
    """A run in which everything held: one job done, one refused."""
    told: dict[str, object] = {
        "cause": "refused",
        "reason": "no",
        "agent": "clerk",
        "subject": "torture.job",
        "stream": "TORTURE",
    }
    told |= {"seq": 2, "origin": "TORTURE-2-0", "at": 1.0, "attempts": []}
    row = Row("TORTURE", "clerk", 3, 2, 1, 0, 0, 0, 0, 0, 0)
    return Record(
        acked=[
            Acked("lane-0", 0, "plain", 1, b"{}", ordered=True),
            Acked("lane-0", 1, "refuse", 2, b"{}", ordered=True),
            Acked("lane-0", 2, "plain", 3, b"{}", ordered=True),
        ],
        effects=[Effect(1, "k1", "lane-0", 0), Effect(2, "k2", "lane-0", 2)],
        dead=[Dead(1, told, {"Tieline-Conversation": "lane-0"}, b"{}")],
        rows=[row],
        recovery=0.5,
        said="nothing of note",
        canary="canary",
    )


def lost(record: Record) -> None:
    record.effects.pop()


def lost_letter(record: Record) -> None:
    record.dead.clear()


def repeated(record: Record) -> None:
    record.effects.append(Effect(3, "k3", "lane-0", 2))


def disordered(record: Record) -> None:
    record.effects[0] = replace(record.effects[0], number=2)
    record.effects[1] = replace(record.effects[1], number=0)


def incomplete(record: Record) -> None:
    record.dead[0] = replace(record.dead[0], told={"seq": 2, "cause": "refused"})


def nameless(record: Record) -> None:
    record.dead[0] = replace(record.dead[0], headers={})


def emptied(record: Record) -> None:
    record.dead[0] = replace(record.dead[0], payload=b"")


def doubled(record: Record) -> None:
    record.dead.append(replace(record.dead[0], letter=2))


def innocent(record: Record) -> None:
    record.effects.pop()
    record.dead.append(replace(record.dead[0], letter=2, told={**record.dead[0].told, "seq": 3}))


def both(record: Record) -> None:
    record.effects.append(Effect(3, "k3", "lane-0", 1))


def told(record: Record) -> None:
    record.said = "log: the canary sings"


def stuck(record: Record) -> None:
    record.recovery = None


def slow(record: Record) -> None:
    record.recovery = 500.0


def apart(record: Record) -> None:
    record.odd_copies.append("TORTURE on n2")


def unbalanced(record: Record) -> None:
    record.rows[0] = replace(record.rows[0], done=1)


def owed(record: Record) -> None:
    record.rows[0] = replace(record.rows[0], published=4, pending=1, owed=1, at_server=1)


VIOLATIONS: dict[Callable[[Record], None], str] = {
    lost: "I1",
    lost_letter: "I1",
    repeated: "I2",
    disordered: "I3",
    incomplete: "I4",
    nameless: "I4",
    emptied: "I4",
    doubled: "I4",
    innocent: "I4",
    both: "I4",
    told: "I5",
    stuck: "I6",
    slow: "I6",
    apart: "I7",
    unbalanced: "SUM",
    owed: "SUM",
}


def test_a_run_in_which_everything_held_is_not_spoken_of() -> None:
    assert broken(good()) == []


@pytest.mark.parametrize("violate", VIOLATIONS, ids=lambda violate: violate.__name__)
def test_each_violation_is_seen_by_its_invariant(violate: Callable[[Record], None]) -> None:
    record = good()
    violate(record)
    assert VIOLATIONS[violate] in {evidence.partition(":")[0] for evidence in broken(record)}


@pytest.mark.parametrize("violate", [lambda _: None, *VIOLATIONS])
def test_what_is_printed_as_a_sum_is_one(violate: Callable[[Record], None]) -> None:
    """Also where a fault adds messages of its own, or a message has an effect and a dead letter."""
    record = good()
    violate(record)
    record.effects += [Effect(50 + number, f"other{number}", "other", number) for number in range(3)]
    letter = record.dead[0] if record.dead else replace(good().dead[0])
    record.dead += [
        replace(letter, letter=90 + number, told={**letter.told, "seq": 900 + number}) for number in range(5)
    ]
    outcomes = record.outcomes()
    assert outcomes.acknowledged == len(record.acked) == outcomes.done + outcomes.dead + outcomes.lost
    assert (outcomes.other_effects >= 3, outcomes.other_dead) == (True, 5)
    assert f"{outcomes.acknowledged} acknowledged = {outcomes.done} done + {outcomes.dead} dead" in str(outcomes)


def test_every_invariant_is_violated_by_something() -> None:
    assert set(VIOLATIONS.values()) == set(INVARIANTS)


def test_an_effect_is_one_for_its_key(tmp_path: Path) -> None:
    with Effects(tmp_path / "e.db") as one, Effects(tmp_path / "e.db") as other:
        assert one.cause("k", "lane-0", 1) == other.cause("k", "lane-0", 1)
        assert (one.count(), other.runs(), one.has("lane-0", 1), one.has("lane-0", 2)) == (1, 2, True, False)


def test_the_seed_decides_the_load() -> None:
    plan = Plan(poison=2, slow=1)
    assert kinds_of(plan, 1) == kinds_of(plan, 1) != kinds_of(plan, 2)
    every = [kind for lane in kinds_of(plan, 1) for kind in lane]
    assert (every.count("poison"), every.count("slow"), every.count("refuse") + every.count("rubbish")) == (2, 1, 8)


def test_there_are_thirty_and_the_page_lists_them() -> None:
    assert [fault.number for fault in FAULTS] == list(range(1, 31))
    page = PAGE.read_text(encoding="utf-8")
    for fault in FAULTS:
        assert f"| {fault.number} | `{fault.name}` | {fault.breaks} |" in page


def test_a_fault_that_is_not_there_is_named() -> None:
    with pytest.raises(BadSettings, match="no fault flood; there are 1 to 30"):
        chosen(["flood", "4"])
    assert [fault.number for fault in chosen(["bit-rot", "4"])] == [4, 16]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_what_must_hold_holds(fault: Fault) -> None:
    if fault.number not in QUICK and not EVERYTHING and fault.strike is not None:
        pytest.skip("long; TORTURE=1 runs it, and so does tieline torture")
    verdict = await tortured(fault, seed=1)
    if verdict.skipped:
        pytest.skip(verdict.skipped)
    assert verdict.held, "\n".join((*verdict.evidence[:10], *verdict.testimony))


async def test_a_fault_that_breaks_something_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, and an effect is taken away behind its back."""

    async def strike(_: object, record: Record) -> None:
        record.notes.append("deliberate")

    fault = Fault(number=0, name="none", breaks="nothing", strike=strike, plan=Plan(lanes=2, jobs=3))
    monkeypatch.setattr(Effects, "all", lambda _: [])
    monkeypatch.setattr("tieline.testing.torture.run._QUIET", 5.0)
    verdict = await tortured(fault, seed=1)
    assert not verdict.held
    assert any(line.startswith("I1: message") for line in verdict.evidence)
    assert "none: deliberate" in verdict.evidence
    assert any(line.startswith("torture: stream TORTURE: ") for line in verdict.testimony)
    assert any("clerk" in line and "num_ack_pending" in line for line in verdict.testimony)
