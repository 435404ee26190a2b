"""`Expected`: how much work a pod is to have room for, in words that its owner can fill in."""

from dataclasses import dataclass, fields

from tieline.declared.load import Load, flows
from tieline.errors import BadDeclaration

__all__ = ["Expected", "expected_bytes", "journal_age"]

_DAY = 86_400.0
_INTENTS = "CALL_INTENT"
_MIB = 1024 * 1024
_HEADROOM = 1.5  # for days that are busier than others, and for what is counted only roughly
_STATE = 1_024  # bytes of a conversation's state
_SCHEDULED = 400  # bytes of a schedule beside its payload
_ENDED_DAYS = 2.0  # that the journal of an ended conversation is kept: the default of a day, and the next sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a pod is to have room for, on an ordinary day: `Pod(expects=Expected(conversations_per_day=40_000))`.

    ``messages`` are those of one conversation, everything that agents send each other included. ``tool_calls`` and
    ``steps`` are those of one message. ``message_bytes`` and ``result_bytes`` are of a payload and of a tool's result.
    ``open`` is the share of conversations that wait for people or times for days, or end with a dead letter: their
    journal is kept for as long as that can take. Guess high: sizes are limits, and no disk is used before it is
    needed.
    """

    conversations_per_day: float = 20_000
    messages: float = 5.0
    tool_calls: float = 1.0
    steps: float = 1.0
    message_bytes: int = 512
    result_bytes: int = 256
    open: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value: object = getattr(self, field.name)
            most = 1 if field.name == "open" else 1e12
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise BadDeclaration(f"expects: {field.name} must be a number from 0 to {most:g}, not {value!r}")

    @property
    def load(self) -> Load:
        """The same, as rates."""
        return Load(
            rates={_INTENTS: self.conversations_per_day * self.messages / _DAY},
            size=int(self.message_bytes),
            tools=self.tool_calls,
            steps=self.steps,
            answer=int(self.result_bytes),
            dead=self.open / self.messages if self.messages else 0.0,
            conversation=max(self.messages, 0.01),
        )


def expected_bytes(expected: Expected, ages: dict[str, float]) -> dict[str, int]:
    """How many bytes each stream of ``ages`` (its messages' longest age in seconds, by name) has to have room for.

    A stream that is nobody's in particular is taken to carry all the messages.
    """
    load = expected.load
    per_second = {name: flow.per_second * flow.each for name, flow in flows(load).items()}
    conversations = expected.conversations_per_day / _DAY
    per_second["STATE"] = conversations * _STATE
    others = dict.fromkeys(ages.keys() - per_second.keys() - _SMALL, per_second[_INTENTS])
    found = {name: rate * ages[name] for name, rate in (per_second | others).items() if name in ages}
    if "STEP" in ages:
        found["STEP"] = per_second["STEP"] * journal_age(ages["STEP"], expected.open)
    if "SCHEDULE" in ages:
        waiting = conversations * expected.open * ages["SCHEDULE"]
        found["SCHEDULE"] = waiting * (load.size + _SCHEDULED)
    return {name: int(size * _HEADROOM / _MIB + 1) * _MIB for name, size in found.items()}


def journal_age(longest: float, open_share: float = 0.1) -> float:
    """How long a record of the journal is kept on average, in seconds: those of ended conversations are removed."""
    return min(longest, _ENDED_DAYS * _DAY) * (1 - open_share) + longest * open_share


_SMALL = {"CANCELLED", "KEYS", "RATE", "ADVISORY", "OBJ_TIELINE", "SCHEDULE", "ACCOUNTING"}
