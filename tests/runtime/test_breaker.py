"""The circuit breaker as a value: told what happened, it decides. No tool, no server, no clock."""

import pytest

from tieline import BadSettings, Breaker, Rate
from tieline.facts import Light
from tieline.runtime.breaker import Circuit


class Bench:
    """A circuit with a clock that a test turns."""

    def __init__(self, failures: int = 3, reset: float = 30.0) -> None:
        self.now = 100.0
        self.changes: list[Light] = []
        self.circuit = Circuit(Breaker(failures, reset), lambda: self.now, lambda state, _: self.changes.append(state))

    def call(self, *, fails: bool) -> None:
        permit = self.circuit.enter()
        if fails:
            self.circuit.failed(permit, "no route")
        else:
            self.circuit.succeeded(permit)
        self.circuit.left(permit)


def opened() -> Bench:
    bench = Bench()
    for _ in range(3):
        bench.call(fails=True)
    return bench


def test_failures_in_a_row_open_it_and_others_do_not() -> None:
    bench = Bench()
    for fails in (True, True, False, True, True, False, True, True):
        bench.call(fails=fails)
    assert bench.changes == []
    bench.call(fails=True)
    assert (bench.circuit.state, bench.changes) == ("open", ["open"])


def test_open_it_says_how_long_and_then_lets_one_in() -> None:
    bench = opened()
    assert bench.circuit.wait() == 30.0
    bench.now += 29.0
    assert bench.circuit.wait() == 1.0
    bench.now += 1.0
    assert bench.circuit.wait() == 0.0
    bench.circuit.enter()
    assert bench.circuit.wait() > 0
    assert bench.changes == ["open", "half-open"]


@pytest.mark.parametrize(("fails", "state"), [(True, "open"), (False, "closed")])
def test_the_one_call_decides(fails: bool, state: Light) -> None:
    bench = opened()
    bench.now += 30.0
    bench.call(fails=fails)
    assert bench.circuit.state == state
    assert bench.circuit.wait() == (30.0 if fails else 0.0)


def test_a_tried_call_that_says_nothing_makes_room_for_another() -> None:
    bench = opened()
    bench.now += 30.0
    bench.circuit.left(bench.circuit.enter())
    assert (bench.circuit.state, bench.circuit.wait()) == ("half-open", 0.0)


def test_the_word_of_a_call_from_before_does_not_count() -> None:
    bench = Bench()
    early = bench.circuit.enter()
    for _ in range(3):
        bench.call(fails=True)
    bench.circuit.succeeded(early)
    assert bench.circuit.state == "open"
    bench.now += 30.0
    tried = bench.circuit.enter()
    bench.circuit.failed(early, "late")
    bench.circuit.left(early)
    assert (bench.circuit.state, bench.circuit.wait() > 0) == ("half-open", True)
    bench.circuit.succeeded(tried)
    assert bench.changes[-1] == "closed"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Breaker(failures=0),
        lambda: Breaker(reset=0),
        lambda: Rate(0),
        lambda: Rate(-1),
        lambda: Rate(1, per=0),
        lambda: Rate(1, burst=0),
        lambda: Rate(float("nan")),
    ],
)
def test_values_that_cannot_work_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(BadSettings):
        make()
