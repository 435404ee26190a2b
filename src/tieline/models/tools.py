"""Tieline's tools as a model sees them."""

import inspect
from collections.abc import Sequence
from typing import Any, override

from pydantic_ai import AbstractToolset, ModelRetry, RunContext
from pydantic_ai import ToolFailed as ToolFailedForModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from tieline.errors import BadPayload, ToolFailed
from tieline.models.desk import ModelDesk
from tieline.tool import Tool

__all__ = ["BusTools"]

_ANY_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class BusTools(AbstractToolset[Any]):
    """Tools that a tool executor runs: each call of the model is a tool call on the bus, recorded once.

    Arguments that do not fit go back to the model, to be corrected; what a tool refused or failed at is told to it.
    """

    def __init__(self, desk: ModelDesk, tools: Sequence[Tool[..., Any]]) -> None:
        self._desk = desk
        self._tools = {tool.name: tool for tool in tools}

    @property
    def id(self) -> str:
        """What pydantic-ai knows the set by."""
        return "tieline"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """The tools by name, as the model is told of them."""
        return {
            name: ToolsetTool(
                toolset=self,
                tool_def=_definition(tool),
                max_retries=ctx.max_retries,
                args_validator=_ANY_ARGUMENTS,  # the tool's own model validates, and says what did not fit
            )
            for name, tool in self._tools.items()
        }

    @override
    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """The tool's recorded result, as JSON data."""
        called = self._tools[name]
        try:
            arguments = called.bind((), tool_args)
        except BadPayload as error:
            raise ModelRetry(str(error)) from None
        try:
            return await self._desk.tool(called, arguments)
        except ToolFailed as error:
            raise ToolFailedForModel(str(error)) from error


def _definition(tool: Tool[..., Any]) -> ToolDefinition:
    schema = tool.arguments.model_json_schema(by_alias=True)
    schema.pop("title", None)  # the name said again
    return ToolDefinition(
        name=tool.name, parameters_json_schema=schema, description=inspect.getdoc(tool.function) or None
    )
