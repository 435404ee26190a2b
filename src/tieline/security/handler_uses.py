"""What a handler does on the bus, read from its source code: the declaration that its author left out.

`declared_or_derived` follows every use of a handler's `Conversation`: ``call.publish(Answer(...))`` names a message,
``call.tool(crm, ...)`` a tool, ``call.sleep(...)`` a use. Functions that are handed the conversation are followed too.
Where the code does not say which message or tool is meant, nothing is guessed: the agent has to declare it.
"""

import ast
import builtins
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tieline.agent import Agent, Declared, Use
from tieline.context import Conversation
from tieline.errors import BadDeclaration
from tieline.messages import Message
from tieline.tool import Tool

__all__ = ["declared_or_derived"]

_USES: dict[str, Use] = {"sleep": "delays", "state": "state", "end": "state", "model": "models"}
_DELAYING = ("after", "within")  # keyword arguments that make the server delay a message
_SAME_CLASS = ("model_validate", "model_validate_json", "model_construct", "model_copy")
_UNKNOWN = object()


@cache
def declared_or_derived(agent: Agent) -> Declared:
    """What ``agent`` declares, or else what its handlers' code shows that they publish, call and use.

    `BadDeclaration` names each line that does not show it, and what to declare. ``uses=("large",)`` is never derived:
    code does not tell how large a payload becomes.
    """
    if agent.declared is not None:
        return agent.declared
    found = _Found(agent.name)
    for handler in agent.handlers:
        _follow(handler, 1, found)
    if found.unclear:
        raise BadDeclaration(
            f"agent {agent.name} declares nothing, and its code does not show what its credentials must allow: "
            f"{'; '.join(found.unclear)}. Declare publishes=(…), calls=(…) and uses=(…) in @pod.agent"
        )
    return Declared(tuple(found.publishes), tuple(found.calls), frozenset(found.uses))


@dataclass
class _Found:
    """What was found so far. Dictionaries keep the order of the code."""

    agent: str
    publishes: dict[type[Message], None] = field(default_factory=dict)
    calls: dict[Tool[..., Any], None] = field(default_factory=dict)
    uses: set[Use] = field(default_factory=set)
    unclear: list[str] = field(default_factory=list)
    followed: set[tuple[object, str]] = field(default_factory=set)


def _follow(function: Callable[..., Any], place: int | str, found: _Found) -> None:
    """Read ``function``, whose parameter at ``place`` (an index or a name) is the conversation."""
    function = inspect.unwrap(function)
    if isinstance(function, types.MethodType):
        function = function.__func__
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        found.unclear.append(f"the source of {getattr(function, '__qualname__', function)} cannot be read")
        return
    node = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)), None)
    if node is None:
        found.unclear.append(f"{function.__qualname__} is not a def that can be read")
        return
    ast.increment_lineno(tree, first - 1)
    parameters = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    name = place if isinstance(place, str) else parameters[place]
    if name not in parameters or (function, name) in found.followed:
        return
    found.followed.add((function, name))
    _Reader(function, node, name, found).read()


