"""Bytes to messages and back: the one place that encodes and decodes payloads."""

import hashlib
import json
from base64 import urlsafe_b64encode
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from tieline import subjects
from tieline.errors import BadPayload
from tieline.messages import Message, binding_of

__all__ = [
    "conversation_in",
    "conversation_of",
    "decode",
    "digest",
    "encode",
    "explain",
    "fingerprint",
    "redacted",
    "subject_of",
    "to_json",
    "validated",
]


_QUOTING = frozenset({"value_error", "assertion_error", "union_tag_invalid"})  # kinds whose words may hold the value


def encode(message: Message) -> bytes:
    """The JSON that goes on the wire, camelCase."""
    return message.__pydantic_serializer__.to_json(message, by_alias=True)


def decode[M: Message](model: type[M], payload: bytes) -> M:
    """The message in ``payload``. `BadPayload` names every field that does not fit, never its value."""
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise BadPayload(f"{model.__name__}: {explain(error)}") from None


def validated[T](adapter: TypeAdapter[T], value: object, what: str) -> T:
    """``value`` as the adapter's type. `BadPayload` says what did not fit, never the value."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise BadPayload(f"{what}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """What did not fit, field by field, without any value: it may be somebody's phone number.

    So of where it lies only the outermost field and places in lists are told (a deeper name may be a key of the
    caller's), and a validator's own words are not (it may quote).
    """
    return "; ".join(
        f"{_place(item['loc'])}: " + (item["type"].replace("_", " ") if item["type"] in _QUOTING else item["msg"])
        for item in error.errors(include_input=False, include_url=False, include_context=False)
    )


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for at, part in enumerate(location) if at == 0 or isinstance(part, int)) or "payload"


def subject_of(message: Message) -> str:
    """The subject this message is published to."""
    binding = binding_of(type(message))
    if not binding.fields:
        return binding.template
    return subjects.fill(binding.template, {name: str(getattr(message, name)) for name in binding.fields})


def conversation_of(message: Message) -> str | None:
    """The conversation a message names itself, by its field ``call_id``; None where it has none."""
    named = getattr(message, "call_id", None)
    return named if isinstance(named, str) and named else None


def conversation_in(payload: bytes) -> str | None:
    """The conversation in the ``callId`` of any JSON payload, for messages that bring no header."""
    try:
        named = json.loads(payload).get("callId")
    except (ValueError, AttributeError, RecursionError):
        return None
    return named if isinstance(named, str) and named else None


def redacted(message: Message) -> dict[str, Any]:
    """The payload as facts may show it: fields declared in ``redact`` read ``"(redacted)"``."""
    shown = message.model_dump(mode="json")
    for name in binding_of(type(message)).redact:
        declared = type(message).model_fields[name]
        shown[declared.serialization_alias or declared.alias or name] = "(redacted)"
    return shown


def to_json(value: object) -> bytes:
    """Compact JSON of plain data."""
    return pydantic_core.to_json(value)


def fingerprint(value: object) -> str:
    """A short stable name for data: equal data, equal name in every process, whatever the order of keys."""
    try:
        return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain))
    except (TypeError, ValueError, RecursionError):
        return digest(type(value).__qualname__)  # keys that have no order, or a circle: nothing to compare


def _plain(value: object) -> object:
    """What a value that JSON does not know is compared by: never an address, nor an order that changes."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    try:
        return pydantic_core.to_jsonable_python(value)
    except (ValueError, TypeError, RecursionError):
        return type(value).__qualname__


def digest(*parts: str) -> str:
    """A short stable name for a tuple of texts: 22 characters of base64url (128 bits)."""
    joined = "\x00".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(hashlib.blake2b(joined, digest_size=16).digest()).decode().rstrip("=")
