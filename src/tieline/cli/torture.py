"""``tieline torture``: faults under load, and what must hold all the same."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tieline.cli.options import JsonOption
from tieline.cli.printing import console, print_json, table
from tieline.cli.sum_table import sum_table
from tieline.testing.torture import Fault, Verdict, chosen, tortured

__all__ = ["torture"]

_BROKEN = 3
_COULD_NOT = 1


def torture(
    faults: Annotated[
        list[str] | None, typer.Argument(metavar="[FAULT]...", help="Names or numbers; all unless given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of what is random in the load; printed.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often, each round with the next seed.")] = 1,
    listing: Annotated[bool, typer.Option("--list", help="List the faults, and end.")] = False,
    json: JsonOption = False,
) -> int:
    """Break servers, processes and data under a pod at work, and check that nothing is lost, repeated or untold.

    Everything is started here, on free ports of 127.0.0.1, in temporary folders. Takes 10 to 60 seconds a fault. Exit 3
    where something broke, with the evidence; 1 where nothing could be run; a skipped fault is no failure, and says why.
    """
    picked = chosen(faults or ())
    if listing:
        _list(picked, as_json=json)
        return 0
    first = seed if seed is not None else int.from_bytes(os.urandom(3))
    verdicts: list[Verdict] = []
    for turn in range(rounds):
        verdicts += asyncio.run(_tortured(picked, first + turn, quiet=json))
    if json:
        print_json({"seed": first, "faults": [_told(verdict) for verdict in verdicts]})
    else:
        _show(verdicts, first)
    if any(verdict.evidence for verdict in verdicts):
        return _BROKEN
    return 0 if any(verdict.held for verdict in verdicts) else _COULD_NOT


async def _tortured(faults: Sequence[Fault], seed: int, *, quiet: bool) -> list[Verdict]:
    verdicts = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(), transient=True, disable=quiet) as progress:
        for fault in faults:
            task = progress.add_task(f"{fault.number:2} {fault.name}", total=1.0)
            verdict = await tortured(fault, seed, lambda done: progress.update(task, completed=done))  # noqa: B023
            progress.remove_task(task)
            if not quiet:
                console().print(_line(verdict))
            verdicts.append(verdict)
    return verdicts


def _line(verdict: Verdict) -> str:
    fault, record = verdict.fault, verdict.record
    head = f"{fault.number:2} {fault.name:22}"
    if verdict.skipped:
        return f"[dim]{head} skipped: {verdict.skipped}[/dim]"
    colour, word = ("green", "held") if verdict.held else ("red", "BROKEN")
    pause = "-" if record.recovery is None else f"{record.recovery:.1f} s"
    pauses = f"paused {pause} handling, {record.longest_gap:.1f} s publishing"
    took = f"{record.unacked} publishes not acknowledged; {verdict.took:.0f} s"
    line = f"{head} [{colour}]{word}[/{colour}]  {pauses}; {record.outcomes()}; {took}"
    return "\n".join([line, *(escape(f"   {one}") for one in (*verdict.evidence[:10], *verdict.testimony))])


def _show(verdicts: Sequence[Verdict], seed: int) -> None:
    run = [verdict for verdict in verdicts if not verdict.skipped]
    if run:
        console().print(sum_table(run[-1].record.rows))
    held, skipped = sum(verdict.held for verdict in verdicts), len(verdicts) - len(run)
    console().print(f"{held} held, {len(run) - held} broken, {skipped} skipped; seed {seed}")


def _told(verdict: Verdict) -> dict[str, Any]:
    record = verdict.record
    return {
        "number": verdict.fault.number,
        "name": verdict.fault.name,
        "held": verdict.held,
        "skipped": verdict.skipped or None,
        "evidence": list(verdict.evidence),
        "testimony": list(verdict.testimony),
        "longestPause": record.recovery,
        "longestPublishGap": record.longest_gap,
        "acknowledged": len(record.acked),
        "unacknowledged": record.unacked,
        **{name: count for name, count in asdict(record.outcomes()).items() if name != "acknowledged"},
        "effects": len(record.effects),
        "runs": record.runs,
        "sum": [asdict(row) | {"holds": row.holds} for row in record.rows],
        "seconds": round(verdict.took, 1),
    }


def _list(faults: Sequence[Fault], *, as_json: bool) -> None:
    if as_json:
        print_json([{"number": f.number, "name": f.name, "breaks": f.breaks, "skipped": _why(f)} for f in faults])
        return
    rows = [(f.number, f.name, f.breaks, f.servers if f.strike is not None else "", _why(f) or "") for f in faults]
    console().print(table("Faults", (">", "fault", "breaks", ">servers", "skipped here"), rows))


def _why(fault: Fault) -> str | None:
    return fault.why_not()
