"""`Message`: a typed payload bound to a subject."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from tieline import subjects
from tieline.errors import BadDeclaration

__all__ = ["Binding", "Expiry", "Message", "binding_of", "seconds"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)\Z")
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(duration: str | float) -> float:
    """A duration in seconds: a number as it is, or text such as ``"5m"``, ``"90s"``, ``"1.5h"``, ``"250ms"``."""
    if isinstance(duration, str):
        match = _DURATION.match(duration)
        if match is None:
            raise BadDeclaration(f"duration {duration!r} is not understood; write it like '5m', '90s', '1h', '250ms'")
        return float(match[1]) * _UNIT[match[2]]
    return float(duration)


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
        redact: tuple[str, ...] = (),
        on_expired: "type[Expiry] | None" = None,
        **config: Any,
    ) -> None:
        super().__init_subclass__(**config)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        subject: str | None = None,
        ttl: str | float | None = None,
        redact: tuple[str, ...] = (),
        on_expired: "type[Expiry] | None" = None,
        **config: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**config)
        if subject is None:
            return
        subjects.check_template(subject)
        fields = subjects.placeholders(subject)
        for name in (*fields, *redact):
            if name not in cls.model_fields:
                raise BadDeclaration(f"message {cls.__name__}: {name!r} is not a field of it")
        lasts = None if ttl is None else seconds(ttl)
        if lasts is not None and lasts < 1:
            raise BadDeclaration(f"message {cls.__name__}: ttl {ttl!r} is under one second, the least NATS keeps")
        if on_expired is not None:
            if lasts is None:
                raise BadDeclaration(f"message {cls.__name__}: on_expired, and it never expires; give it a ttl")
            _check_expiry(cls, on_expired)
        cls.tieline_binding = Binding(
            subject, subjects.as_filter(subject), fields, lasts, frozenset(redact), on_expired
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
