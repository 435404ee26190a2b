"""Language models: pydantic-ai agents whose requests and tool calls are steps.

pydantic-ai is imported by the first turn: it takes a second, and not every process that runs Tieline asks a model.
"""

from typing import Any

from tieline.context import ModelTurn
from tieline.errors import BadSettings
from tieline.models.desk import ModelDesk

__all__ = ["ModelDesk", "run"]


async def run(desk: ModelDesk, turn: ModelTurn, default: str | None) -> Any:
    """The output of one turn. ``default`` names the model of a turn that has none.

    `BadSettings` where pydantic-ai is not installed or no model is named; else raises what the agent's run raises.
    """
    try:
        # Not in a thread: turns that begin together would go on in any order, and be named by it.
        from tieline.models import turns
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pydantic_ai":
            raise
        raise BadSettings("call.model needs pydantic-ai, which is not installed; install tieline[models]") from error
    return await turns.run(desk, turn, default)
