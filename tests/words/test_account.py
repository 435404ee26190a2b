"""The account, without a server: what is told in any order, and any number of times, comes to the same count."""

import math
from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.services.accounting.account import Account
from tieline.services.accounting.look import Look
from tieline.services.ledger import Row

type Event = Callable[[Account], None]

NOW = 1_000.0


def counted(*events: Event) -> tuple[int, int, int, int, int, int]:
    """Done, dead, expired, pending, unaccounted, and how many of the pending ones are parked."""
    row = told(*events).row()
    assert row.difference == 0
    return row.done, row.dead, row.expired, row.pending, row.unaccounted, row.parked


def told(*events: Event) -> Account:
    account = Account("CALL_INTENT", "booking")
    for event in events:
        event(account)
    return account


def stored(seq: int, expires: float | None = None, at: float = NOW) -> Event:
    return lambda account: account.stored(seq, (at, expires, "call.intent.book"))


def copied(seq: int, of: int, expires: float | None = None) -> Event:
    return lambda account: account.copied(seq, of, (NOW, expires, "redrive.call_intent.booking"))


def done(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "done", of)


def dead(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "dead", of)


def parked(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "parked", of)


def superseded(seq: int, of: int | None = None) -> Event:
    return lambda account: account.settled(seq, "superseded", of)


def aside(seq: int) -> Event:
    return lambda account: account.put_aside(seq)


def over(seq: int) -> Event:
    return lambda account: account.over(seq)


def looked(floor: int, now: float = NOW, max_age: float | None = None, since: float = 0.0) -> Event:
    return lambda account: account.look(Look(now, floor, floor, max_age, since))


def reports_facts(account: Account) -> None:
    account.reports_facts = True


PENDING, PARKED, DONE, DEAD, EXPIRED, UNACCOUNTED = (
    (0, 0, 0, 1, 0, 0),
    (0, 0, 0, 1, 0, 1),
    (1, 0, 0, 0, 0, 0),
    (0, 1, 0, 0, 0, 0),
    (0, 0, 1, 0, 0, 0),
    (0, 0, 0, 0, 1, 0),
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
    "the newer of two copies is superseded": ([copied(7, 1), copied(8, 1), dead(7, 1), superseded(8, 1)], DEAD),
    "a stale copy is superseded, another is handled": (
        [copied(7, 1), copied(8, 1), superseded(7, 1), done(8, 1)],
        DONE,
    ),
    "a frozen process is superseded": ([stored(1), superseded(1), done(1)], DONE),
    "dead, and sent again": ([stored(1), dead(1), copied(7, 1)], PENDING),
    "dead, sent again and handled": ([stored(1), dead(1), copied(7, 1), done(7, 1)], DONE),
    "handled, its fact lost, a record left": ([stored(1), parked(1), copied(7, 1), over(1)], DONE),
    "the stream has forgotten the message": ([copied(7, 1), done(7, 1)], DONE),
    "two processes handled it": ([stored(1), done(1), dead(1)], DONE),
}


@pytest.mark.parametrize("name", STORIES)
def test_the_order_in_which_things_are_told_does_not_matter(name: str) -> None:
    events, wanted = STORIES[name]
    for order in permutations(events):
        assert counted(*order) == wanted
        assert counted(*order, *order) == wanted, "told twice"


@pytest.mark.parametrize("name", STORIES)
def test_a_look_in_between_changes_nothing_in_the_end(name: str) -> None:
    """A look concludes from what is known then; what is told later corrects it."""
    events, wanted = STORIES[name]
    for order in permutations(events):
        for floor in (1, 9):
            interrupted = [step for event in order for step in (event, looked(floor))]
            left = "brought back" if wanted == PENDING else name
            if wanted != PENDING:
                assert counted(*interrupted, *order) == wanted, left


def test_what_was_acknowledged_without_a_word_is_unaccounted() -> None:
    assert counted(stored(1), looked(floor=0)) == PENDING
    assert counted(stored(1), looked(floor=1)) == UNACCOUNTED
    assert counted(stored(1), looked(floor=1), done(1)) == DONE, "its fact was read after all"
    assert counted(stored(1), superseded(1), looked(floor=1)) == UNACCOUNTED, "and no other run decided"
    assert counted(stored(1), superseded(1)) == PENDING, "another run has the message"


def test_what_was_put_aside_is_not_lost_because_it_was_acknowledged() -> None:
    assert counted(stored(1), aside(1), looked(floor=1)) == PARKED
    assert counted(stored(1), looked(floor=1), aside(1)) == PARKED, "the record was read after the look"
    assert counted(stored(1), looked(floor=1), copied(7, 1)) == PENDING
    assert counted(stored(1), copied(7, 1), looked(floor=9), over(1)) == DONE


