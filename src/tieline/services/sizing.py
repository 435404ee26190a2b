"""What disk, memory and nodes a pod needs, from how much it does. Pure arithmetic on measured constants.

The constants were measured on nats-server 2.15.1 with Tieline's own headers; `tests/live/test_size.py` holds the
prediction against a real server. They are for planning: a quarter off is right, a factor of two is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

from tieline.pod import Pod
from tieline.settings import Settings
from tieline.stream import Stream
from tieline.wire.topology import consumers_of

__all__ = ["Load", "Need", "Sizing", "remedies", "sized"]

# Bytes on the disk beside the payload: 34 of the file store's record, the subject, the headers.
_MESSAGE = 144
_TOOL_CALL = 299
_STEP = 286
_TOOL_RESULT = 398
_PUBLISHED, _SETTLED, _STEPPED = 358, 378, 373  # facts
_DEAD = 1_600  # the headers keep cause, attempts and traceback
_REFERENCE = 200  # what travels in place of a payload that is in the object store

# Bytes of the server's resident memory.
_SERVER = 64 * 1024 * 1024  # running, with the blocks that it is writing
_PER_SUBJECT = 320  # a subject of 60 characters in a stream's index
_PER_ID = 200  # a message id inside the duplicate window
_PER_CONSUMER = 52 * 1024
_PER_CONNECTION = 52 * 1024

_CPU = 110e-6  # seconds of a core for a message stored, delivered and acknowledged, with sync always
_HEADROOM = 1.25  # of the disk: blocks are removed whole, and a restore needs room


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
class Need:
    """One stream when it has reached its age. ``per_second`` are messages stored; ``wanted`` the bytes of all of them;
    ``bytes`` what ``max_bytes`` lets it hold. ``full_after`` seconds it refuses new messages; None: it never does."""

    stream: str
    per_second: float
    messages: int
    wanted: int
    bytes: int
    max_age: float | None
    max_bytes: int | None
    full_after: float | None
    subjects: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a pod needs: a node for each of the ``replicas``. ``disk`` and ``memory`` are bytes of each. ``writes`` are
    messages stored a second: with ``sync: always`` as many fsyncs at most. ``cores`` are busy where all lead."""

    needs: tuple[Need, ...]
    replicas: int
    disk: int
    memory: int
    writes: float
    cores: float


@dataclass(frozen=True, slots=True)
class _Flow:
    """What one stream gets. ``each`` are bytes on the disk; ``shared`` messages have one subject (0: all the same)."""

    per_second: float
    each: float
    shared: float


def sized(pod: Pod, load: Load, replicas: int) -> Sizing:
    """What ``pod`` needs for ``load`` with so many copies of each stream."""
    flows = _flows(load)
    needs = tuple(_need(pod.streams[name], flows[name], load) for name in pod.streams if name in flows)
    writes = sum(flow.per_second for flow in flows.values())
    processes = len(pod.agents) + 3  # tools, audit, metrics
    ids = sum(need.per_second * min(pod.streams[need.stream].duplicates, need.max_age or 1e9) for need in needs)
    memory = (
        _SERVER
        + sum(need.subjects for need in needs) * _PER_SUBJECT
        + ids * _PER_ID
        + len(consumers_of(pod)) * _PER_CONSUMER
        + processes * _PER_CONNECTION
    )
    disk = sum(need.bytes for need in needs) * _HEADROOM
    return Sizing(needs, replicas, ceil(disk), ceil(memory), writes, writes * _CPU)


def _flows(load: Load) -> dict[str, _Flow]:
    total = sum(load.rates.values())
    light = load.size <= Settings().large
    inline = load.size if light else _REFERENCE
    calls, journaled = total * load.tools, total * (load.tools + load.steps)
    facts = total * (_PUBLISHED + inline) + (total + calls) * _SETTLED + journaled * _STEPPED
    told = 2 * total + calls + journaled
    flows = {name: _Flow(rate, inline + _MESSAGE, 0) for name, rate in load.rates.items()}
    flows["TOOL_CALL"] = _Flow(calls, load.answer + _TOOL_CALL, 0)
    flows["STEP"] = _Flow(journaled, load.answer + _STEP, 1)
    flows["TOOL_RESULT"] = _Flow(calls, load.answer + _TOOL_RESULT, load.conversation * load.tools)
    flows["CALL_AUDIT"] = _Flow(told, facts / told if told else 0.0, load.conversation * told / total if total else 0)
    flows["DLQ"] = _Flow(total * load.dead, inline + _DEAD, 0)
    if not light:
        flows["OBJ_TIELINE"] = _Flow(total, load.size + _MESSAGE, 1)
    return flows


def _need(stream: Stream, flow: _Flow, load: Load) -> Need:
    age = load.ages.get(stream.name, stream.max_age)
    per_second = flow.per_second * flow.each
    messages = flow.per_second * age if age is not None else 0.0
    wanted = messages * flow.each
    room = stream.max_bytes
    full = room is not None and (wanted > room or (age is None and per_second > 0))
    held = room if full and room is not None else wanted
    return Need(
        stream=stream.name,
        per_second=flow.per_second,
        messages=round(messages),
        wanted=round(wanted),
        bytes=round(held),
        max_age=age,
        max_bytes=room,
        full_after=room / per_second if full and room is not None else None,
        subjects=ceil((held / flow.each if flow.each else 0) / flow.shared) if flow.shared else 0,
    )


def remedies(sizing: Sizing) -> Iterator[str]:
    """What to change before it runs, a line each."""
    for need in sizing.needs:
        if need.full_after is not None:
            yield (
                f"{need.stream} is full after {need.full_after / 3600:,.3g} h and refuses from then on: give it "
                f"max_bytes={ceil(need.wanted * _HEADROOM):,}, or a shorter age"
            )
