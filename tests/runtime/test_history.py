"""What the journal's records of a message's attempts come to."""

from collections.abc import Mapping
from typing import Any

import pytest

from tieline.runtime.history import NO_PAST, Past, _judged

ALONE = {"alone": True}
SHARED = {"alone": False}
RAISED = {"end": "raised", "cause": "raised"}
INTERRUPTED = {"end": "interrupted"}


@pytest.mark.parametrize(
    ("starts", "ends", "counted", "vanished", "following"),
    [
        # A redelivery without a trace: the first run died, or was handed back before it ran.
        ({}, {}, 0, 1, 2),
        ({}, {1: RAISED}, 1, 0, 2),
        ({}, {1: INTERRUPTED}, 0, 0, 2),
        ({2: SHARED}, {1: RAISED}, 1, 1, 3),
        ({2: SHARED}, {}, 0, 2, 3),
        ({2: SHARED}, {2: RAISED}, 1, 1, 3),
        ({2: SHARED, 3: ALONE}, {}, 1, 2 + 1, 4),
        ({2: SHARED, 3: ALONE, 4: ALONE}, {}, 2, 4, 5),
        ({2: SHARED, 3: ALONE, 4: ALONE}, {3: RAISED}, 2, 3, 5),
        ({2: SHARED, 3: ALONE}, {3: INTERRUPTED}, 0, 2, 4),
        (dict.fromkeys(range(2, 6), SHARED), dict.fromkeys(range(1, 6), RAISED), 5, 0, 6),
        # A start that is missing in the middle (a stale read) is somebody who died.
        ({3: SHARED}, {1: RAISED}, 1, 2, 4),
    ],
)
def test_attempts_are_counted_and_vanishings_only_alone(
    starts: Mapping[int, Any], ends: Mapping[int, Any], counted: int, vanished: int, following: int
) -> None:
    past = _judged(dict(starts), dict(ends))
    assert (past.counted, past.vanished, past.next) == (counted, vanished, following)
    assert len(past.tries) == following - 1


def test_under_suspicion_after_two_vanishings_and_alone_after_a_few_more() -> None:
    assert [Past(0, vanished, vanished + 1, ()).beside(50) for vanished in range(8)] == [0, 0, 25, 12, 6, 3, 1, 1]
    assert [Past(0, vanished, vanished + 1, ()).beside(1) for vanished in range(4)] == [0, 0, 1, 1]
    assert NO_PAST.beside(8) == 0


def test_the_tries_tell_how_each_ended() -> None:
    past = _judged({2: {"by": "host:1", "alone": False}, 3: {"by": "host:2", "alone": True}}, {1: RAISED})
    assert [record["end"] for record in past.tries] == ["raised", "vanished", "vanished"]
    assert [record.get("by") for record in past.tries] == [None, "host:1", "host:2"]


@pytest.mark.parametrize(
    ("starts", "ends", "before", "counted", "vanished", "following"),
    [
        ({}, {}, 1, 0, 0, 2),  # refused at once, and redriven
        (dict.fromkeys(range(2, 6), SHARED), dict.fromkeys(range(1, 6), RAISED), 5, 0, 0, 6),
        (dict.fromkeys(range(2, 7), SHARED), dict.fromkeys(range(1, 7), RAISED), 5, 1, 0, 7),
        ({2: SHARED, **dict.fromkeys(range(3, 8), ALONE)}, {}, 7, 0, 6, 8),
        ({2: SHARED, **dict.fromkeys(range(3, 9), ALONE)}, {}, 7, 1, 7, 9),
    ],
)
def test_attempts_before_a_redrive_are_told_of_and_not_counted(
    starts: Mapping[int, Any], ends: Mapping[int, Any], before: int, counted: int, vanished: int, following: int
) -> None:
    past = _judged(dict(starts), dict(ends), before=before)
    assert (past.counted, past.vanished, past.next) == (counted, vanished, following)
    assert len(past.tries) == following - 1


@pytest.mark.parametrize("junk", [{"end": 7}, {}, {"ok": False, "cause": "invalid"}])
def test_records_that_somebody_else_wrote_do_no_harm(junk: dict[str, Any]) -> None:
    assert _judged({2: junk}, {1: junk}).next == 3


def test_a_number_that_only_the_header_gives_costs_nothing_and_suspects_nobody() -> None:
    """Anybody who may send a message again can write any number of tries into its header."""
    past = _judged({}, {}, before=999_999, oldest=999_988)
    assert (past.counted, past.vanished, past.next, len(past.tries)) == (0, 0, 1_000_000, 1)
    past = _judged({1_000_000: ALONE}, {1_000_000: RAISED}, before=999_999, oldest=999_988)
    assert (past.counted, past.next) == (1, 1_000_001)
