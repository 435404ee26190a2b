"""Subjects: tokens that cannot meet, and filters that match what NATS matches."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tieline import subjects
from tieline.errors import BadDeclaration

ONE_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,66}\Z")
HASHED = re.compile(r"b_[0-9a-f]{64}\Z")

identifiers = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="abAB01_-.*> ", max_size=70),
    st.from_regex(r"b_[A-Za-z0-9_-]{0,70}", fullmatch=True),
)
subject_tokens = st.sampled_from(["a", "b", "cd"])
filter_tokens = st.sampled_from(["a", "b", "cd", "*"])


@st.composite
def filters(draw: st.DrawFn) -> str:
    parts = draw(st.lists(filter_tokens, max_size=4))
    if draw(st.booleans()) or not parts:
        parts.append(">")
    return ".".join(parts)


def matches(pattern: str, subject: str) -> bool:
    """NATS's own rule, for one plain subject, told another way: as a regular expression."""
    parts = [{"*": r"[^.]+", ">": r".+"}.get(part, re.escape(part)) for part in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), subject) is not None


def every_subject(longest: int) -> list[str]:
    found: list[str] = []
    level = [""]
    for _ in range(longest):
        level = [f"{start}.{part}" if start else part for start in level for part in ("a", "b", "cd", "other")]
        found += level
    return found


SUBJECTS = every_subject(5)


@given(identifiers)
@example("")
@example("b_")
@example("\ud800")
@example("a" * 64)
@example("a" * 65)
def test_a_token_is_always_one_token(identifier: str) -> None:
    assert ONE_TOKEN.match(subjects.token(identifier))


@given(identifiers, identifiers)
@example("ä", subjects.token("ä"))
@example("b_", "")
def test_different_identifiers_have_different_tokens(one: str, other: str) -> None:
    if HASHED.match(one) or HASHED.match(other):
        return  # such a token stands for itself; the next test has that
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


@given(st.text(min_size=49, max_size=200))
def test_a_long_name_and_its_token_are_the_same_conversation(name: str) -> None:
    known = subjects.token(name)
    if HASHED.match(known):
        assert subjects.token(known) == known
        assert subjects.named_by(known) == known
    else:
        assert subjects.named_by(known) == name


@given(st.text(max_size=11))  # at most 44 bytes, 61 characters of base64url
@example("b_")
@example("\ud800")
def test_a_short_name_is_read_from_its_token(name: str) -> None:
    assert subjects.named_by(subjects.token(name)) == name


@pytest.mark.parametrize("text", ["", "a.b", "b_é", "b_!!", "b_A", "b_YQ", "ä", "x" * 65])
def test_what_is_no_token_names_nobody(text: str) -> None:
    assert subjects.named_by(text) is None


@given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True).filter(lambda text: not text.startswith("b_")))
def test_plain_identifiers_pass_as_they_are(identifier: str) -> None:
    assert subjects.token(identifier) == identifier


@given(filters(), filters())
@example("a.>", "a")
@example("a.>", "a.>")
@example("*", ">")
def test_covers_and_overlaps_agree_with_a_brute_force_matcher(one: str, other: str) -> None:
    by_one = {subject for subject in SUBJECTS if matches(one, subject)}
    by_other = {subject for subject in SUBJECTS if matches(other, subject)}
    assert subjects.overlaps(one, other) == bool(by_one & by_other)
    assert subjects.overlaps(other, one) == subjects.overlaps(one, other)
    assert subjects.covers(one, other) == (by_other <= by_one)


@given(filters(), st.lists(subject_tokens, min_size=1, max_size=5).map(".".join))
def test_covers_is_matching_for_a_plain_subject(pattern: str, subject: str) -> None:
    assert subjects.covers(pattern, subject) == matches(pattern, subject)


@given(identifiers, identifiers)
def test_a_filled_template_lies_in_its_filter(call: str, part: str) -> None:
    template = "call.answer.{call_id}.{part}"
    subject = subjects.fill(template, {"call_id": call, "part": part})
    assert subjects.placeholders(template) == ("call_id", "part")
    assert subjects.as_filter(template) == "call.answer.*.*"
    assert subjects.covers(subjects.as_filter(template), subject)
    assert subject.count(".") == template.count(".")


@pytest.mark.parametrize("template", ["call.intent.book", "a", "call.{call_id}.answer", "$sys.x-y_z"])
def test_templates_that_can_be_published_to(template: str) -> None:
    assert subjects.check_template(template) == template


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("", "''"),
        ("call..book", "''"),
        (".call", "''"),
        ("call.", "''"),
        ("call.*", "'*'"),
        ("call.>", "'>'"),
        ("call.a b", "'a b'"),
        ("call.a\n", r"'a\n'"),
        ("call.x{call_id}", "'x{call_id}'"),
        ("call.{Call}", "'{Call}'"),
    ],
)
def test_templates_that_cannot_name_the_token_and_the_remedy(template: str, names: str) -> None:
    with pytest.raises(BadDeclaration) as refused:
        subjects.check_template(template)
    assert repr(template) in str(refused.value)
    assert names in str(refused.value)
    assert "use letters" in str(refused.value)


@pytest.mark.parametrize("good", [">", "a.>", "*.b", "a.*.c", "$JS.EVENT.>"])
def test_filters(good: str) -> None:
    assert subjects.check_filter(good) == good


@pytest.mark.parametrize("bad", ["", "a..b", ">.a", "a.>.b", "a*", "a b", "a.{x}"])
def test_what_is_no_filter(bad: str) -> None:
    with pytest.raises(BadDeclaration, match="filter"):
        subjects.check_filter(bad)


@given(identifiers, st.sampled_from(["tool", "attempt"]))
def test_a_step_has_five_tokens_and_is_known_as_one(conversation: str, kind: str) -> None:
    step = subjects.step("booking", conversation, kind, "crm-1-x")
    assert subjects.is_step(step)
    assert subjects.covers("step.booking.>", step)
    assert subjects.covers("step.*.*.*.*", step)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "step",
        "step.a.b.c",
        "step.a.b.c.d.e",
        "step.*.b.c.d",
        "step.a.b.c.>",
        "step.a..c.d",
        "x.a.b.c.d",
        "step.é.b.c.d",
        "step.a.b.c.x\0",
        f"step.a.b.c.{'x' * 129}",
    ],
)
def test_what_is_no_step(subject: str) -> None:
    assert not subjects.is_step(subject)


def test_the_names_of_the_wire_contract() -> None:
    assert subjects.dead_letter("booking", "raised", "call.intent.book") == "DLQ.booking.raised.call.intent.book"
    assert subjects.redrive("CALL_INTENT", "booking") == "redrive.call_intent.booking"
    assert subjects.nudge("step.a.b.c.d") == "nudge.step.a.b.c.d"
    assert subjects.due("call.intent.book") == "due.call.intent.book"
    assert subjects.tool_call("crm") == "tool.call.crm"
    assert subjects.tool_result("a.b") == f"tool.result.{subjects.token('a.b')}"
    assert subjects.audit("c1") == "call.audit.c1"
    assert subjects.schedule("i d") == f"schedule.{subjects.token('i d')}"
