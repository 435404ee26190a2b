"""Messages: typed payloads on the wire, and declarations that cannot work."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from tieline import BadDeclaration, BadPayload, Message, codec
from tieline.messages import binding_of, seconds


class Book(Message, subject="call.intent.book", ttl="5m", redact=("phone_number",)):
    call_id: str
    phone_number: str
    slot: datetime | None = None


class Answer(Message, subject="call.answer.{call_id}.{turn}"):
    call_id: str
    turn: int


class Loose(Message):
    text: str


def test_camel_case_on_the_wire_and_snake_case_in_python() -> None:
    message = Book(call_id="c1", phone_number="1", slot=datetime(2026, 1, 2, tzinfo=UTC))
    payload = codec.encode(message)
    assert payload == b'{"callId":"c1","phoneNumber":"1","slot":"2026-01-02T00:00:00Z"}'
    assert codec.decode(Book, payload) == message
    assert codec.decode(Book, b'{"call_id":"c1","phone_number":"1"}') == Book(call_id="c1", phone_number="1")


@given(st.text(), st.text())
def test_whatever_is_encoded_is_decoded_again(call: str, phone: str) -> None:
    message = Book(call_id=call, phone_number=phone)
    assert codec.decode(Book, codec.encode(message)) == message


def test_unknown_fields_are_ignored_so_that_two_versions_can_talk() -> None:
    assert codec.decode(Loose, b'{"text":"a","newField":1}') == Loose(text="a")


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Loose(text="a").text = "b"  # type: ignore[misc, unused-ignore]


def test_the_binding_is_made_once_and_says_everything() -> None:
    binding = binding_of(Book)
    assert (binding.template, binding.filter, binding.fields) == ("call.intent.book", "call.intent.book", ())
    assert binding.ttl == 300.0
    assert binding.redact == frozenset({"phone_number"})
    assert binding_of(Answer).filter == "call.answer.*.*"


def test_the_subject_of_a_message_has_its_fields_as_tokens() -> None:
    assert codec.subject_of(Book(call_id="c", phone_number="1")) == "call.intent.book"
    assert codec.subject_of(Answer(call_id="c1", turn=2)) == "call.answer.c1.2"
    odd = codec.subject_of(Answer(call_id="*.>", turn=2))
    assert odd.count(".") == 3
    assert not set("*>") & set(odd)


def test_redacted_fields_never_show() -> None:
    shown = codec.redacted(Book(call_id="c1", phone_number="555-0100"))
    assert shown["phoneNumber"] == "(redacted)"
    assert "555" not in str(shown)


def test_the_conversation_a_message_names_itself() -> None:
    assert codec.conversation_of(Book(call_id="c1", phone_number="1")) == "c1"
    assert codec.conversation_of(Book(call_id="", phone_number="1")) is None
    assert codec.conversation_of(Loose(text="a")) is None


@pytest.mark.parametrize(
    ("payload", "conversation"),
    [
        (b'{"callId":"c1"}', "c1"),
        (b'{"callId":""}', None),
        (b'{"callId":7}', None),
        (b'{"call_id":"c1"}', None),
        (b"[]", None),
        (b"null", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b'{"callId":' + b"9" * 5000 + b"}", None),
        (b"[" * 100_000, None),
        (b'{"callId":' + b"[" * 100_000, None),
    ],
)
def test_the_conversation_in_a_foreign_payload(payload: bytes, conversation: str | None) -> None:
    assert codec.conversation_in(payload) == conversation


@pytest.mark.parametrize("payload", [b"", b"x", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"text":{}}'])
def test_what_does_not_fit_is_a_bad_payload(payload: bytes) -> None:
    with pytest.raises(BadPayload, match="Loose"):
        codec.decode(Loose, payload)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5m", 300.0), ("90s", 90.0), ("1.5h", 5400.0), ("250ms", 0.25), ("2d", 172_800.0), (7, 7.0), (0.5, 0.5)],
)
def test_durations(text: str | float, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5min", "1h30m", "5m\n"])
def test_what_is_no_duration_names_the_value_and_the_remedy(text: str) -> None:
    with pytest.raises(BadDeclaration) as refused:
        seconds(text)
    assert repr(text) in str(refused.value)
    assert "'5m'" in str(refused.value)


def bad_subject() -> None:
    class Bad(Message, subject="call.*"):
        pass


def unknown_field() -> None:
    class Bad(Message, subject="call.{nobody}"):
        pass


def unknown_redacted() -> None:
    class Bad(Message, subject="call.x", redact=("nobody",)):
        pass


def short_ttl() -> None:
    class Bad(Message, subject="call.x", ttl=0.5):
        pass


def odd_ttl() -> None:
    class Bad(Message, subject="call.x", ttl="soon"):
        pass


def no_subject() -> None:
    binding_of(Loose)


@pytest.mark.parametrize(
    ("declare", "thing", "value"),
    [
        (bad_subject, "subject", "call.*"),
        (unknown_field, "Bad", "'nobody'"),
        (unknown_redacted, "Bad", "'nobody'"),
        (short_ttl, "Bad", "0.5"),
        (odd_ttl, "duration", "'soon'"),
        (no_subject, "Loose", "subject="),
    ],
)
def test_bad_declarations_name_the_thing_and_the_value(declare: object, thing: str, value: str) -> None:
    assert callable(declare)
    with pytest.raises(BadDeclaration) as refused:
        declare()
    assert thing in str(refused.value)
    assert value in str(refused.value)


CANARY = "555-0142-canary"


class Caller(Message, subject="call.intent.canary"):
    count: int
    when: datetime
    short: str = Field(max_length=3)
    phone: str = Field(pattern=r"^\+")
    many: list[int]


def test_an_explanation_names_the_fields_and_never_the_values() -> None:
    payload = codec.to_json(
        {"count": CANARY, "when": CANARY, "short": CANARY, "phone": CANARY, "many": [1, CANARY], "extra": CANARY}
    )
    with pytest.raises(BadPayload) as refused:
        codec.decode(Caller, payload)
    text = str(refused.value)
    assert CANARY not in text
    assert [name for name in ("count", "when", "short", "phone", "many.1") if f"{name}:" not in text] == []


def test_broken_json_is_explained_without_its_text() -> None:
    with pytest.raises(BadPayload) as refused:
        codec.decode(Caller, b'{"phone": "' + CANARY.encode())
    assert CANARY not in str(refused.value)
