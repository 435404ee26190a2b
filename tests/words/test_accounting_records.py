"""What accounting writes to the bus: read as written, and anything else is refused and never fatal."""

import json
import math
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.errors import BadPayload
from tieline.records.checkpoint import AccountState, Checkpoint, Position, UnseenState
from tieline.records.losses import AcceptedLoss
from tieline.records.ranges import Ranges, pack, pack_ranges, unpack, unpack_ranges
from tieline.services.accounting.unseen import Unseen

SEQS = st.sets(st.integers(1, 200), max_size=40)


@given(SEQS, st.lists(st.tuples(st.booleans(), st.integers(1, 200), st.integers(0, 30)), max_size=30))
def test_ranges_are_a_set(start: set[int], changes: list[tuple[bool, int, int]]) -> None:
    ranges, model = Ranges((seq, seq) for seq in start), set(start)
    for add, first, length in changes:
        those = set(range(first, first + length + 1))
        if add:
            ranges.add(first, first + length)
            model |= those
        else:
            assert ranges.discard(first, first + length) == len(model & those)
            model -= those
    assert len(ranges) == len(model)
    assert [seq for first, last in ranges for seq in range(first, last + 1)] == sorted(model)
    assert all((seq in ranges) == (seq in model) for seq in range(240))
    assert all(after[0] > before[1] + 1 for before, after in zip(list(ranges), list(ranges)[1:], strict=False))


@given(SEQS)
def test_packed_sequences_are_read_again(seqs: set[int]) -> None:
    assert unpack(pack(seqs)) == sorted(seqs)
    ranges = list(Ranges((seq, seq) for seq in seqs))
    assert unpack_ranges(pack_ranges(ranges)) == ranges


@pytest.mark.parametrize(
    "packed", [None, "1", [1], [0, 1], [1, -1], [1.0, 1], [1, 2**62], [2**62, 2**62, 2**62, 1], {}]
)
def test_what_is_not_packed_is_refused(packed: object) -> None:
    assert unpack(packed) is None


def checkpoint(messages: int = 3) -> Checkpoint:
    account = AccountState(
        stream="CALL_INTENT",
        agent="booking",
        low=4,
        published=9,
        ends={"done": 3, "dead": 1, "expired": 0, "unaccounted": 1, "accepted": 0, "before": 0},
        pending=[5, 6, 7],
        closed={"dead": [2], "unaccounted": [3]},
        answers={"dead": [2], "lost": [3]},
        early={"done": [90]},
        copies={20: 5},
        aside=[5],
        accepted=[(3, 3)],
        earlier=2,
        owed={
            seq: (1_700_000_000.0 + seq / 8, (None, math.inf, 1_700_001_000.0)[seq % 3], "a") for seq in range(messages)
        }
        | {20: (1_700_000_000.25, None, "b")},
        unreported={8: (1.0, 2.0, "a")},
        reports_facts=True,
        since=3.5,
    )
    account.owed.pop(0, None)
    unseen = UnseenState(99, 5.0, [(10, 12)], [(10, 10)], 1.0, 2.0, 3, 4)
    positions = {"CALL_INTENT": Position(99, 1.5, 1.0), "STEP": Position(7, 2.5, 2.5)}
    return Checkpoint(10.0, 1.0, positions, [account], {"CALL_INTENT": unseen}, [(1.0, {"CALL_INTENT": 5})])


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    written = checkpoint()
    [payload] = written.encode(1_000_000)
    assert Checkpoint.parts(payload) == 1
    assert Checkpoint.decode([payload]) == written


def test_a_large_checkpoint_has_several_parts_that_belong_together() -> None:
    written = checkpoint(messages=5_000)
    payloads, others = written.encode(4_000), checkpoint(messages=5_001).encode(4_000)
    assert len(payloads) > 1
    assert max(map(len, payloads)) <= 4_000
    assert Checkpoint.parts(payloads[0]) == len(payloads)
    assert Checkpoint.decode(payloads) == written
    for torn in (payloads[:-1], payloads[::-1], [*payloads[:-1], others[len(payloads) - 1]], payloads[1:], []):
        with pytest.raises(BadPayload):
            Checkpoint.decode(torn)