class _Reader:
    """Reads one function in which ``conversation`` is the name of the conversation."""

    def __init__(
        self,
        function: Callable[..., Any],
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        conversation: str,
        found: _Found,
    ) -> None:
        self._node = node
        self._name = conversation
        self._found = found
        self._file = inspect.getsourcefile(function) or "?"
        self._known = _names_known_to(function)
        self._hints = _hints_of(function)
        self._assigned = _assignments_in(node)
        self._parameters = {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
        self._parents = {child: parent for parent in ast.walk(node) for child in ast.iter_child_nodes(parent)}

    def read(self) -> None:
        """Look at every place that names the conversation."""
        for node in ast.walk(self._node):
            if isinstance(node, ast.Name) and node.id == self._name and isinstance(node.ctx, ast.Load):
                self._use(node)

    def _use(self, node: ast.Name) -> None:
        parent = self._parents[node]
        if isinstance(parent, ast.Attribute):
            self._attribute(parent)
        elif isinstance(parent, ast.Call) and node in parent.args:
            self._handed_on(parent, parent.args.index(node))
        elif isinstance(parent, ast.keyword) and parent.arg is not None:
            call = self._parents[parent]
            assert isinstance(call, ast.Call)
            self._handed_on(call, parent.arg)
        else:
            self._say_unclear(node, f"{self._name} is used as a value")

    def _attribute(self, node: ast.Attribute) -> None:
        if not inspect.iscoroutinefunction(getattr(Conversation, node.attr, None)) and node.attr != "state":
            return  # a property, or what does nothing on the bus
        call = self._parents[node]
        if not (isinstance(call, ast.Call) and call.func is node):
            self._say_unclear(node, f"{self._name}.{node.attr} is used as a value")
            return
        if node.attr in _USES:
            self._found.uses.add(_USES[node.attr])
        if any(keyword.arg in _DELAYING or keyword.arg is None for keyword in call.keywords):
            self._found.uses.add("delays")
        match node.attr:
            case "publish" | "ask":
                self._message(call)
            case "tool":
                self._tools(call.args[:1], call)
            case "model":
                self._model(call)

    def _message(self, call: ast.Call) -> None:
        given = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "message"), None)
        models = [] if given is None else list(self._models(given, set()))
        if not models or any(model is None for model in models):
            self._say_unclear(call, "it does not say which message class is published: publishes=(…)")
        self._found.publishes |= dict.fromkeys(model for model in models if model is not None)

    def _models(self, node: ast.expr, seen: set[str]) -> Iterator[type[Message] | None]:
        """The message classes that an expression may be of; None where it does not show."""
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr=method)) if method in _SAME_CLASS:
                value = self._value(owner)
                yield from self._models(owner, seen) if value is _UNKNOWN else [_message_class(value)]
            case ast.Call(func=function):
                value = self._value(function)
                model = _message_class(value)
                yield from _returned(value) if model is None else [model]
            case ast.IfExp(body=body, orelse=orelse):
                yield from (model for side in (body, orelse) for model in self._models(side, seen))
            case ast.Await(value=awaited):
                yield from self._models(awaited, seen)
            case ast.Name(id=name) if name in self._assigned and name not in seen:
                for value in self._assigned[name]:
                    yield from [None] if value is None else self._models(value, seen | {name})
            case ast.Name(id=name) if name in self._hints and name not in self._assigned:
                yield from _classes_in(self._hints[name])
            case _:
                yield None

    def _model(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if keyword.arg == "tools" and isinstance(keyword.value, ast.Tuple | ast.List):
                self._tools(keyword.value.elts, call)
            elif keyword.arg == "tools":
                self._say_unclear(call, "it does not say which tools the model may call: calls=(…)")

    def _tools(self, nodes: Iterable[ast.expr], call: ast.Call) -> None:
        named = [self._value(node) for node in nodes]
        for tool in named or [_UNKNOWN]:
            if isinstance(tool, Tool):
                self._found.calls[tool] = None
            else:
                self._say_unclear(call, "it does not say which tool is called: calls=(…)")

    def _handed_on(self, call: ast.Call, place: int | str) -> None:
        function, at = self._value(call.func), place
        match call.func:
            case ast.Attribute(value=ast.Name(id=owner), attr="step") if owner == self._name and isinstance(place, int):
                function, at = self._value(call.args[1]), place - 2  # step("name", function, *arguments)
        if isinstance(function, types.FunctionType | types.MethodType):
            _follow(function, at, self._found)
        else:
            self._say_unclear(call, f"{self._name} is handed to {ast.unparse(call.func)}, which cannot be followed")

    def _value(self, node: ast.expr) -> object:
        """What a name or ``module.name`` stands for in the function's module and closure."""
        match node:
            case ast.Name(id=name) if name not in self._assigned and name not in self._parameters:
                return self._known.get(name, _UNKNOWN)
            case ast.Attribute(value=owner, attr=name):
                value = self._value(owner)
                return _UNKNOWN if value is _UNKNOWN else getattr(value, name, _UNKNOWN)
        return _UNKNOWN

    def _say_unclear(self, node: ast.expr, why: str) -> None:
        self._found.unclear.append(f"{self._file}:{node.lineno}: {ast.unparse(node):.80}: {why}")


def _names_known_to(function: Callable[..., Any]) -> dict[str, object]:
    closure = inspect.getclosurevars(function)
    return {**vars(builtins), **getattr(function, "__globals__", {}), **closure.nonlocals}


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _assignments_in(node: ast.AST) -> dict[str, list[ast.expr | None]]:
    """What each local name is set to, wherever in the function; None for what is no plain assignment."""
    found: dict[str, list[ast.expr | None]] = {}
    for inner in ast.walk(node):
        match inner:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.setdefault(name, []).append(value)
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                found.setdefault(name, []).append(value)
    plain = {id(target) for inner in ast.walk(node) for target in _plain_targets(inner)}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store) and id(inner) not in plain:
            found.setdefault(inner.id, []).append(None)
    return found


def _plain_targets(node: ast.AST) -> list[ast.expr]:
    match node:
        case ast.Assign(targets=[ast.Name() as target]):
            return [target]
        case ast.AnnAssign(target=target) | ast.NamedExpr(target=target):
            return [target]
    return []


def _message_class(value: object) -> type[Message] | None:
    return value if isinstance(value, type) and issubclass(value, Message) and value is not Message else None


def _returned(function: object) -> list[type[Message] | None]:
    """The message classes that a function says it returns."""
    if not isinstance(function, types.FunctionType):
        return [None]
    return _classes_in(_hints_of(inspect.unwrap(function)).get("return"))


def _classes_in(hint: object) -> list[type[Message] | None]:
    several = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if several else (hint,)
    return [_message_class(member) for member in members]
