"""Pods, agents and tools: what may be declared, and what a bad declaration is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from tieline import BadDeclaration, BadPayload, Conversation, Limits, Message, Pod, Stream, Tool, ToolRun
from tieline.tool import declared_name


class Book(Message, subject="call.intent.book"):
    call_id: str


class Look(Message, subject="call.intent.look"):
    call_id: str


class BookToo(Message, subject="call.intent.book"):
    call_id: str


class Turn(Message, subject="talk.turn.{call_id}"):
    call_id: str


class AnyIntent(Message, subject="call.intent.{what}"):
    what: str


class Unbound(Message):
    call_id: str


class Elsewhere(Message, subject="nowhere.at.all"):
    call_id: str


TALK = Stream(name="TALK", subjects=("talk.turn.*",))


# -- agents ------------------------------------------------------------------------------------------------------------


def test_an_agent_is_named_by_its_function_and_consumes_what_it_is_typed_with() -> None:
    pod = Pod("office")

    @pod.agent
    async def viewing_booker(intent: Book, call: Conversation) -> None: ...

    assert pod.agents == {"viewing-booker": viewing_booker}
    assert viewing_booker.filters == ("call.intent.book",)
    assert viewing_booker.models == (Book,)


def test_one_agent_takes_several_messages_by_union_or_by_also() -> None:
    pod = Pod("office", streams=(TALK,))

    @pod.agent(name="desk", limits=Limits(concurrency=2))
    async def handler(intent: Book | Look, call: Conversation) -> None: ...

    @handler.also
    async def other(intent: Turn, call: Conversation) -> None: ...

    assert handler.filters == ("call.intent.book", "call.intent.look", "talk.turn.*")
    assert handler.limits.concurrency == 2
    assert handler.open("talk.turn.c1", b'{"callId":"c1"}') == (Turn(call_id="c1"), other)
    assert handler.open("call.intent.look", b'{"callId":"c1"}')[0] == Look(call_id="c1")
    with pytest.raises(BadPayload, match=r"no handler for the subject call\.intent\.sell"):
        handler.open("call.intent.sell", b"{}")


def one_subject_two_handlers(pod: Pod) -> None:
    @pod.agent
    async def desk(intent: Book, call: Conversation) -> None: ...

    @desk.also
    async def other(intent: AnyIntent, call: Conversation) -> None: ...


def union_that_overlaps(pod: Pod) -> None:
    @pod.agent
    async def desk(intent: Book | BookToo, call: Conversation) -> None: ...


def not_async(pod: Pod) -> None:
    def desk(intent: Book, call: Conversation) -> None: ...

    pod.agent(desk)  # type: ignore[arg-type]


def one_parameter(pod: Pod) -> None:
    async def desk(intent: Book) -> None: ...

    pod.agent(desk)  # type: ignore[arg-type]


def untyped(pod: Pod) -> None:
    async def desk(intent, call) -> None: ...  # type: ignore[no-untyped-def]

    pod.agent(desk)


def not_a_message(pod: Pod) -> None:
    async def desk(intent: str, call: Conversation) -> None: ...

    pod.agent(desk)  # type: ignore[type-var]


def without_subject(pod: Pod) -> None:
    @pod.agent
    async def desk(intent: Unbound, call: Conversation) -> None: ...


def without_stream(pod: Pod) -> None:
    @pod.agent
    async def desk(intent: Elsewhere, call: Conversation) -> None: ...


def bad_name(pod: Pod) -> None:
    @pod.agent(name="Front Desk")
    async def desk(intent: Book, call: Conversation) -> None: ...


def name_taken(pod: Pod) -> None:
    @pod.agent
    async def desk(intent: Book, call: Conversation) -> None: ...

    @pod.agent(name="desk")
    async def other(intent: Look, call: Conversation) -> None: ...


def reserved(pod: Pod) -> None:
    @pod.agent(name="tools")
    async def desk(intent: Book, call: Conversation) -> None: ...


@pytest.mark.parametrize(
    ("declare", "thing", "value", "remedy"),
    [
        (one_subject_two_handlers, "agent desk", "call.intent.*", "one handler"),
        (union_that_overlaps, "agent desk", "BookToo", "one handler"),
        (not_async, "agent desk", "not_async.<locals>.desk", "async def"),
        (one_parameter, "agent desk", "1 parameters", "(message, call)"),
        (untyped, "agent desk", "None", "typed with a Message class"),
        (not_a_message, "agent desk", "<class 'str'>", "typed with a Message class"),
        (without_subject, "Unbound", "no subject", "subject="),
        (without_stream, "pod office", "nowhere.at.all", "streams=(Stream("),
        (bad_name, "agent name", "'Front Desk'", "use lower-case"),
        (name_taken, "pod office", "'desk'", "unique"),
        (reserved, "pod office", "'tools'", "unique"),
    ],
)
def test_bad_agents_name_thing_value_and_remedy(
    declare: Callable[[Pod], None], thing: str, value: str, remedy: str
) -> None:
    with pytest.raises(BadDeclaration) as refused:
        declare(Pod("office"))
    assert [part for part in (thing, value, remedy) if part not in str(refused.value)] == []


# -- pods and streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Office", "a_b", "a--b", "-a", "a b"])
def test_pod_names(name: str) -> None:
    with pytest.raises(BadDeclaration, match="pod name"):
        Pod(name)


@pytest.mark.parametrize("name", ["a" * 49, "", "A", "a_b", "ä"])
def test_declared_names(name: str) -> None:
    async def function() -> None: ...

    with pytest.raises(BadDeclaration, match="name"):
        declared_name(function, name, "tool")


@pytest.mark.parametrize(
    ("subject", "other"), [("call.intent.book", "CALL_INTENT"), ("DLQ.mine.>", "DLQ"), ("*.intent.x", "CALL_INTENT")]
)
def test_streams_may_not_overlap(subject: str, other: str) -> None:
    with pytest.raises(BadDeclaration) as refused:
        Pod("office", streams=(Stream(name="MINE", subjects=(subject,)),))
    assert [
        part for part in (other, "MINE", subject, "one subject, one stream") if part not in str(refused.value)
    ] == []


def test_two_subjects_of_one_stream_may_not_overlap_either() -> None:
    with pytest.raises(BadDeclaration, match="overlap"):
        Pod("office", streams=(Stream(name="MINE", subjects=("mine.*", "mine.a")),))


def test_a_stream_with_a_default_name_replaces_it() -> None:
    pod = Pod("office", streams=(Stream(name="CALL_INTENT", subjects=("call.intent.*",), max_age=60, duplicates=30),))
    assert pod.streams["CALL_INTENT"].max_age == 60
    assert pod.stream_of("call.intent.book").name == "CALL_INTENT"


def test_the_default_streams_store_what_the_contract_names() -> None:
    pod = Pod("office")
    homes = {
        "call.intent.book": "CALL_INTENT",
        "redrive.call_intent.booking": "CALL_INTENT",
        "tool.call.crm": "TOOL_CALL",
        "step.a.b.tool.d": "STEP",
        "tool.result.c1": "TOOL_RESULT",
        "call.audit.c1": "CALL_AUDIT",
        "DLQ.call.intent.book": "DLQ",
        "schedule.x": "SCHEDULE",
        "due.call.intent.book": "SCHEDULE",
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.C": "ADVISORY",
    }
    assert {subject: pod.stream_of(subject).name for subject in homes} == homes


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ({"name": "a.b"}, "'a.b'"),
        ({"name": ""}, "''"),
        ({"subjects": ()}, "no subjects"),
        ({"subjects": (">",)}, "'>'"),
        ({"subjects": ("a..b",)}, "'a..b'"),
        ({"max_age": 0.5}, "0.5"),
        ({"max_bytes": 1}, "1"),
        ({"max_age": 60}, "600 s"),
    ],
)
def test_bad_streams(wrong: dict[str, Any], value: str) -> None:
    with pytest.raises(BadDeclaration) as refused:
        Stream(**({"name": "MINE", "subjects": ("mine.*",)} | wrong))
    assert value in str(refused.value)


# -- tools -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lead:
    lead_id: int
    made: datetime


async def crm(run: ToolRun, phone_number: str, note: str = "none", *, slot: datetime | None = None) -> Lead:
    assert run.key == "k"
    assert slot is None or isinstance(slot, datetime)
    return Lead(lead_id=len(phone_number) + len(note), made=datetime(2026, 1, 2, tzinfo=UTC))


def made(function: Callable[..., Any]) -> Tool[..., Any]:
    return Tool(function, "crm", "once", Limits())


def run(tool: Tool[..., Any], arguments: object) -> Any:
    return asyncio.run(tool.run(arguments, ToolRun("k", "c1", 1)))


def test_arguments_are_validated_and_go_out_as_plain_camel_case() -> None:
    tool = made(crm)
    slot = datetime(2026, 1, 2, tzinfo=UTC)
    assert tool.bind(("12",), {"slot": slot}) == {"phoneNumber": "12", "note": "none", "slot": "2026-01-02T00:00:00Z"}


def test_a_result_comes_back_as_its_type() -> None:
    tool = made(crm)
    value = run(tool, tool.bind(("12",), {"slot": datetime(2026, 1, 2, tzinfo=UTC)}))
    assert value == {"lead_id": 6, "made": "2026-01-02T00:00:00Z"}
    assert tool.read(value) == Lead(6, datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((), {}, "phone"),
        ((1,), {}, "phone_number"),
        (("1",), {"nobody": 1}, "nobody"),
        (("1", "2", None, 4), {}, "takes 3 arguments, not 4"),
    ],
)
def test_arguments_that_do_not_fit_are_named_before_anything_is_sent(
    args: tuple[Any, ...], kwargs: dict[str, Any], names: str
) -> None:
    with pytest.raises(BadPayload) as refused:
        made(crm).bind(args, kwargs)
    assert "tool crm" in str(refused.value)
    assert names in str(refused.value)


@pytest.mark.parametrize("arguments", [None, [], "x", {}, {"phoneNumber": []}, {"phoneNumber": "1", "more": 2}])
def test_an_executor_refuses_arguments_that_do_not_fit(arguments: object) -> None:
    with pytest.raises(BadPayload, match="tool crm"):
        run(made(crm), arguments)


def test_a_result_that_is_not_what_was_declared_is_told() -> None:
    async def wrong() -> int:
        return "many"  # type: ignore[return-value]

    with pytest.raises(BadPayload, match="its result does not fit its return type"):
        run(made(wrong), {})


def test_a_record_of_another_version_is_told() -> None:
    with pytest.raises(BadPayload, match="the recorded result"):
        made(crm).read({"lead": 1})


def test_a_tool_may_return_nothing() -> None:
    async def quiet() -> None: ...

    assert run(made(quiet), {}) is None


def tool_not_async(pod: Pod) -> None:
    def crm(phone: str) -> str:
        return phone

    pod.tool(crm)  # type: ignore[arg-type]


def tool_without_return(pod: Pod) -> None:
    async def crm(phone: str):  # type: ignore[no-untyped-def]
        return phone

    pod.tool(crm)


def tool_untyped(pod: Pod) -> None:
    async def crm(phone) -> str:  # type: ignore[no-untyped-def]
        return str(phone)

    pod.tool(crm)


def tool_with_stars(pod: Pod) -> None:
    async def crm(*phones: str) -> str:
        return str(phones)

    pod.tool(crm)


def tool_twice(pod: Pod) -> None:
    @pod.tool
    async def crm() -> None: ...

    @pod.tool(name="crm")
    async def other() -> None: ...


def tool_named_badly(pod: Pod) -> None:
    @pod.tool(name="CRM")
    async def crm() -> None: ...


@pytest.mark.parametrize(
    ("declare", "thing", "value"),
    [
        (tool_not_async, "tool crm", "async def"),
        (tool_without_return, "tool crm", "say what it returns"),
        (tool_untyped, "tool crm", "'phone'"),
        (tool_with_stars, "tool crm", "'phones'"),
        (tool_twice, "pod office", "'crm'"),
        (tool_named_badly, "tool name", "'CRM'"),
    ],
)
def test_bad_tools_name_thing_and_value(declare: Callable[[Pod], None], thing: str, value: str) -> None:
    with pytest.raises(BadDeclaration) as refused:
        declare(Pod("office"))
    assert thing in str(refused.value)
    assert value in str(refused.value)


def test_a_tool_may_not_have_the_consumer_of_an_agent() -> None:
    pod = Pod("office")

    @pod.agent(name="tool-crm")
    async def desk(intent: Book, call: Conversation) -> None: ...

    with pytest.raises(BadDeclaration, match="'tool-crm' is taken"):

        @pod.tool
        async def crm() -> None: ...
