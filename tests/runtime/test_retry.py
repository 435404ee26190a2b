"""How long a failed message waits."""

from hypothesis import given
from hypothesis import strategies as st

from tieline import Limits
from tieline.runtime.retry import back_off


@given(st.integers(1, 400), st.floats(0, 100), st.floats(0, 1000))
def test_the_wait_grows_by_four_up_to_its_longest_and_is_jittered(failures: int, first: float, more: float) -> None:
    limits = Limits(first_retry=first, longest_retry=first + more)
    full = min(first * 4.0 ** (failures - 1), first + more)
    wait = back_off(limits, failures)
    assert 0.75 * full <= wait <= full


def test_the_defaults_stay_inside_two_minutes() -> None:
    waits = [back_off(Limits(), failures) for failures in range(1, Limits().attempts)]
    assert sum(waits) < 120
    assert waits == sorted(waits)


def test_what_failed_together_does_not_come_back_together() -> None:
    assert len({back_off(Limits(), 3) for _ in range(50)}) == 50
