"""What an agent's code shows that it publishes, calls and uses, where its author declared nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tieline import Conversation, Message, Pod
from tieline.deploy.permissions import grants_of
from tieline.errors import BadDeclaration
from tieline.security.handler_uses import declared_or_derived


class Ask(Message, subject="call.intent.ask"):
    call_id: str


class Told(Message, subject="call.intent.told"):
    call_id: str


class Priced(Message, subject="call.intent.priced"):
    call_id: str


pod = Pod("desk")


@pod.tool
async def count(text: str) -> int:
    return len(text)


@pod.tool
async def crm(text: str) -> str:
    return text


def told(ask: Ask) -> Told | Priced:
    return Told(call_id=ask.call_id) if ask.call_id else Priced(call_id="")


async def helper(name: str, call: Conversation) -> None:
    await call.tool(crm, text=name)
    if name:
        await helper(name[1:], call)  # a recursion is followed once


def derived(handler: Callable[..., Any]) -> Any:
    return declared_or_derived(Pod("desk").agent(handler))


def test_constructed_messages_tools_and_uses_are_found() -> None:
    async def agent(ask: Ask, call: Conversation) -> None:
        words, _ = await asyncio.gather(call.tool(count, text=call.id), call.tool(crm, text="x"))
        later = Told(call_id=ask.call_id) if words else Priced.model_validate({"callId": "1"})
        await call.publish(later, after=5)
        await call.publish(ask)
        await call.ask(Priced(call_id=ask.call_id), expects=Told)
        await call.end()

    found = derived(agent)
    assert found.publishes == (Told, Priced, Ask)
    assert [tool.name for tool in found.calls] == ["count", "crm"]
    assert found.uses == {"delays", "state"}


def test_functions_that_get_the_conversation_are_followed() -> None:
    async def agent(ask: Ask, call: Conversation) -> None:
        await helper("abc", call=call)
        await call.step("once more", helper, "abc", call)
        await call.publish(told(ask))

    found = derived(agent)
    assert found.publishes == (Told, Priced)
    assert [tool.name for tool in found.calls] == ["crm"]


def test_an_agent_that_only_consumes_needs_nothing() -> None:
    async def agent(ask: Ask, call: Conversation) -> None:
        call.log("heard %s in attempt %d", ask.call_id, call.attempt)

    found = derived(agent)
    assert (found.publishes, found.calls, found.uses) == ((), (), frozenset())


async def _any_message(ask: Ask, call: Conversation) -> None:
    message: Message = ask
    for message in [ask, Told(call_id="1")]:
        await call.publish(message)


async def _method_as_a_value(ask: Ask, call: Conversation) -> None:
    publish = call.publish
    await publish(ask)


async def _conversation_as_a_value(ask: Ask, call: Conversation) -> None:
    held = [call]
    await held[0].publish(ask)


async def _tool_from_a_table(ask: Ask, call: Conversation) -> None:
    await call.tool({"count": count}[ask.call_id], text="x")


async def _with_a_tool(crm: Any, call: Conversation) -> None:
    await call.tool(crm, text="x")  # a parameter, not the module's tool


async def _tool_as_a_parameter(ask: Ask, call: Conversation) -> None:
    await _with_a_tool(count if ask.call_id else crm, call)


async def _handed_to_what_has_no_source(ask: Ask, call: Conversation) -> None:
    print(ask, call)


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_any_message, "call.publish(message): it does not say which message class is published: publishes=(…)"),
        (_method_as_a_value, "call.publish: call.publish is used as a value"),
        (_conversation_as_a_value, "call: call is used as a value"),
        (_tool_from_a_table, "it does not say which tool is called: calls=(…)"),
        (_tool_as_a_parameter, "it does not say which tool is called: calls=(…)"),
        (_handed_to_what_has_no_source, "call is handed to print, which cannot be followed"),
    ],
)
def test_what_cannot_be_derived_is_refused_with_its_place(handler: Callable[..., Any], words: str) -> None:
    own = Pod("desk")
    own.agent(name="front-desk")(handler)
    with pytest.raises(BadDeclaration) as refused:
        grants_of(own, ["front-desk"])
    assert words in str(refused.value)
    assert "test_handler_uses.py:" in str(refused.value)
    assert "agent front-desk declares nothing" in str(refused.value)


def test_a_declaration_is_taken_as_it_is() -> None:
    own = Pod("desk")

    @own.agent(publishes=(Told,))
    async def agent(ask: Ask, call: Conversation) -> None:
        await call.publish(ask)

    assert declared_or_derived(agent).publishes == (Told,)