def test_a_copy_that_is_gone_without_a_word_is_unaccounted_where_facts_would_have_told_that_it_parked() -> None:
    assert counted(reports_facts, stored(1), parked(1), copied(7, 1), looked(floor=9)) == UNACCOUNTED
    assert counted(stored(1), aside(1), copied(7, 1), looked(floor=9)) == PARKED, "the record may be of the copy"


def test_ttl_and_age_explain_what_was_never_handled() -> None:
    assert counted(stored(1, expires=5.0, at=1.0), looked(floor=0)) == EXPIRED
    assert counted(stored(1, expires=5.0, at=1.0), looked(floor=1)) == EXPIRED
    assert counted(stored(1, at=1.0), looked(floor=1, max_age=900.0)) == EXPIRED
    assert counted(stored(1, at=1.0), looked(floor=1, max_age=2_000.0)) == UNACCOUNTED, "it was too young"
    assert counted(stored(1, expires=math.inf, at=1.0), looked(floor=1, max_age=900.0)) == UNACCOUNTED, "TTL: never"
    assert counted(stored(1, expires=5.0, at=1.0), looked(floor=0), done(1)) == DONE, "it was handled all the same"


def test_a_message_that_was_put_aside_does_not_expire_but_its_copy_does() -> None:
    assert counted(stored(1, expires=5.0), parked(1), looked(floor=0)) == PARKED
    assert counted(stored(1, expires=5.0), aside(1), looked(floor=0)) == PARKED
    assert counted(stored(1), parked(1), copied(7, 1, expires=5.0), looked(floor=0)) == EXPIRED


def test_what_expired_is_reported_once() -> None:
    account = told(stored(1, expires=5.0, at=1.0), stored(2, expires=6.0, at=1.0), looked(floor=0))
    assert [(seq, due[1]) for seq, due in account.expired()] == [(1, 5.0), (2, 6.0)]
    account.reported(1)
    assert [seq for seq, _ in account.expired()] == [2]
    assert [seq for seq, _ in told(*[done(2)]).expired()] == []
    early = told(lambda account: account.reported(1), stored(1, expires=5.0, at=1.0), looked(floor=0))
    assert early.expired() == [], "the fact was read before the message was known to have expired"


def test_what_left_before_accounting_began_is_not_judged() -> None:
    account = told(stored(1, at=5.0), stored(2, at=15.0), looked(floor=2, since=10.0))
    assert (account.before, account.row().published, account.row().unaccounted) == (1, 1, 1)
    done(1)(account)
    assert (account.before, account.row().published, account.row().done) == (0, 2, 1)


def test_an_operator_accepts_what_is_lost_and_nothing_else() -> None:
    account = told(stored(1), stored(2), stored(3), looked(floor=2))
    assert account.unaccounted() == [1, 2]
    account.accept([(1, 2**40)])
    assert (account.row().unaccounted, account.row().accepted, account.row().pending) == (0, 2, 1)
    assert account.row().holds
    done(1)(account)
    assert (account.row().accepted, account.row().done) == (1, 1), "it was not lost"
    before = told(lambda account: account.accept([(1, 1)]), stored(1), looked(floor=1))
    assert before.row().accepted == 1, "the record was read before the loss was known"


def test_the_server_owes_what_is_pending_but_not_parked() -> None:
    def owed(*events: Event) -> int:
        return told(*events).row().owed

    assert owed(stored(1), stored(2), done(2)) == 1
    assert owed(stored(1), parked(1)) == 0
    assert owed(stored(1), parked(1), copied(7, 1)) == 1
    assert owed(stored(1), parked(1), copied(7, 1), copied(8, 1), done(7, 1)) == 1, "a timer that comes too late"
    assert told(stored(1), stored(2), done(2)).unacked(0, 0) == 1, "its acknowledgement may be on its way"


def test_a_row_holds_where_the_server_agrees_and_nothing_is_lost() -> None:
    assert Row("S", "a", published=2, pending=2, parked=1, owed=1, at_server=1).holds
    assert not Row("S", "a", published=1, pending=1, owed=1, at_server=0).holds
    assert Row("S", "a", published=1, done=1, unacked=1, at_server=1).holds
    assert not Row("S", "a", published=2, done=1).holds
    assert not Row("S", "a", published=2, done=1, unaccounted=1).holds
    assert Row("S", "a", published=2, done=1, accepted=1).holds


