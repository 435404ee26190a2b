"""The sum, without a server: what is told in any order comes to the same count."""

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.services.ledger import Account, Holes, Row

type Event = Callable[[Account], None]


def counted(*events: Event, at_server: int | None = None) -> tuple[int, int, int, int, int]:
    """Done, dead, expired, pending, and how many of these are parked."""
    row = told(*events).row(at_server)
    assert row.published == row.done + row.dead + row.expired + row.pending
    return row.done, row.dead, row.expired, row.pending, row.parked


def told(*events: Event) -> Account:
    account = Account("CALL_INTENT", "booking")
    for event in events:
        event(account)
    return account


def stored(seq: int, expires: float | None = None) -> Event:
    return lambda account: account.stored(seq, expires)


def copied(seq: int, of: int, expires: float | None = None) -> Event:
    return lambda account: account.copied(seq, of, expires)


def done(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "done", of)


def dead(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "dead", of)


def parked(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "parked", of)


def aside(seq: int) -> Event:
    return lambda account: account.put_aside(seq)


def over(seq: int) -> Event:
    return lambda account: account.over(seq)


def looked(floor: int, now: float = 0.0) -> Event:
    return lambda account: account.look(now, floor)


PENDING, PARKED, DONE, DEAD, EXPIRED = (
    (0, 0, 0, 1, 0),
    (0, 0, 0, 1, 1),
    (1, 0, 0, 0, 0),
    (0, 1, 0, 0, 0),
    (0, 0, 1, 0, 0),
)

