"""What a pod does each second, and what each message then takes on the disk. Pure arithmetic on measured constants.

The constants were measured on nats-server 2.15.1 with Tieline's headers; `tests/live/test_size.py` compares the
prediction with a real server. They are for planning: a quarter off is fine, a factor of two is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["LARGE", "Flow", "Load", "flows"]

LARGE = 512 * 1024
"""Bytes over which a payload travels in the object store, unless ``TIELINE_LARGE`` says otherwise."""

# Bytes on the disk beside the payload: 34 of the file store's record, the subject, the headers.
_MESSAGE = 144
_TOOL_CALL = 299
_STEP = 286
_TOOL_RESULT = 398
_PUBLISHED, _SETTLED, _STEPPED = 358, 378, 373  # facts
_DEAD = 1_600  # the headers keep cause, attempts and traceback
_REFERENCE = 200  # what travels in place of a payload that is in the object store


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a pod does. ``rates``: messages a second by stream. Of each message: ``size`` bytes of payload, how many
    ``tools`` are called and ``steps`` journaled, and the share that ends ``dead``. ``answer``: bytes of a tool's
    arguments, and of a result. ``conversation``: messages of one. ``ages``: seconds, in place of a stream's own."""

    rates: Mapping[str, float]
    size: int = 512
    tools: float = 1.0
    steps: float = 1.0
    answer: int = 128
    dead: float = 0.001
    conversation: float = 5.0
    ages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flow:
    """What one stream gets. ``each`` are bytes on the disk; ``shared`` messages have one subject (0: all of them)."""

    per_second: float
    each: float
    shared: float


def flows(load: Load) -> dict[str, Flow]:
    """What each stream gets, by name; streams that are not named get nothing."""
    total = sum(load.rates.values())
    light = load.size <= LARGE
    inline = load.size if light else _REFERENCE
    calls, journaled = total * load.tools, total * (load.tools + load.steps)
    facts = total * (_PUBLISHED + inline) + (total + calls) * _SETTLED + journaled * _STEPPED
    count = 2 * total + calls + journaled
    found = {name: Flow(rate, inline + _MESSAGE, 0) for name, rate in load.rates.items()}
    found["TOOL_CALL"] = Flow(calls, load.answer + _TOOL_CALL, 0)
    found["STEP"] = Flow(journaled, load.answer + _STEP, 1)
    found["TOOL_RESULT"] = Flow(calls, load.answer + _TOOL_RESULT, load.conversation * load.tools)
    found["CALL_AUDIT"] = Flow(
        count, facts / count if count else 0.0, load.conversation * count / total if total else 0
    )
    found["DLQ"] = Flow(total * load.dead, inline + _DEAD, 0)
    if not light:
        found["OBJ_TIELINE"] = Flow(total, load.size + _MESSAGE, 1)
    return found
