"""The customers: idempotent notes, one lead a number, and nothing private in reprs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oneroof.office.crm import Crm

PHONE = "+12065550142"


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Crm]:
    with Crm(tmp_path / "office" / "crm.sqlite") as made:
        yield made


def test_a_note_is_written_once_for_its_key(crm: Crm) -> None:
    first = crm.note("call-1:book", PHONE, "book", "wants to see 1042", "call-1")
    assert crm.note("call-1:book", "+14255550100", "book", "something else", "call-2") == first
    lead = crm.lead(PHONE)
    assert lead is not None
    assert [(note.text, note.call_id) for note in lead.notes] == [("wants to see 1042", "call-1")]
    assert crm.lead("+14255550100") is None


def test_a_number_is_one_lead_and_a_caller_without_one_is_a_lead_a_call(crm: Crm) -> None:
    assert crm.note("1", PHONE, "book", "a", "call-1") == crm.note("2", PHONE, "book", "b", "call-2")
    nameless = crm.note("3", None, "voicemail", "c", "call-3")
    assert crm.note("4", None, "voicemail", "d", "call-3") == nameless
    assert crm.note("5", None, "voicemail", "e", "call-4") != nameless


def test_callbacks_are_those_who_wait_for_a_person(crm: Crm) -> None:
    crm.note("1", PHONE, "book", "a viewing", "call-1")
    waiting = crm.note("2", "+14255550100", "escalate", "a person", "call-2")
    nameless = crm.note("3", None, "voicemail", "a message", "call-3")
    crm.note("4", "+14255550100", "voicemail", "and a message", "call-4")
    assert [(lead.id, lead.phone) for lead in crm.callbacks()] == [(waiting, "+14255550100"), (nameless, None)]


def test_telephone_numbers_stay_out_of_reprs(crm: Crm) -> None:
    crm.note("1", PHONE, "voicemail", f"call me at {PHONE}", "call-1")
    assert PHONE not in f"{crm!r} {crm.lead(PHONE)!r} {crm.callbacks()!r}"


def test_notes_outlive_the_process_and_threads_and_connections_share(tmp_path: Path) -> None:
    path = tmp_path / "crm.sqlite"
    with Crm(path) as one, Crm(path) as other, ThreadPoolExecutor(4) as pool:
        leads = set(pool.map(lambda n: (one, other)[n % 2].note(str(n % 20), PHONE, "book", "x", "call"), range(80)))
    assert len(leads) == 1
    with Crm(path) as again:
        lead = again.lead(PHONE)
        assert lead is not None
        assert len(lead.notes) == 20


def test_a_note_that_fails_leaves_nothing_behind(crm: Crm) -> None:
    with pytest.raises(Exception, match="NOT NULL"):
        crm.note("1", PHONE, "book", None, "call-1")  # type: ignore[arg-type]
    assert crm.lead(PHONE) is None
