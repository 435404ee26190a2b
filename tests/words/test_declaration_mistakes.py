"""Mistakes in declarations: each names the thing, the value and the remedy when the pod is imported, not later."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import Field

from tieline import BadDeclaration, Breaker, Conversation, Limits, Message, Pod, Rate, Stream
from tieline.errors import BadSettings
from tieline.stream import Source


class Book(Message, subject="call.intent.book"):
    call_id: str
    phone: str


class BookAgain(Message, subject="call.intent.book"):
    """Another text, and the same fields."""

    call_id: str
    phone: str


class BookOtherwise(Message, subject="call.intent.book"):
    call_id: str
    phone: str
    slot: str


class BookNumber(Message, subject="call.intent.book"):
    call_id: str
    phone: int


class BookOptional(Message, subject="call.intent.book"):
    call_id: str
    phone: str = ""


class AnyIntent(Message, subject="call.intent.{what}"):
    what: str


async def handler(intent: Book, call: Conversation) -> None: ...


async def crm(phone: str) -> str:
    return phone


def message(**arguments: Any) -> Callable[[], object]:
    def declare() -> object:
        class Wish(Message, subject=arguments.pop("subject", "call.intent.wish"), **arguments):
            call_id: str
            phone: str

        return Wish

    return declare


def pod(**arguments: Any) -> Callable[[], object]:
    return lambda: Pod(**({"name": "office"} | arguments))


def agent(**options: Any) -> Callable[[], object]:
    return lambda: Pod("office").agent(**options)(handler)


def tool(**options: Any) -> Callable[[], object]:
    return lambda: Pod("office").tool(**options)(crm)


def stream(**arguments: Any) -> Callable[[], object]:
    return lambda: Stream(**({"name": "MINE", "subjects": ("mine.*",)} | arguments))


MISTAKES = [
    (message(redact=("fone",)), "message Wish", "'fone'", "it has call_id, phone"),
    (message(redact=5), "message Wish: redact", "5", "a text or a tuple of them"),
    (message(redact=(5,)), "message Wish: redact", "5", "must be a text"),
    (message(ttl="five minutes"), "message Wish: ttl", "'five minutes'", "'5m'"),
    (message(ttl="-5m"), "message Wish: ttl", "'-5m'", "'5m'"),
    (message(ttl=-5), "message Wish: ttl", "-5", "at least 0"),
    (message(ttl=True), "message Wish: ttl", "True", "'90s'"),
    (message(ttl=float("inf")), "message Wish: ttl", "inf", "292 years"),
    (message(tll="5m"), "message Wish", "'tll'", "did you mean 'ttl'"),
    (message(subject=("call.intent.wish",)), "message Wish: subject", "('call.intent.wish',)", "a text"),
    (message(subject="call.intent.*"), "'call.intent.*'", "'*'", "{field}"),
    (message(ttl="5m", on_expired="late"), "message Wish", "'late'", "tieline.Expiry"),
    (message(subject=None, ttl="5m"), "message Wish", "ttl", "subject="),
    (pod(name=5), "pod name", "5", "a text"),
    (pod(version=2), "pod office: version", "2", '"2.1"'),
    (pod(streams=("MINE",)), "pod office: streams", "'MINE'", "a Stream"),
    (pod(streams="MINE"), "pod office: streams", "'MINE'", "a Stream"),
    (pod(limits={"attempts": 3}), "pod office: limits", "{'attempts': 3}", "Limits(…)"),
    (pod(idle_end="soon"), "pod office: idle_end", "'soon'", "'5m'"),
    (pod(idle_end=-1), "pod office: idle_end", "-1", "at least 0"),
    (pod(data=5), "pod office: data", "5", "a text"),
    (pod(data="data"), "pod office", "'data'", "SHOP_DATA"),
    (agent(name=5), "agent name", "5", "lower-case"),
    (agent(limits=3), "agent handler: limits", "3", "Limits(…)"),
    (agent(publishes=("Book",)), "agent handler: publishes", "'Book'", "a Message class"),
    (agent(publishes=(str,)), "agent handler: publishes", "<class 'str'>", "a Message class"),
    (agent(calls=("crm",)), "agent handler: calls", "'crm'", "a tool"),
    (agent(calls=crm), "agent handler: calls", "crm", "a tool"),
    (agent(uses=("delay",)), "agent handler: uses", "'delay'", "did you mean 'delays'"),
    (agent(uses="stat"), "agent handler: uses", "'stat'", "did you mean 'state'"),
    (agent(publish=(Book,)), "agent handler", "'publish'", "did you mean 'publishes'"),
    (agent(start="old"), "agent handler: start", "'old'", "'stored', 'new'"),
    (agent(start="2026-05-08"), "agent handler: start", "'2026-05-08'", "datetime"),
    (agent(start=datetime(2026, 5, 8)), "agent handler: start", "datetime.datetime(2026, 5, 8", "tzinfo=UTC"),
    (agent(formerly="Booking"), "agent handler: formerly", "'Booking'", "lower-case"),
    (agent(formerly="handler"), "agent handler", "'handler'", "not renamed"),
    (tool(effect="onec"), "tool crm: effect", "'onec'", "'read', 'repeat', 'once'"),
    (tool(effect="onec"), "tool crm: effect", "'onec'", "did you mean 'once'"),
    (tool(effect=None), "tool crm: effect", "None", "'once'"),
    (tool(rate=10), "tool crm: rate", "10", "Rate(…)"),
    (tool(breaker=5), "tool crm: breaker", "5", "Breaker(…)"),
    (tool(limits={}), "tool crm: limits", "{}", "Limits(…)"),
    (stream(name=5), "stream name", "5", "a text"),
    (stream(subjects=5), "stream MINE: subjects", "5", "a text"),
    (stream(subjects=("a", 5)), "stream MINE: subjects", "5", "a text"),
    (stream(subjects="a..b"), "'a..b'", "''", "not allowed"),
    (stream(max_age="two hours"), "stream MINE: max_age", "'two hours'", "'1h'"),
    (stream(max_age=-1), "stream MINE: max_age", "-1", "at least"),
    (stream(max_age="0s"), "stream MINE: max_age", "0.0", "at least 1"),
    (stream(max_age=float("nan")), "stream MINE: max_age", "nan", "at least"),
    (stream(max_age=10**12), "stream MINE: max_age", "1000000000000", "292 years"),
    (stream(max_bytes="1GiB"), "stream MINE: max_bytes", "'1GiB'", "a whole number"),
    (stream(max_bytes=-5), "stream MINE: max_bytes", "-5", "at least 1024"),
    (stream(duplicates="a while"), "stream MINE: duplicates", "'a while'", "'5m'"),
    (stream(duplicates=None), "stream MINE: duplicates", "None", "'90s'"),
    (stream(replicas="3"), "stream MINE: replicas", "'3'", "a whole number"),
    (stream(replicas=0), "stream MINE: replicas", "0", "at least 1"),
    (stream(write_once="no"), "stream MINE: write_once", "'no'", "True or False"),
    (stream(sources=("OTHER",)), "stream MINE: sources", "'OTHER'", "a Source"),
    (stream(republish="mine.>"), "stream MINE: republish", "'mine.>'", "two texts"),
    (stream(description=None), "stream MINE: description", "None", "a text"),
    (lambda: Source("A", "b", 5), "source.to", "5", "a text"),  # type: ignore[arg-type]
    (lambda: Limits(concurrency="8"), "limits.concurrency", "'8'", "a whole number"),  # type: ignore[arg-type]
    (lambda: Limits(attempts=2.5), "limits.attempts", "2.5", "a whole number"),  # type: ignore[arg-type]
    (lambda: Limits(timeout="a while"), "limits.timeout", "'a while'", "'5m'"),
    (lambda: Limits(drain=None), "limits.drain", "None", "'90s'"),  # type: ignore[arg-type]
    (lambda: Rate("10"), "rate.calls", "'10'", "a number"),  # type: ignore[arg-type]
    (lambda: Rate(10, per="minute"), "rate.per", "'minute'", "'5m'"),
    (lambda: Rate(10, burst=0), "rate.burst", "0", "at least 1"),
    (lambda: Breaker(failures="5"), "breaker.failures", "'5'", "a whole number"),  # type: ignore[arg-type]
    (lambda: Breaker(reset=-1), "breaker.reset", "-1", "at least"),
    (lambda: Pod("office").open_to_guests("book"), "open_to_guests", "'book'", "a Message class"),  # type: ignore[arg-type]
    (lambda: Pod("office").open_to_guests(Book, rate=5), "open_to_guests: rate", "5", "Rate(…)"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("declare", "thing", "value", "remedy"), MISTAKES)
def test_a_mistake_names_the_thing_the_value_and_the_remedy(
    declare: Callable[[], object], thing: str, value: str, remedy: str
) -> None:
    with pytest.raises((BadDeclaration, BadSettings)) as refused:
        declare()
    assert [part for part in (thing, value, remedy) if part not in str(refused.value)] == [], str(refused.value)


@pytest.mark.parametrize(
    ("declare", "word"),
    [(lambda: Pod("office", stream=()), "stream"), (lambda: Stream(name="A", subjects=("a",), maxage=1), "maxage")],  # type: ignore[call-arg]
)
def test_a_keyword_that_python_refuses_is_named_by_python(declare: Callable[[], object], word: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{word}'"):
        declare()


def test_durations_may_be_text_everywhere() -> None:
    mine = Stream(name="MINE", subjects=("mine.*",), max_age="2h", duplicates="90s")
    assert (mine.max_age, mine.duplicates) == (7200.0, 90.0)
    assert Stream(name="MINE", subjects=("mine.*",), max_age=None).max_age is None
    limits = Limits(timeout="15m", ack_wait="20s", first_retry="250ms", longest_retry="2m", drain="5s")
    assert (limits.timeout, limits.ack_wait, limits.first_retry, limits.longest_retry) == (900.0, 20.0, 0.25, 120.0)
    assert Rate(600, per="1m").interval == 0.1
    assert Breaker(reset="1m").reset == 60.0
    assert Pod("office", idle_end="12h").idle_end == 43_200.0


def test_one_alone_counts_as_a_tuple_of_one() -> None:
    mine = Stream(name="MINE", subjects="a.*", sources=Source("OTHER", "o.*", "a.{{wildcard(1)}}"))  # type: ignore[arg-type]
    assert mine.subjects == ("a.*",)
    assert [source.stream for source in mine.sources] == ["OTHER"]
    office = Pod("office", streams=mine)  # type: ignore[arg-type]
    assert office.stream_of("a.b").name == "MINE"

    class Wish(Message, subject="call.intent.wish", redact="phone"):
        call_id: str
        phone: str

    assert Wish.tieline_binding is not None
    assert Wish.tieline_binding.redact == {"phone"}
    look_up = office.tool(crm)

    @office.agent(publishes=Wish, calls=look_up, uses="state")
    async def desk(intent: Book, call: Conversation) -> None: ...

    assert desk.declared is not None
    assert list(desk.declared.publishes) == [Wish]
    assert list(desk.declared.calls) == [look_up]
    assert desk.declared.uses == {"state"}


# -- one subject, one set of fields ------------------------------------------------------------------------------------


def two(first: type[Message], second: type[Message]) -> Pod:
    """A pod with two agents, each of which takes one of the classes."""
    office = Pod("office")

    async def one(intent: Any, call: Conversation) -> None: ...

    async def other(intent: Any, call: Conversation) -> None: ...

    one.__annotations__["intent"], other.__annotations__["intent"] = first, second
    office.agent(one)
    office.agent(other)
    return office


@pytest.mark.parametrize(("other", "field"), [(BookOtherwise, "slot"), (BookNumber, "phone"), (BookOptional, "phone")])
def test_two_classes_with_different_fields_for_one_subject_are_refused(other: type[Message], field: str) -> None:
    for first, second in ((Book, other), (other, Book)):
        with pytest.raises(BadDeclaration) as refused:
            two(first, second)
        said = str(refused.value)
        assert [part for part in ("Book", other.__name__, "call.intent.book", field) if part not in said] == [], said


def test_two_classes_with_the_same_fields_and_filters_that_only_overlap_are_fine() -> None:
    assert list(two(Book, BookAgain).agents) == ["one", "other"]
    assert list(two(Book, AnyIntent).agents) == ["one", "other"]


def test_what_is_published_or_open_to_guests_must_have_the_consumers_fields_too() -> None:
    office = Pod("office")
    office.agent(handler)
    with pytest.raises(BadDeclaration, match="slot"):
        office.agent(name="desk", publishes=(BookOtherwise,))(handler)
    with pytest.raises(BadDeclaration, match="slot"):
        office.open_to_guests(BookOtherwise)


def test_a_message_refers_to_itself() -> None:
    class Tree(Message, subject="call.intent.tree"):
        call_id: str
        below: list["Tree"] = Field(default_factory=list)

    class Plant(Message, subject="call.intent.tree"):
        call_id: str
        below: list["Plant"] = Field(default_factory=list)

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    Plant.model_rebuild(_types_namespace={"Plant": Plant})
    assert list(two(Tree, Plant).agents) == ["one", "other"]
