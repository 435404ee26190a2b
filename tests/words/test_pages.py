"""What the pager tells, and when: once a trouble, again when it changes, at the end, and not at night."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tieline import Settings
from tieline.errors import BadSettings
from tieline.services.pager.pages import Page, Trouble, decide, masked, page_in
from tieline.services.pager.targets import signature
from tieline.settings import PagerSettings, Quiet

RAISED = Trouble("booking", "raised", 3, ("call.intent.book",))
TOLD = Page("r1", {"booking raised": 3}, opened=100.0, said=100.0)


def changes(troubles: list[Trouble], pages: list[Page], now: float = 200.0, *, quiet: bool = False) -> list[str]:
    return [saying.change for saying in decide(troubles, pages, now, quiet=quiet)]


def test_a_trouble_is_told_once() -> None:
    [saying] = decide([RAISED], [], 200.0, quiet=False)
    assert (saying.change, saying.page.counts, saying.troubles) == ("opened", {"booking raised": 3}, (RAISED,))
    assert changes([RAISED], [saying.said("r1")]) == []


def test_a_change_is_told_after_a_while() -> None:
    more = Trouble("booking", "raised", 9, ())
    assert changes([more], [TOLD], now=110.0) == []
    [saying] = decide([more], [TOLD], 140.0, quiet=False)
    assert (saying.change, saying.page.ref, saying.page.counts) == ("updated", "r1", {"booking raised": 9})


def test_the_end_is_told_and_a_new_trouble_is_a_new_page() -> None:
    [saying] = decide([], [TOLD], 101.0, quiet=True)
    assert (saying.change, saying.page.ref, saying.troubles[0].agent) == ("cleared", "r1", "booking")
    assert changes([RAISED], []) == ["opened"]


def test_quiet_hours_hold_back_what_is_new_only() -> None:
    other = Trouble("pricing", "timeout", 1, ())
    assert changes([RAISED, other], [TOLD], quiet=True) == []
    assert changes([RAISED, other], [TOLD], quiet=False) == ["opened"]


def test_many_at_once_are_one_page_that_ends_when_all_have() -> None:
    many = [Trouble(f"agent-{number}", "raised", 1, ()) for number in range(40)]
    [saying] = decide(many, [], 100.0, quiet=False)
    page = saying.said("r9")
    assert len(page.counts) == 40
    assert changes(many[:1], [page]) == ["updated"]
    assert changes([], [page]) == ["cleared"]
    assert page_in(page.record()) == page


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30))
def test_however_it_goes_every_trouble_has_one_page_at_most(steps: list[tuple[int, int]]) -> None:
    now, counts, pages = 0.0, dict.fromkeys(range(4), 0), list[Page]()
    for who, count in steps:
        now += 31.0
        counts[who] = count
        troubles = [Trouble(f"a{key}", "raised", value, ()) for key, value in counts.items() if value]
        for saying in decide(troubles, pages, now, quiet=False):
            pages = [page for page in pages if page.ref != saying.page.ref]
            if saying.change != "cleared":
                pages.append(saying.said(saying.page.ref or f"r{now}{saying.troubles[0].key}"))
        assert {key: value for page in pages for key, value in page.counts.items()} == {
            trouble.key: trouble.count for trouble in troubles
        }


@pytest.mark.parametrize(
    "text", ["call +49 30 1234567 now", "(415) 555-0100", "4155550100", "tel:+1.415.555.0100 or 415/555/0100"]
)
def test_telephone_numbers_are_taken_out(text: str) -> None:
    assert not any(digits in masked(text) for digits in ("1234567", "0100", "555"))
    assert "[number]" in masked(text)


def test_what_is_no_telephone_number_stays() -> None:
    assert masked("home 12345 at 10:30, 5 tries\nTraceback") == "home 12345 at 10:30, 5 tries"


@pytest.mark.parametrize(
    ("text", "hour", "holds"),
    [
        ("22:00-07:00", 23, True),
        ("22:00-07:00", 6, True),
        ("22:00-07:00", 7, False),
        ("09:00-17:00 UTC", 12, True),
        ("09:00-17:00 UTC", 18, False),
        ("22:00-07:00 Asia/Tokyo", 14, True),
        ("22:00-07:00 Asia/Tokyo", 23, False),
    ],
)
def test_quiet_hours(text: str, hour: int, *, holds: bool) -> None:
    assert Quiet.parse(text).holds(datetime(2026, 11, 23, hour, tzinfo=UTC).timestamp()) is holds


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"TIELINE_PAGER_QUIET": "at night"}, "'at night' is not like"),
        ({"TIELINE_PAGER_QUIET": "22:00-07:00 Mars/Base"}, "Mars/Base"),
        ({"TIELINE_PAGER_SLACK_TOKEN": "xoxb-1"}, "slack_channel"),
        ({"TIELINE_PAGER_SLACK_APP_TOKEN": "xapp-1"}, "slack_token"),
        ({"TIELINE_PAGER_WEBHOOK": "example.org"}, "http"),
        ({"TIELINE_PAGER_EVERY": "0"}, "TIELINE_PAGER_EVERY"),
    ],
)
def test_what_cannot_be_used_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(BadSettings, match=named):
        Settings.from_environment(given)


def test_secrets_are_not_shown() -> None:
    settings = PagerSettings(slack_token="xoxb-1-s", slack_channel="C1", webhook="https://x/s", webhook_secret="s3cret")
    assert not any(secret in repr(settings) for secret in ("xoxb", "s3cret", "https://x"))


def test_a_signature_is_of_the_body_and_the_time() -> None:
    one = signature("s", b"{}", 7)
    assert one.startswith("t=7,v1=")
    assert len({one, signature("s", b"{ }", 7), signature("s", b"{}", 8), signature("t", b"{}", 7)}) == 4
