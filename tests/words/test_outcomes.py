"""Outcomes are values; a cause keeps what is needed to find the line."""

import dataclasses

import pytest

from tieline import Done, Refuse, Retry
from tieline.outcomes import Cause


def test_outcomes_are_values() -> None:
    assert Done() == Done()
    assert Retry("busy", after=2.0) == Retry("busy", after=2.0)
    assert Refuse("no such house") != Refuse("no such street")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Refuse("a").reason = "b"  # type: ignore[misc]


def test_a_cause_names_the_error_and_its_line() -> None:
    with pytest.raises(LookupError) as raised:
        raise LookupError("no such house")
    cause = Cause.of(raised.value)
    assert (cause.kind, cause.error, cause.reason) == ("raised", "LookupError", "LookupError: no such house")
    assert 'raise LookupError("no such house")' in cause.traceback


def test_an_error_without_words_is_its_name() -> None:
    assert Cause.of(TimeoutError()).reason == "TimeoutError"


def climb(depth: int) -> None:
    # Two functions in turn: a traceback folds the frames of one that calls itself.
    if depth == 0:
        raise ValueError("at the bottom")
    climb_on(depth - 1)


def climb_on(depth: int) -> None:
    climb(depth)


def test_of_a_long_traceback_the_innermost_frames_are_kept() -> None:
    with pytest.raises(ValueError, match="bottom") as raised:
        climb(150)
    cause = Cause.of(raised.value)
    assert len(cause.traceback) <= 8_000
    assert cause.traceback.rstrip().endswith("ValueError: at the bottom")