def test_a_checkpoint_of_ten_thousand_done_messages_is_small() -> None:
    account = AccountState("S", "a", published=10_000, closed={"done": list(range(1, 10_001))})
    [payload] = Checkpoint(1.0, 1.0, {}, [account], {}).encode(1_000_000)
    assert len(payload) < 1_000


def test_another_format_is_said_to_be_another_format() -> None:
    [payload] = checkpoint().encode(1_000_000)
    with pytest.raises(BadPayload, match="format 7"):
        Checkpoint.decode([payload.replace(b'"format": 1', b'"format": 7')])


@given(st.binary(max_size=200))
def test_garbage_is_no_checkpoint(payload: bytes) -> None:
    with pytest.raises(BadPayload):
        Checkpoint.decode([payload])


@given(st.data())
def test_a_checkpoint_with_any_value_replaced_is_read_or_refused(data: st.DataObject) -> None:
    [payload] = checkpoint().encode(1_000_000)
    head, _, packed = payload.partition(b"\n")
    body = json.loads(zlib.decompress(packed))
    spot = body
    while isinstance(spot, dict | list) and spot:
        key = data.draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else range(len(spot))))
        if not isinstance(spot[key], dict | list) or not spot[key] or data.draw(st.booleans()):
            spot[key] = data.draw(st.sampled_from([None, -1, 10**30, "x", [], {}, [[]], 1.5, True]))
            break
        spot = spot[key]
    changed = zlib.compress(json.dumps(body).encode())
    digest = json.loads(head) | {"sha256": __import__("hashlib").sha256(changed).hexdigest()}
    with suppress(BadPayload):
        Checkpoint.decode([json.dumps(digest).encode() + b"\n" + changed])


def test_an_accepted_loss_is_read_as_it_was_written() -> None:
    loss = AcceptedLoss("CALL_INTENT", "(unseen)", ((1, 5), (9, 9)), 2, "kim@host", "purged on purpose", 5.0)
    assert AcceptedLoss.decode(loss.encode()) == loss
    for payload in (b"", b"{}", b"[]", loss.encode().replace(b"lossaccepted", b"settled"), loss.encode()[:-5]):
        with pytest.raises(BadPayload):
            AcceptedLoss.decode(payload)


def test_gaps_are_unseen_until_somebody_tells_of_them() -> None:
    unseen = Unseen()
    assert unseen.read(3, at=30.0) == (1, 2)
    unseen.add(1, 2)
    assert unseen.read(4, at=40.0) is None
    assert unseen.read(8, at=80.0) == (5, 7)
    unseen.add(5, 7)
    assert unseen.read(8, at=80.0) is unseen.read(3, at=30.0) is None, "a feed that heals reads again"
    assert (unseen.found(6), unseen.found(6)) == (True, False)
    row = unseen.row("S")
    assert row is not None
    assert (row.published, row.unaccounted, row.holds, row.since, row.until) == (4, 4, False, 30.0, 80.0)
    assert unseen.read_to(1_000_000, now=90.0) == (9, 1_000_000)
    unseen.add(9, 1_000_000)
    assert unseen.read(1_000_001, at=95.0) is None
    unseen.accept([(1, 5)])
    row = Unseen.of(unseen.state()).row("S")
    assert row is not None
    assert (row.published, row.accepted, row.unaccounted) == (999_996, 3, 999_993)
    unseen.accept([(1, 10**9)])
    assert unseen.open() == []


def test_what_is_older_than_the_stream_keeps_is_not_unseen() -> None:
    unseen = Unseen()
    unseen.skip_to(5, at=50.0)
    assert unseen.read(5, at=50.0) is None
    assert unseen.row("S") is None
