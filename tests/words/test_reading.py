"""Bounded reading: no value from the wire raises, and none is larger than what the reader can hold."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline.records.reading import (
    LATEST,
    MOST_NESTED,
    Origin,
    read_digits,
    read_header,
    read_integer,
    read_json,
    read_name,
    read_number,
    read_object,
    read_origin,
    read_text,
    read_time,
    read_timestamp,
    read_ttl,
)

READERS = (
    read_digits, read_integer, read_name, read_number, read_origin, read_text, read_time, read_timestamp, read_ttl,
)  # fmt: skip
NASTY: tuple[object, ...] = (
    None, True, -(10**400), 10**400, float("nan"), float("inf"), -float("inf"), "", "²", "٣", "9" * 5_000, "1e400",
    "\ud800", "\x00", "a\r\nb", [], {}, b"1", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59",
)  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("value", NASTY, ids=lambda value: repr(value)[:20])
def test_nothing_nasty_is_read_or_raises(read: object, value: object) -> None:
    assert callable(read)
    found = read(value)
    assert found is None or isinstance(found, str), value
    json.dumps(found).encode()


@given(st.text())
def test_no_text_raises(text: str) -> None:
    for read in READERS:
        read(text)
    read_header(text).encode()
    read_json(text)


@given(st.binary())
def test_no_bytes_raise(payload: bytes) -> None:
    read_object(payload)


def test_what_is_in_bounds_is_read() -> None:
    assert (read_integer(7), read_digits("0007"), read_number(7), read_number(-1.5)) == (7, 7, 7.0, -1.5)
    assert (read_time(0), read_time(LATEST), read_time(LATEST + 1)) == (0.0, LATEST, None)
    assert read_timestamp("1970-01-01T00:00:01.000000001Z") == read_timestamp("1970-01-01T00:00:01") == 1.0
    assert (read_integer(8, most=7), read_digits("8", most=7), read_integer(-1, least=-1)) == (None, None, -1)
    assert read_name("CALL_INTENT-1,x") == "CALL_INTENT-1,x"
    assert [read_name(name) for name in ("a.b", "a*", ">", "a b", "a/b", "a\\b", "é", "x" * 256)] == [None] * 8


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("1500ms", 1), ("1h2m3s", 3723), ("1.5m", 90), ("never", None), ("0", None), ("500ms", None),
     ("-1", None), ("1d", None), ("9" * 19, None), ("s", None), ("1h" * 9, None)],
)  # fmt: skip
def test_a_ttl_is_read_as_the_server_reads_it(text: str, seconds: int | None) -> None:
    assert read_ttl(text) == seconds


def test_an_origin_is_read_from_the_right() -> None:
    assert read_origin("CALL-INTENT-17-3e8") == Origin("CALL-INTENT", 17, 1.0)
    assert read_origin("CALL-17-3e8", "CALL") == Origin("CALL", 17, 1.0)
    for bad in (
        "CALL-17",
        "-17-3e8",
        "CALL-0-3e8",
        "CALL-²-3e8",
        "CALL-17-3E8",
        f"CALL-{'9' * 5000}-1",
        "CALL-17-" + "f" * 16,
    ):
        assert read_origin(bad) is None
    assert read_origin("CALL-17-3e8", "OTHER") is None


def test_an_object_is_read_or_is_none() -> None:
    assert read_object(b'{"a": 123456789012345678901234567890, "b": NaN}') is not None  # a handler's own values
    for bad in ("9" * 5_000, "[" * 100_000, "", "\xff"):
        assert read_object(f'{{"a": {bad}}}') is None
    assert read_object(b'{"a": "\\ud800x"}') == {"a": "?x"}
    assert read_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}
    assert read_object(b"\xff") is read_object(b"[]") is read_object(b"") is None


def test_nesting_is_bounded_and_breadth_is_not() -> None:
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert read_json(deep) is not None
    assert read_json(f"[{deep}]") is None
    assert len(read_json("[" + "[]," * 1_000 + "[]]")) == 1_001


def test_a_header_can_be_sent_again() -> None:
    assert read_header("plain ü") == "plain ü"
    assert read_header("a\r\nb\nc\rd\udc80") == "a b c d?"
    assert not math.isnan(len(read_header("\x00")))
