"""What disk, memory and nodes a pod needs, from how much it does. Pure arithmetic on measured constants.

The constants were measured on nats-server 2.15.1 with Tieline's own headers; `tests/live/test_size.py` holds the
prediction against a real server. They are for planning: a quarter off is right, a factor of two is not.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from tieline.declared.expected import expected_bytes, journal_age
from tieline.declared.load import Flow, Load, flows
from tieline.pod import Pod
from tieline.stream import Stream
from tieline.wire.topology import consumers_of

__all__ = ["BUDGET", "BudgetRow", "Load", "Need", "Sizing", "budget", "disk_for", "remedies", "sized"]

# Bytes of the server's resident memory.
_SERVER = 64 * 1024 * 1024  # running, with the blocks that it is writing
_PER_SUBJECT = 320  # a subject of 60 characters in a stream's index
_PER_ID = 200  # a message id inside the duplicate window
_PER_CONSUMER = 52 * 1024
_PER_CONNECTION = 52 * 1024

_CPU = 110e-6  # seconds of a core for a message stored, delivered and acknowledged, with sync always
_HEADROOM = 1.25  # of the disk: blocks are removed whole, and a restore needs room


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


def sized(pod: Pod, load: Load, replicas: int) -> Sizing:
    """What ``pod`` needs for ``load`` with so many copies of each stream."""
    found = flows(load)
    needs = tuple(_need(pod.streams[name], found[name], load) for name in pod.streams if name in found)
    writes = sum(flow.per_second for flow in found.values())
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


def _need(stream: Stream, flow: Flow, load: Load) -> Need:
    age = load.ages.get(stream.name, stream.max_age)
    if stream.write_once and age is not None and stream.name not in load.ages:
        age = journal_age(age)
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


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One thing that a pod stores. ``planned``: bytes that it is expected to take; ``bound``: bytes at most, None where
    the server does not limit it."""

    name: str
    what: str
    planned: int
    bound: int | None


def _stream_rows(pod: Pod) -> Iterator[BudgetRow]:
    month = 30 * 86_400.0
    planned = expected_bytes(pod.expects, {name: stream.max_age or month for name, stream in pod.streams.items()})
    for name, stream in pod.streams.items():
        size = planned.get(name, stream.max_bytes or 0)
        bound = stream.max_bytes
        yield BudgetRow(name, stream.description, size if bound is None else min(size, bound), bound)


BUDGET: tuple[Callable[[Pod], Iterator[BudgetRow]], ...] = (_stream_rows,)
"""Everything that stores something for a pod adds its rows here."""


def budget(pod: Pod) -> tuple[BudgetRow, ...]:
    """What a pod stores by its own ``expects``: one row for each thing."""
    return tuple(row for rows in BUDGET for row in rows(pod))


def disk_for(rows: Iterable[BudgetRow]) -> int:
    """The disk of each server that holds a copy: everything at its bound, and a quarter of it free."""
    return ceil(sum(row.planned if row.bound is None else row.bound for row in rows) * _HEADROOM)