def test_what_is_forgotten_stays_counted_and_what_is_parked_does_not_hold_it_up() -> None:
    account = told(stored(1), parked(1), *(event for seq in range(2, 100) for event in (stored(seq), done(seq))))
    account.forget(99)
    for event in (stored(5), done(5), over(5), copied(120, 1), done(120, 1), copied(130, 5), done(130, 5)):
        event(account)
    row = account.row()
    assert (row.published, row.done, row.pending, row.holds) == (99, 99, 0, True)


def test_what_is_not_done_is_remembered_because_it_may_change() -> None:
    account = told(stored(1), dead(1), stored(2), done(2), stored(3, expires=5.0), looked(3), stored(4), looked(4))
    account.forget(4)
    assert (account.row().dead, account.row().expired, account.row().unaccounted) == (1, 1, 1)
    for event in (copied(9, 1), done(9, 1), done(3), done(4)):
        event(account)
    assert (account.row().done, account.row().published) == (4, 4)


def test_a_stream_that_was_created_again_keeps_the_counts() -> None:
    account = told(stored(1), done(1), stored(2), stored(3), parked(3), stored(4, expires=5.0, at=1.0))
    fresh = account.renewed(Look(NOW, 0, 0))
    assert (fresh.row().done, fresh.row().unaccounted, fresh.row().expired) == (1, 2, 1)
    stored(1)(fresh)
    assert (fresh.row().published, fresh.row().pending, fresh.unaccounted()) == (5, 1, [])
    fresh.accept([], earlier=2)
    fresh.accept([], earlier=2)
    assert (fresh.row().unaccounted, fresh.row().accepted, fresh.row().holds) == (0, 2, True)


def test_an_account_can_be_put_down_and_taken_up_again() -> None:
    account = told(
        *(stored(seq, expires=NOW + seq) for seq in range(1, 9)),
        done(1), dead(2), parked(3), copied(20, 3), parked(4), superseded(5), aside(6), done(90), looked(floor=7),
    )  # fmt: skip
    again = Account.of(account.state())
    assert again.row() == account.row()
    for event in (done(20, 3), copied(21, 2), stored(90), over(4), looked(21)):
        event(account)
        event(again)
    assert again.row() == account.row()
    assert again.state() == account.state()


_SEQ = st.integers(1, 6)
_ANY = st.integers(1, 12)
_OF = {copy: copy - 6 for copy in range(7, 13)}  # each copy is of one message


def _of(event: Callable[[int, int | None], Event]) -> Callable[[int], Event]:
    return lambda seq: event(seq, _OF.get(seq))


_TOLD = st.one_of(
    st.builds(stored, _SEQ),
    st.builds(lambda seq: copied(seq, _OF[seq]), st.integers(7, 12)),
    *(st.builds(_of(event), _ANY) for event in (done, dead, parked, superseded)),
    st.builds(aside, _SEQ),
    st.builds(over, _SEQ),
)
_LOOKS = st.one_of(
    st.builds(looked, st.integers(0, 12)),
    st.builds(lambda upto: lambda account: account.forget(upto), st.integers(0, 12)),
    st.just(lambda account: account.__dict__.update(Account.of(account.state()).__dict__)),
)


@given(st.lists(st.one_of(_TOLD, _LOOKS), max_size=40))
def test_whatever_is_told_the_columns_add_up(events: list[Event]) -> None:
    row = told(*events).row()
    assert row.difference == 0
    counts = (row.done, row.dead, row.expired, row.pending, row.unaccounted, row.accepted, row.owed, row.parked)
    assert min(counts) >= 0
    assert row.parked <= row.pending


@given(st.data(), st.lists(_TOLD, max_size=12))
def test_the_order_and_looks_in_between_do_not_matter_once_everything_is_told(
    data: st.DataObject, events: list[Event]
) -> None:
    """Streams are read side by side, and the accountant is put down and taken up. Only what is told counts."""
    everything = [*(stored(seq) for seq in range(1, 7)), *(copied(seq, of) for seq, of in _OF.items()), *events]
    first = told(*everything, looked(12))
    shuffled = data.draw(st.permutations(everything))
    interrupted = [step for event in shuffled for step in (event, *data.draw(st.lists(_PEEKS, max_size=1)))]
    second = told(*interrupted, *shuffled, looked(12))
    assert second.row() == first.row()


_PEEKS = st.one_of(
    st.builds(looked, st.integers(0, 12)),
    st.just(lambda account: account.__dict__.update(Account.of(account.state()).__dict__)),
)
