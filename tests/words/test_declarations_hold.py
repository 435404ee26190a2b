"""What declarations, explanations and settings must never do: leak a value, or fail later than at import."""

import socket
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

from tieline import BadDeclaration, BadPayload, BadSettings, Conversation, Message, Pod, Settings
from tieline.codec import decode, redacted

CANARY = "555-0142-canary"


class ByLetter(BaseModel):
    kind: Literal["letter"]


class ByPhone(BaseModel):
    kind: Literal["phone"]


class Contact(Message, subject="call.intent.contact"):
    tries: dict[str, int] = Field(default_factory=dict)
    way: Annotated[ByLetter | ByPhone, Field(discriminator="kind")] | None = None
    phone: str = ""

    @field_validator("phone")
    @classmethod
    def _known(cls, phone: str) -> str:
        if phone:
            raise ValueError(f"nobody has {phone}")
        return phone


class Aliased(Message, subject="call.intent.aliased", redact=("phone",)):
    phone: str = Field(serialization_alias="tel")


class Book(Message, subject="call.intent.book"):
    call_id: str


class Elsewhere(Message, subject="nowhere.at.all"):
    call_id: str


@pytest.mark.parametrize(
    "payload", [f'{{"tries":{{"{CANARY}":"x"}}}}', f'{{"way":{{"kind":"{CANARY}"}}}}', f'{{"phone":"{CANARY}"}}']
)
def test_no_explanation_holds_a_value(payload: str) -> None:
    with pytest.raises(BadPayload) as refused:
        decode(Contact, payload.encode())
    assert CANARY not in str(refused.value)


def test_a_redacted_field_is_hidden_under_every_name() -> None:
    assert CANARY not in str(redacted(Aliased(phone=CANARY)))


def test_a_message_without_stream_is_refused_where_it_is_declared() -> None:
    pod = Pod("office")

    @pod.agent
    async def desk(intent: Book, call: Conversation) -> None: ...

    with pytest.raises(BadDeclaration):

        @desk.also
        async def other(intent: Elsewhere, call: Conversation) -> None: ...


def test_an_agent_may_not_have_the_consumer_of_a_tool() -> None:
    pod = Pod("office")

    @pod.tool
    async def crm() -> None: ...

    with pytest.raises(BadDeclaration):

        @pod.agent(name="tool-crm")
        async def desk(intent: Book, call: Conversation) -> None: ...


def test_a_tool_whose_types_cannot_be_validated_is_a_bad_declaration() -> None:
    async def crm(line: socket.socket) -> None: ...

    with pytest.raises(BadDeclaration):
        Pod("office").tool(crm)


def test_a_tool_whose_arguments_have_no_name_to_be_given_by_is_a_bad_declaration() -> None:
    async def crm(number: int, /) -> int:
        return number

    with pytest.raises(BadDeclaration, match="number"):
        Pod("office").tool(crm)


def test_a_variable_out_of_range_is_named() -> None:
    with pytest.raises(BadSettings, match="TIELINE_RECONNECT"):
        Settings.from_environment({"TIELINE_RECONNECT": "-5"})


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(BadSettings) as refused:
        Settings.from_environment({"TIELINE_SERVERS": "me:s3cret@host:4222"})
    assert "s3cret" not in str(refused.value)
