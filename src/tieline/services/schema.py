"""Checks whether a value fits a JSON Schema as pydantic writes them.

Keywords that are not known here are ignored: the handler that asked validates the answer by its type anyway.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

from tieline.errors import BadPayload

__all__ = ["described", "fitting", "misfit"]

type Schema = Mapping[str, Any]
type Check = Callable[[Any, Any], bool]

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
_RULES: tuple[tuple[str, type | tuple[type, ...], Check, str], ...] = (
    ("minimum", (int, float), lambda value, bound: value >= bound, "it is less than"),
    ("maximum", (int, float), lambda value, bound: value <= bound, "it is more than"),
    ("exclusiveMinimum", (int, float), lambda value, bound: value > bound, "it is not more than"),
    ("exclusiveMaximum", (int, float), lambda value, bound: value < bound, "it is not less than"),
    ("minLength", str, lambda value, bound: len(value) >= bound, "its length is less than"),
    ("maxLength", str, lambda value, bound: len(value) <= bound, "its length is more than"),
    ("pattern", str, lambda value, pattern: _matches(pattern, value), "it does not match"),
    ("minItems", list, lambda value, bound: len(value) >= bound, "it has fewer items than"),
    ("maxItems", list, lambda value, bound: len(value) <= bound, "it has more items than"),
    ("enum", object, lambda value, options: value in options, "it is not one of"),
    ("const", object, lambda value, only: value == only, "it is not"),
)
_FORMATS: Mapping[str, Callable[[str], object]] = {
    "date-time": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
}


def fitting(text: str, schema: Schema) -> Any:
    """The value that ``text`` stands for: JSON where the schema takes that, else text. `BadPayload` says why not."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if misfit(text, schema) is None and (isinstance(value, str) or misfit(value, schema) is not None):
        return text
    if (why := misfit(value, schema)) is not None:
        raise BadPayload(f"invalid answer {text!r}: {why}, expected {described(schema)}")
    return value


def misfit(value: Any, schema: Schema) -> str | None:
    """The first reason why ``value`` does not fit; None if it fits."""
    return next(_misfits(value, schema, schema.get("$defs", {}), "it"), None)


def described(schema: Schema) -> str:
    """What the schema accepts, in words for a person."""
    return _described(schema, schema.get("$defs", {}))


def _misfits(value: Any, schema: Schema, defs: Mapping[str, Schema], where: str) -> Iterator[str]:
    schema = _resolved(schema, defs)
    kinds = schema.get("type")
    if isinstance(kinds, str) and not _TYPES.get(kinds, lambda _: True)(value):
        yield f"{where} is not {'an' if kinds[0] in 'aeio' else 'a'} {kinds}"
        return
    for name in ("anyOf", "oneOf"):
        choices = schema.get(name)
        if choices and all(next(_misfits(value, choice, defs, where), None) for choice in choices):
            yield f"{where} is none of {_described(schema, defs)}"
    for part in schema.get("allOf", ()):
        yield from _misfits(value, part, defs, where)
    for name, kind, holds, words in _RULES:
        if name in schema and isinstance(value, kind) and not holds(value, schema[name]):
            yield f"{words.replace('it', where, 1)} {json.dumps(schema[name], ensure_ascii=False)}"
    yield from _bad_format(value, schema, where)
    yield from _bad_parts(value, schema, defs)


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:  # pydantic's patterns are Rust's, and may say what Python's cannot
        return True


def _bad_format(value: Any, schema: Schema, where: str) -> Iterator[str]:
    parse = _FORMATS.get(str(schema.get("format")))
    if parse is not None and isinstance(value, str):
        try:
            parse(value)
        except ValueError:
            yield f"{where} is not a {schema['format']} in ISO 8601"


def _bad_parts(value: Any, schema: Schema, defs: Mapping[str, Schema]) -> Iterator[str]:
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value, 1):
            yield from _misfits(item, schema["items"], defs, f"item {number}")
    if not isinstance(value, dict):
        return
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{name} is missing"
    further = schema.get("additionalProperties", True)
    for name, inner in value.items():
        if name in properties:
            yield from _misfits(inner, properties[name], defs, name)
        elif isinstance(further, dict):
            yield from _misfits(inner, further, defs, name)
        elif further is False:
            yield f"there is no {name}"


def _resolved(schema: Schema, defs: Mapping[str, Schema]) -> Schema:
    """The schema that a ``$ref`` names, with what stands beside it; one that names nothing here asks for nothing."""
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    beside = {name: value for name, value in schema.items() if name != "$ref"}
    return {**defs.get(reference.rpartition("/")[2], {}), **beside}


def _described(schema: Schema, defs: Mapping[str, Schema]) -> str:
    schema = _resolved(schema, defs)
    if "enum" in schema:
        return " or ".join(json.dumps(option, ensure_ascii=False) for option in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return " or ".join(_described(choice, defs) for choice in schema[name])
    match schema.get("type"):
        case "boolean":
            return "true or false"
        case "string":
            return str(schema.get("format", "text"))
        case "object":
            fields = ", ".join(f'"{name}": …' for name in schema.get("properties", {}))
            return f"JSON {{{fields}}}"
        case "array":
            return f"JSON [{_described(schema.get('items', {}), defs)}, …]"
        case str(kind):
            return {"null": "null", "integer": "a whole number", "number": "a number"}.get(kind, kind)
    return "anything"
