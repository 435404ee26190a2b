"""Fair comparison: one server for all, contenders in turns, medians, and ratios rather than figures.

A machine that is busy or slow moves every contender alike, so a ratio holds where a figure does not.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from tieline.server import EmbeddedServer, ServerConfig

__all__ = [
    "SYNCS",
    "Contender",
    "Options",
    "embedded_server",
    "lines",
    "median_of",
    "options",
    "print_json",
    "ratio_of",
    "show",
    "turns",
]

SYNCS = ("2m", "always")
"""When the server fsyncs: its own default first, then what Tieline ships."""


class DataclassInstance(Protocol):
    """A row of figures: any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    json: bool
    quick: bool


@dataclass(frozen=True, slots=True)
class Contender[S]:
    """One row of a table. ``run`` does one round and says what it measured."""

    name: str
    run: Callable[[], Awaitable[S]]


def options(description: str) -> Options:
    """The command line that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and messages: is it still about right?")
    given = parser.parse_args()
    return Options(given.json, given.quick)


@asynccontextmanager
async def embedded_server(sync: str) -> AsyncIterator[str]:
    """The URL of a fresh server on a free port, its data in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="tieline-bench-") as folder:
        async with EmbeddedServer(ServerConfig(data=Path(folder), sync=sync)) as server:
            yield server.url


async def turns[S](contenders: Sequence[Contender[S]], rounds: int) -> dict[str, list[S]]:
    """What each contender measured, by name: one round to warm up, then ``rounds`` that count, in shuffled order."""
    measured: dict[str, list[S]] = {contender.name: [] for contender in contenders}
    order = list(contenders)
    shuffled = random.Random(0)  # the same order in every run, so that runs can be compared
    for number in range(rounds + 1):
        shuffled.shuffle(order)
        for contender in order:
            sample = await contender.run()
            if number > 0:
                measured[contender.name].append(sample)
    return measured


def median_of[S](samples: Sequence[S], value: Callable[[S], float]) -> float:
    """The median over the rounds of one figure of theirs."""
    return statistics.median(value(sample) for sample in samples)


def ratio_of[S](samples: Sequence[S], others: Sequence[S], value: Callable[[S], float]) -> float:
    """The median of the ratios to another contender, round by round: what disturbed a round disturbed both."""
    return statistics.median(value(sample) / value(other) for sample, other in zip(samples, others, strict=True))


def lines(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    shown = [
        "  ".join(cell.ljust(widths[at]) if at == 0 else cell.rjust(widths[at]) for at, cell in enumerate(row)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([title, *shown, ""])


def print_json(value: object) -> None:
    """One JSON value on the standard output."""
    print(json.dumps(value, indent=2))


async def show[Row: DataclassInstance](
    about: str, compare: Callable[[str, bool], Awaitable[Sequence[Row]]], table: Callable[[Sequence[Row]], str]
) -> None:
    """Compare under each of `SYNCS` and print a table each, or JSON where the command line asks for it."""
    given = options(about)
    tables = [await compare(sync, given.quick) for sync in SYNCS]
    if given.json:
        print_json([asdict(row) for rows in tables for row in rows])
        return
    for rows in tables:
        print(table(rows))
    print("* on this machine, now")
