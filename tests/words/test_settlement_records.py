"""Settlement records: what is written is read again, and what a stranger writes is refused within bounds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.errors import BadPayload
from tieline.records.settlements import MAX_MESSAGES, Settlements, ranges_of


@given(st.sets(st.integers(1, 200), max_size=80), st.sets(st.integers(300, 400), max_size=20))
def test_what_is_written_is_read_again(done: set[int], superseded: set[int]) -> None:
    record = Settlements("booking", "CALL_INTENT", 1.5, ranges_of(done), ranges_of(superseded))
    again = Settlements.decode(record.encode())
    assert again == record
    assert {seq for first, last in again.done for seq in range(first, last + 1)} == done


def test_ranges_are_as_few_as_they_can_be() -> None:
    assert ranges_of([3, 1, 2, 7, 9, 8, 12]) == ((1, 3), (7, 9), (12, 12))
    assert ranges_of([]) == ()


GOOD = {"fact": "settlements", "at": 1.0, "by": "booking", "stream": "CALL_INTENT", "done": [[1, 2]], "superseded": []}


@pytest.mark.parametrize(
    "change",
    [
        {"done": [[1, 2**62]]},
        {"done": [[1, MAX_MESSAGES + 1]]},
        {"done": [[2, 1]]},
        {"done": [[0, 1]]},
        {"done": [[1, 2, 3]]},
        {"done": [["1", "2"]]},
        {"done": None},
        {"done": [[1, 10**5000]]},
        {"superseded": [[1.5, 2]]},
        {"by": ""},
        {"by": "a" * 300},
        {"stream": 7},
        {"at": "now"},
        {"at": float("nan")},
        {"fact": "settled"},
    ],
)
def test_what_is_not_such_a_record_is_refused(change: dict[str, object]) -> None:
    Settlements.decode(json.dumps(GOOD).encode())
    with pytest.raises(BadPayload):
        Settlements.decode(json.dumps(GOOD | change).encode() if "done" not in change else _big(GOOD | change))


@pytest.mark.parametrize("payload", [b"", b"[", b"[" * 100_000, b"7", b'"settlements"'])
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(BadPayload):
        Settlements.decode(payload)


def _big(body: dict[str, object]) -> bytes:
    try:
        return json.dumps(body).encode()
    except ValueError:  # Python writes no numbers of 5,000 digits either
        return json.dumps(body | {"done": "HERE"}).replace('"HERE"', f"[[1, {'9' * 5000}]]").encode()
