"""`Journaled`: a model whose answers are recorded, so that none is paid for twice."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_core import PydanticSerializationError

from tieline import codec
from tieline.errors import BadPayload
from tieline.facts import ModelUsed
from tieline.models.asked import asked
from tieline.models.desk import ModelDesk
from tieline.partial import Partial

__all__ = ["Journaling"]

_LONGEST = 4_000  # characters of one partial message


class Journaling(AbstractCapability[Any]):
    """Has each request of a run recorded, whichever model serves it: the agent's, one given, an override or fallback.

    ``name`` is the steps' name.
    """

    def __init__(self, desk: ModelDesk, name: str) -> None:
        self._desk = desk
        self._name = name

    def get_ordering(self) -> CapabilityOrdering:
        """Around all other wrappers: what they do to a request is part of what is paid for."""
        return CapabilityOrdering(position="outermost")

    def get_wrapper_model(self, model: Model) -> Model:
        """``model``, journaled."""
        return Journaled(model, self._desk, self._name)


class Journaled(WrapperModel):
    """A model that answers from the journal where it can, and says aloud what it produces where it cannot."""

    def __init__(self, wrapped: Model, desk: ModelDesk, name: str) -> None:
        super().__init__(wrapped)
        self._desk = desk
        self._name = name

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The recorded answer. Two runs at once agree on one. `BadPayload` for an answer that cannot be recorded."""
        return await self._recorded(messages, model_settings, model_request_parameters, None)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The recorded answer, told again event by event once it is whole: for agents with an event handler."""
        response = await self._recorded(messages, model_settings, model_request_parameters, run_context)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    async def _recorded(
        self,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        context: RunContext[Any] | None,
    ) -> ModelResponse:
        async def make(step: str) -> Any:
            began = time.monotonic()
            if _streams(self.wrapped):
                async with self.wrapped.request_stream(messages, settings, parameters, context) as stream:
                    await self._spoken(step, stream)
                    response = stream.get()
            else:
                response = await self.wrapped.request(messages, settings, parameters)
            # Before it is recorded: it is to be paid for also where another run's answer was recorded first.
            self._desk.tell(_used(self._desk, step, response, time.monotonic() - began))
            return _plain(response, step)

        question = asked(self.wrapped.model_id, messages, settings, parameters)
        return _read(await self._desk.requested(self._name, question, make))

    async def _spoken(self, step: str, stream: StreamedResponse) -> None:
        seq = 0
        async for event in stream:
            text = _text(event)
            for start in range(0, len(text), _LONGEST):
                piece = text[start : start + _LONGEST]
                await self._desk.say(
                    Partial(call_id=self._desk.conversation, agent=self._desk.agent, step=step, seq=seq, text=piece)
                )
                seq += 1


def _streams(model: Model) -> bool:
    """Whether a model can be asked for its answer piece by piece."""
    while isinstance(model, WrapperModel):
        model = model.wrapped
    if isinstance(model, FunctionModel):
        return model.stream_function is not None
    return type(model).request_stream is not Model.request_stream


def _text(event: ModelResponseStreamEvent) -> str:
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
    return ""


def _used(desk: ModelDesk, step: str, response: ModelResponse, took: float) -> ModelUsed:
    return ModelUsed(
        conversation=desk.conversation,
        by=desk.agent,
        step=step,
        model=response.model_name or "",
        provider=response.provider_name or "",
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        cached_tokens=response.usage.cache_read_tokens,
        cost=_cost(response),
        took=took,
    )


def _cost(response: ModelResponse) -> float | None:
    if response.usage.cost is not None:
        return float(response.usage.cost)  # the provider said so itself
    if not response.model_name:
        return None
    try:
        return float(response.cost().total_price)
    except (LookupError, ValueError):
        return None  # genai-prices does not know the model, or the provider counted nothing


def _plain(response: ModelResponse, step: str) -> Any:
    try:
        return ModelMessagesTypeAdapter.dump_python([response], mode="json", exclude_none=True)[0]
    except (PydanticSerializationError, ValueError, TypeError) as error:
        raise BadPayload(f"{step}: the model's answer cannot be recorded as JSON: {error}") from None


def _read(value: object) -> ModelResponse:
    match codec.validated(ModelMessagesTypeAdapter, [value], "the recorded answer"):
        case [ModelResponse() as response]:
            return response
    raise BadPayload("the recorded answer is none of a model")