STORIES: dict[str, tuple[list[Event], tuple[int, ...]]] = {
    "handled": ([stored(1), done(1)], DONE),
    "refused": ([stored(1), dead(1)], DEAD),
    "put aside": ([stored(1), parked(1)], PARKED),
    "put aside, on record and told": ([stored(1), parked(1), aside(1)], PARKED),
    "brought back": ([stored(1), parked(1), copied(7, 1)], PENDING),
    "brought back and handled": ([stored(1), parked(1), copied(7, 1), done(7, 1)], DONE),
    "brought back and put aside again": ([stored(1), parked(1), copied(7, 1), parked(7, 1)], PARKED),
    "brought back twice": ([stored(1), parked(1), copied(7, 1), parked(7, 1), copied(9, 1), done(9, 1)], DONE),
    "brought back and dead": ([stored(1), parked(1), copied(7, 1), dead(7, 1)], DEAD),
    "an answer and a timer brought it back": ([stored(1), parked(1), copied(7, 1), copied(8, 1), done(7, 1)], DONE),
    "dead, and sent again": ([stored(1), dead(1), copied(7, 1)], PENDING),
    "dead, sent again and handled": ([stored(1), dead(1), copied(7, 1), done(7, 1)], DONE),
    "handled, its fact lost, a record left": ([stored(1), parked(1), copied(7, 1), over(1)], DONE),
    "the stream has forgotten the message": ([copied(7, 1), done(7, 1)], DONE),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_order_in_which_things_are_told_does_not_matter(name: str) -> None:
    events, wanted = STORIES[name]
    for order in permutations(events):
        assert counted(*order) == wanted
        assert counted(*order, *order) == wanted, "told twice"


def test_what_was_put_aside_is_not_taken_for_done_because_it_was_acknowledged() -> None:
    assert counted(stored(1), looked(floor=1)) == DONE
    assert counted(stored(1), aside(1), looked(floor=1)) == PARKED
    assert counted(stored(1), looked(floor=1), aside(1)) == PARKED, "the record was read after the look"
    assert counted(stored(1), looked(floor=1), copied(7, 1)) == PENDING
    assert counted(stored(1), copied(7, 1), looked(floor=9)) == PARKED, "the copy's fact was lost: it may have parked"
    assert counted(stored(1), copied(7, 1), looked(floor=9), over(1)) == DONE


def test_only_the_unexplained_are_inferred() -> None:
    account = told(stored(1), stored(2), looked(floor=2))
    assert account.row(None).inferred == 2
    done(1)(account)
    aside(2)(account)
    assert (account.row(None).inferred, account.row(None).done) == (0, 1)


def test_a_message_that_was_put_aside_does_not_expire_but_its_copy_does() -> None:
    assert counted(stored(1, expires=5.0), looked(floor=0, now=9.0)) == EXPIRED
    assert counted(stored(1, expires=5.0), parked(1), looked(floor=0, now=9.0)) == PARKED
    assert counted(stored(1, expires=5.0), aside(1), looked(floor=0, now=9.0)) == PARKED
    assert counted(stored(1), parked(1), copied(7, 1, expires=5.0), looked(floor=0, now=9.0)) == EXPIRED
    assert counted(stored(1, expires=5.0), looked(floor=0, now=9.0), done(1)) == DONE, "it was handled all the same"


def test_the_server_owes_what_is_pending_but_not_parked() -> None:
    def owed(*events: Event) -> int:
        return told(*events).row(None).owed

    assert owed(stored(1), stored(2), done(2)) == 1
    assert owed(stored(1), parked(1)) == 0
    assert owed(stored(1), parked(1), copied(7, 1)) == 1
    assert owed(stored(1), parked(1), copied(7, 1), copied(8, 1), done(7, 1)) == 1, "a timer that comes too late"


def test_a_row_holds_where_the_server_agrees() -> None:
    row = told(stored(1), stored(2), parked(2)).row(at_server=1)
    assert (row.pending, row.parked, row.owed, row.holds) == (2, 1, 1, True)
    assert not told(stored(1)).row(at_server=0).holds
    assert Row("S", "a", 2, 1, 0, 0, 0, 0, 0, 0, None).holds is False


def test_what_is_forgotten_stays_counted_and_what_is_parked_does_not_hold_it_up() -> None:
    account = told(stored(1), parked(1), *(event for seq in range(2, 100) for event in (stored(seq), done(seq))))
    account.forget(99)
    for event in (stored(5), done(5), over(5), copied(120, 1), done(120, 1), copied(130, 5), done(130, 5)):
        event(account)
    row = account.row(0)
    assert (row.published, row.done, row.pending, row.holds) == (99, 99, 0, True)


def test_a_dead_letter_is_remembered_because_it_may_be_sent_again() -> None:
    account = told(stored(1), dead(1), stored(2), done(2))
    account.forget(2)
    assert account.row(0).dead == 1
    copied(9, 1)(account)
    done(9, 1)(account)
    assert (account.row(0).dead, account.row(0).done) == (0, 2)


_SEQ = st.integers(1, 6)
_EVENTS = st.one_of(
    st.builds(stored, _SEQ, st.none() | st.floats(0, 9)),
    st.builds(copied, st.integers(7, 12), _SEQ),
    st.builds(done, st.integers(1, 12)),
    st.builds(dead, st.integers(1, 12)),
    st.builds(parked, st.integers(1, 12)),
    st.builds(aside, _SEQ),
    st.builds(over, _SEQ),
    st.builds(looked, st.integers(0, 12), st.floats(0, 12)),
    st.builds(lambda upto: lambda account: account.forget(upto), st.integers(0, 12)),
)


@given(st.lists(_EVENTS, max_size=40))
def test_whatever_is_told_the_sum_is_right(events: list[Event]) -> None:
    row = told(*events).row(None)
    assert row.holds
    assert min(row.done, row.dead, row.expired, row.pending, row.inferred, row.owed) >= 0
    assert row.inferred <= row.done
    assert row.parked <= row.pending


def test_a_hole_is_unseen_until_somebody_tells_of_it() -> None:
    holes = Holes()
    assert list(holes.read(5)) == [], "what is before the first is older than the stream keeps"
    assert list(holes.read(8)) == [6, 7]
    holes.add(6)
    holes.add(7)
    assert list(holes.read(8)) == list(holes.read(3)) == [], "a feed that heals reads again"
    holes.told(6)
    assert (len(holes), 6 in holes, 7 in holes, holes.upto) == (1, False, True, 8)
    assert list(holes.read(1_000_000)) == [], "a purge is counted, not remembered one by one"
    assert len(holes) == 1 + 1_000_000 - 9
