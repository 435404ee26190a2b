"""`Tool`: a typed async function that a tool executor runs on an agent's behalf."""

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model
from pydantic.alias_generators import to_camel

from tieline.codec import explain
from tieline.declared.arguments import instance, one_of
from tieline.errors import BadDeclaration, BadPayload
from tieline.settings import Breaker, Limits, Rate

__all__ = ["Effect", "Tool", "ToolRun", "checked_name", "declared_name"]

type Effect = Literal["read", "repeat", "once"]

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What a tool may know about the call it runs for, if its first parameter is a `ToolRun`.

    ``key`` is the same for every run of the same call: hand it to the target as its idempotency key. ``deadline``
    (UTC) is when the caller's whole work is due, if it is: the tool is cancelled then.
    """

    key: str
    conversation: str
    attempt: int
    deadline: datetime | None = None


def declared_name(function: Callable[..., object], given: str | None, what: str) -> str:
    """The name of an agent or tool: given, or the function's with dashes. `BadDeclaration` where it cannot be one."""
    name = given if given is not None else getattr(function, "__name__", "").replace("_", "-")
    return checked_name(name, f"{what} name")


def checked_name(name: object, what: str) -> str:
    """``name``, which must be one that an agent or tool can have."""
    if not isinstance(name, str) or not _NAME.match(name) or len(name) > 48:
        raise BadDeclaration(f"{what} {name!r}: use lower-case letters, digits and single dashes, at most 48")
    return name


class Tool[**P, R]:
    """A declared tool. Call it through ``await call.tool(crm, phone=…)``; arguments and result are validated there.

    ``effect`` says what a second run would do: ``"read"`` changes nothing, ``"repeat"`` may be repeated safely,
    ``"once"`` must not happen twice: a recorded result is returned without running, and the `ToolRun` key lets the
    target drop the repeat that a crash between effect and record makes.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[R]],
        name: str,
        effect: Effect,
        limits: Limits,
        rate: Rate | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.function = function
        self.name = name
        self.effect = effect
        self.limits = limits
        self.rate = rate
        self.breaker = breaker
        self._check_options()
        if not inspect.iscoroutinefunction(function):
            raise BadDeclaration(f"tool {name}: {function.__qualname__} must be an async def")
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())
        self._wants_run = bool(parameters) and hints.get(parameters[0].name) is ToolRun
        if self._wants_run:
            parameters = parameters[1:]
        fields: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.kind not in _NAMED or parameter.name not in hints:
                raise BadDeclaration(
                    f"tool {name}: parameter {parameter.name!r} needs a name to be given by, and a type"
                )
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        if "return" not in hints:
            raise BadDeclaration(f"tool {name}: say what it returns (-> …); the result is validated and recorded")
        self._order = tuple(fields)
        config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid")
        try:
            self.arguments = create_model(f"{name}-arguments", __config__=config, **fields)
            self.result: TypeAdapter[R] = TypeAdapter(hints["return"])
        except PydanticUserError as error:
            raise BadDeclaration(f"tool {name}: its types cannot be validated: {error.message}") from None

    def _check_options(self) -> None:
        one_of(f"tool {self.name}: effect", self.effect, get_args(Effect.__value__))
        instance(f"tool {self.name}: limits", self.limits, Limits, "Limits(…)")
        for what, value, kind in (("rate", self.rate, Rate), ("breaker", self.breaker, Breaker)):
            if value is not None:
                instance(f"tool {self.name}: {what}", value, kind, f"{kind.__name__}(…)")

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of the arguments as they are sent: one object, camelCase, no further properties.

        The same signature gives the same schema, property by property in the order of the parameters.
        """
        schema: dict[str, Any] = self.arguments.model_json_schema(by_alias=True, mode="validation")
        return schema

    @property
    def result_schema(self) -> dict[str, Any]:
        """The JSON Schema (2020-12) of the value in a recorded result."""
        return self.result.json_schema(by_alias=True, mode="serialization")

    def __repr__(self) -> str:
        return f"Tool({self.name!r}, effect={self.effect!r})"

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments as plain JSON data, camelCase. `BadPayload` names what does not fit."""
        named = dict(zip(self._order, args, strict=False)) | kwargs
        if len(args) > len(self._order):
            raise BadPayload(f"tool {self.name}: takes {len(self._order)} arguments, not {len(args)}")
        try:
            plain: dict[str, Any] = self.arguments.model_validate(named).model_dump(mode="json", by_alias=True)
        except ValidationError as error:
            raise BadPayload(f"tool {self.name}: {explain(error)}") from None
        return plain

    async def run(self, arguments: object, run: ToolRun) -> Any:
        """The tool's result as plain JSON data. `BadPayload` for arguments or a result that do not fit."""
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            raise BadPayload(f"tool {self.name}: {explain(error)}") from None
        named = {name: getattr(checked, name) for name in self._order}
        value = await (self.function(run, **named) if self._wants_run else self.function(**named))
        try:
            return self.result.dump_python(self.result.validate_python(value), mode="json", by_alias=True)
        except (ValidationError, TypeError, ValueError) as error:
            what = explain(error) if isinstance(error, ValidationError) else str(error)
            raise BadPayload(f"tool {self.name}: its result does not fit its return type: {what}") from None

    def read(self, value: object) -> R:
        """A recorded result as the tool's return type. `BadPayload` where another version wrote something else."""
        try:
            return self.result.validate_python(value)
        except ValidationError as error:
            raise BadPayload(f"tool {self.name}: the recorded result: {explain(error)}") from None
