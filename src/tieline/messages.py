"""`Message`: a typed payload bound to a subject."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tieline import subjects
from tieline.declared.arguments import instance, instances, nearest, positive, seconds, texts
from tieline.errors import BadDeclaration

__all__ = [
    "Binding",
    "Expiry",
    "Message",
    "accepted_names",
    "binding_of",
    "differing_fields",
    "message_classes",
    "seconds",
]


@dataclass(frozen=True, slots=True)
class Binding:
    """What a message class is on the bus. Made once, when the class is."""

    template: str
    filter: str
    fields: tuple[str, ...]
    ttl: float | None
    redact: frozenset[str]
    on_expired: "type[Expiry] | None"


class Message(BaseModel):
    """A typed payload bound to a subject; camelCase on the wire, snake_case in Python, frozen.

    ``class BookViewing(Message, subject="call.intent.book", ttl="5m")``. A ``{field}`` in the subject stands for that
    field's value, made into one token. ``ttl`` is how long the message is worth delivering (at least one second;
    the server removes it then: NATS per-message TTL, ADR-43), and ``on_expired`` the `Expiry` to publish when that
    happened before an agent handled it. Fields named in ``redact`` never reach the audit or a log. A field ``call_id``
    names the conversation. Fields that the model does not know are ignored, so that two versions of a pod can talk to
    each other.

    Raises `BadDeclaration` when the class is made, never when a message is sent.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        frozen=True,
        extra="ignore",
    )

    tieline_binding: ClassVar[Binding | None] = None

    def __init_subclass__(
        cls,
        subject: str | None = None,
        ttl: str | float | None = None,
        redact: str | tuple[str, ...] = (),
        on_expired: "type[Expiry] | None" = None,
        **config: Any,
    ) -> None:
        strange = [name for name in config if name not in ConfigDict.__annotations__]
        if strange:
            own = ("subject", "ttl", "redact", "on_expired")
            raise BadDeclaration(
                f"message {cls.__name__}: {', '.join(map(repr, strange))} is not an argument of a message class; its "
                f"arguments are {', '.join(own)}{nearest(strange[0], own)}"
            )
        super().__init_subclass__()  # pydantic took its own configuration from the arguments already

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        subject: str | None = None,
        ttl: str | float | None = None,
        redact: str | tuple[str, ...] = (),
        on_expired: "type[Expiry] | None" = None,
        **config: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**config)
        own = f"message {cls.__name__}"
        hidden = texts(f"{own}: redact", redact)
        lasts = None if ttl is None else positive(f"{own}: ttl", ttl)
        if subject is None:
            if hidden or ttl is not None or on_expired is not None:
                raise BadDeclaration(f"{own}: ttl, redact and on_expired have no effect without subject=; give it one")
            return
        subjects.check_template(instance(f"{own}: subject", subject, str, "a text"))
        fields = subjects.placeholders(subject)
        for name in (*fields, *hidden):
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields)
                raise BadDeclaration(f"{own}: {name!r} is not a field of it; it has {known}")
        if lasts is not None and lasts < 1:
            raise BadDeclaration(f"message {cls.__name__}: ttl {ttl!r} is under one second, the least NATS keeps")
        if on_expired is not None:
            if lasts is None:
                raise BadDeclaration(f"message {cls.__name__}: on_expired, and it never expires; give it a ttl")
            _check_expiry(cls, on_expired)
        cls.tieline_binding = Binding(
            subject, subjects.as_filter(subject), fields, lasts, frozenset(hidden), on_expired
        )


class Expiry(Message):
    """Says that a message expired: its TTL ended and ``agent`` had not handled it. Subclass it with a subject.

    ``class BookingLate(Expiry, subject="call.intent.booking-late")``, and ``on_expired=BookingLate`` on the message
    whose expiry matters. The accountant (the process ``audit``) publishes it, once for each message and agent, in the
    conversation of what expired: at once where the agent never got it, else when no run of it can still be under way.
    ``expired`` is when the TTL ended (UTC). The message itself is gone; ``shown`` is what the audit has of its payload,
    redacted: nothing where another client published it.
    """

    call_id: str
    subject: str
    stream: str
    seq: int
    agent: str
    expired: datetime
    shown: dict[str, Any] = Field(default_factory=dict)


def _check_expiry(model: type[Message], notice: object) -> None:
    if not (isinstance(notice, type) and issubclass(notice, Expiry)):
        raise BadDeclaration(f"message {model.__name__}: on_expired={notice!r} is no Expiry; subclass tieline.Expiry")
    binding_of(notice)
    own = [
        name for name, field in notice.model_fields.items() if field.is_required() and name not in Expiry.model_fields
    ]
    if own:
        raise BadDeclaration(
            f"message {model.__name__}: on_expired={notice.__name__} wants {', '.join(own)}, which nobody can know "
            "of a message that is gone; give it a default"
        )


def binding_of(model: type[Message]) -> Binding:
    """The subject, TTL and redaction of a message class. `BadDeclaration` when it has no subject."""
    if model.tieline_binding is None:
        name = model.__name__
        raise BadDeclaration(f"message {name} has no subject; write class {name}(Message, subject='call.intent.…')")
    return model.tieline_binding


def accepted_names(model: type[Message]) -> frozenset[str]:
    """Every name under which a field of the message is read from a payload: its own, and each of its aliases."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias, field.alias]
        names |= {str(choice.path[0]) if isinstance(choice, AliasPath) else choice for choice in choices if choice}
    return frozenset(names)


def message_classes(what: str, value: object) -> tuple[type[Message], ...]:
    """``value`` as a tuple of message classes; one class alone counts as a tuple of one."""
    models = instances(what, value, type, "a Message class")
    for model in models:
        if not issubclass(model, Message):
            raise BadDeclaration(f"{what} must be a Message class or a tuple of them, not {model!r}")
    return models


def differing_fields(one: type[Message], other: type[Message]) -> list[str]:
    """The fields, as they are named on the wire, in which the JSON Schemas of two message classes differ."""
    ones, others = _described(one), _described(other)
    return sorted(name for name in ones.keys() | others.keys() if ones.get(name) != others.get(name))


def _described(model: type[Message]) -> dict[str, object]:
    """Each field's schema with what it refers to, and whether it is required; titles and descriptions left out."""
    schema = model.model_json_schema(by_alias=True)
    required = schema.get("required", [])
    shapes = schema.get("$defs", {})

    def plain(node: object, within: tuple[str, ...]) -> object:
        if isinstance(node, list):
            return [plain(each, within) for each in node]
        if not isinstance(node, dict):
            return node
        reference = str(node.get("$ref", "")).rpartition("/")[2]
        if reference and reference not in within:
            return plain(shapes.get(reference), (*within, reference))
        return {
            key: plain(value, within)
            for key, value in node.items()
            if not (isinstance(value, str) and key in ("title", "description"))
        }

    return {name: (plain(field, ()), name in required) for name, field in schema.get("properties", {}).items()}
