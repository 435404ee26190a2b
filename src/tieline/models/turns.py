"""One turn of a model: an agent's run with every request and every tool call on record."""

from collections.abc import Sequence
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserContent

from tieline.context import ModelTurn
from tieline.errors import BadSettings
from tieline.models.desk import ModelDesk
from tieline.models.journaled import Journaling
from tieline.models.tools import BusTools

__all__ = ["run"]


async def run(desk: ModelDesk, turn: ModelTurn, default: str | None) -> Any:
    """The output of one turn, as `tieline.models.run` promises."""
    if turn.agent is None and default is None:
        raise BadSettings("call.model: no model is named; name one ('provider:model') or set TIELINE_MODEL")
    agent: AbstractAgent[Any, Any] = turn.agent if isinstance(turn.agent, AbstractAgent) else Agent(turn.agent)
    history, prompt = _parted(turn.prompt)
    result = await agent.run(
        prompt,
        model=default if agent.model is None else None,
        output_type=turn.output,
        message_history=history,
        instructions=turn.instructions,
        deps=turn.deps,
        toolsets=[BusTools(desk, turn.tools)],
        capabilities=[Journaling(desk, agent.name or "model")],
        infer_name=False,
    )
    return result.output


def _parted(prompt: str | Sequence[Any]) -> tuple[list[ModelMessage], str | list[UserContent] | None]:
    """The messages that went before, and what is new."""
    if isinstance(prompt, str):
        return [], prompt
    history: list[ModelMessage] = [part for part in prompt if isinstance(part, ModelRequest | ModelResponse)]
    return history, [part for part in prompt if not isinstance(part, ModelRequest | ModelResponse)] or None
