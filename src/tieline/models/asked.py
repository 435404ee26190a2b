"""What a model was asked, as far as it is the same in every run of the same code."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_core import PydanticSerializationError

__all__ = ["asked"]

# Of a message's part: what the model reads. Times and made-up ids differ from run to run.
_READ = ("part_kind", "content", "tool_name", "args")


def asked(
    model: str, messages: Sequence[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
) -> object:
    """Plain data to compare by; None for what cannot be compared, because a part of it is not JSON."""
    try:
        told: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    except (PydanticSerializationError, ValueError, TypeError):
        return None
    return {
        "model": model,
        "settings": settings,
        "instructions": [part.content for part in parameters.instruction_parts or ()],
        "messages": [[_part(part) for part in message["parts"]] for message in told],
        "tools": [
            [tool.name, tool.description, tool.parameters_json_schema]
            for tool in (*parameters.function_tools, *parameters.output_tools)
        ],
    }


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part[name] for name in _READ if name in part}
