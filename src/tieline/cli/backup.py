"""``tieline backup`` and ``tieline restore``: an account's streams into a folder, and back with a look at the sum."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars
from rich.text import Text

from tieline.cli.options import JsonOption, PodArgument, ServerOption, connected, settings_of, urls_of
from tieline.cli.printing import console, print_json, size, table
from tieline.cli.sum_table import sum_table
from tieline.errors import BadSettings
from tieline.messages import seconds
from tieline.pod import Pod
from tieline.runtime.bus import connect
from tieline.services.accountant import take_settled
from tieline.services.backups.manifest import Manifest
from tieline.services.backups.restoring import Restored, Source, opened, standing
from tieline.services.backups.restoring import restore as put_back
from tieline.services.backups.taking import Progress, Wanted, take
from tieline.services.ledger import Row
from tieline.services.reference import load_pod
from tieline.wire.topology import stream_infos

__all__ = ["backup", "restore"]

_FAILED = 1
_DIFFERS = 3

StreamsOption = Annotated[
    list[str] | None,
    typer.Option("--streams", metavar="NAME", help="Only these; repeat it, or separate several by commas."),
]


@dataclass(frozen=True, slots=True)
class _Result:
    """What a restore came to. ``rows`` are the pod's sum; None where it could not be asked for."""

    streams: Sequence[Restored]
    rows: Sequence[Row] | None

    @property
    def wrong(self) -> list[str]:
        """What is not as it was. A message that ended after its stream was saved comes again: that is not wrong."""
        found = [f"{one.stream}: {what}" for one in self.streams for what in one.wrong]
        return found + [f"the sum of {row.stream} {row.agent}" for row in self.rows or () if not _explained(row)]

    @property
    def again(self) -> int:
        """How many messages the server delivers again although they came to an end before the loss."""
        return sum(max(0, (row.at_server or 0) - row.owed) for row in self.rows or () if _explained(row))


def backup(
    pod: PodArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder that is not there yet.")],
    streams: StreamsOption = None,
    settle: Annotated[str, typer.Option(metavar="TIME", help="How long handlers may take to end: 10s, 2m.")] = "10s",
    live: Annotated[
        bool, typer.Option("--live", help="Do not pause the agents: what that risks is in the docs.")
    ] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Save streams, with their configuration, messages and consumers: all of the account, unless told which.

    The agents are paused by the server while it runs, and go on afterwards by themselves; publishers are not. Exit 1
    when it could not be taken whole; then there is no folder.
    """
    wanted = Wanted(pod=load_pod(pod), streams=urls_of(streams), settle=None if live else seconds(settle))

    async def save() -> Manifest:
        async with connected(server) as connection:
            with _following("saving") as progress:
                return await take(connection, wanted, to, progress)

    manifest = asyncio.run(save())
    if json:
        print_json(
            {"folder": str(to), **manifest.model_dump(mode="json", exclude={"streams": {"__all__": {"config"}}})}
        )
    else:
        console().print(_saved(to, manifest))
    return 0


def restore(
    source: Annotated[Path, typer.Option("--from", metavar="DIR", help="What `tieline backup` made.")],
    pod: Annotated[
        str | None, typer.Argument(metavar="[POD]", help="Whose replicas to use, and whose sum to look at afterwards.")
    ] = None,
    streams: StreamsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Delete streams that exist first, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Put a backup back, compare what is there now with what was saved, and print the pod's sum. Stop the pod first.

    Exit 0 where all is as it was; 3 where something differs; 1 when it could not be done, or a stream exists already.
    """
    declared = None if pod is None else load_pod(pod)
    result = asyncio.run(_restore(opened(source, urls_of(streams)), declared, server, (force, yes)))
    if result is None:
        print("nothing was changed")
        return _FAILED
    if json:
        rows = None if result.rows is None else [asdict(row) | {"holds": row.holds} for row in result.rows]
        print_json({"streams": [asdict(one) for one in result.streams], "wrong": result.wrong, "rows": rows})
    else:
        console().print(_restored(result))
    return _DIFFERS if result.wrong else 0


async def _restore(
    source: Source, pod: Pod | None, server: list[str] | None, options: tuple[bool, bool]
) -> _Result | None:
    force, yes = options
    async with connected(server) as connection:
        there = await standing(connection, source) if force and not yes else []
        if there and not _agreed(there):
            return None
        with _following("restoring") as progress:
            streams = await put_back(connection, source, progress, pod=pod, force=force)
        whole = pod is not None and set(pod.streams) <= set(await stream_infos(connection))
    if pod is None or not whole:
        return _Result(streams, None)
    async with connect(pod, settings=replace(settings_of(server), audit=False)) as bus:
        return _Result(streams, await take_settled(bus))


def _agreed(there: Sequence[str]) -> bool:
    if not sys.stdin.isatty():
        raise BadSettings(f"--force would delete {', '.join(there)}; say --yes where nobody can be asked")
    return typer.confirm(f"Delete {', '.join(there)} with all messages, and restore?")


def _explained(row: Row) -> bool:
    """Whether it holds, or only what the server delivers again keeps it from it."""
    comes_again = row.at_server is not None and row.difference == row.at_server - row.owed - row.unacked
    return row.holds or (comes_again and row.unaccounted == 0)


def _saved(to: Path, manifest: Manifest) -> Group:
    rows = [
        (
            one.name,
            f"{one.messages:,}",
            size(one.bytes),
            size(one.size),
            len(one.consumers),
            one.first_seq,
            one.last_seq,
        )
        for one in manifest.streams
    ]
    columns = ("stream", ">messages", ">bytes", ">snapshot", ">consumers", ">first", ">last")
    parts: list[Any] = [table(f"backup of {manifest.pod} {manifest.version} in {to}", columns, rows)]
    if not manifest.paused:
        parts.append(
            Text("taken while the agents worked: what they did meanwhile may be done again, or miss", "yellow")
        )
    elif manifest.running:
        parts.append(
            Text(f"{manifest.running} deliveries did not end in time, and come again if they have not", "yellow")
        )
    return Group(*parts)


def _restored(result: _Result) -> Group:
    rows = [
        (
            one.stream,
            f"{one.saved:,}",
            f"{one.messages:,}",
            f"{one.expired:,}",
            one.last_seq,
            one.consumers,
            one.replicas,
            Text("; ".join(one.wrong), "red") if one.wrong else Text("✓", "green"),
        )
        for one in result.streams
    ]
    columns = ("stream", ">saved", ">messages", ">expired", ">last", ">consumers", ">replicas", "")
    parts: list[Any] = [table("restored", columns, rows)]
    if result.rows is not None:
        parts += [Text(), sum_table(result.rows)]
    if result.again:
        parts.append(Text(f"{result.again:,} that ended while the backup was taken come again, and find their journal"))
    parts += [Text(f"differs: {what}", "red") for what in result.wrong]
    return Group(*parts)


@contextmanager
def _following(what: str) -> Iterator[Progress]:
    """A bar for each stream on a terminal's stderr; nothing where nobody looks."""
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        tasks = {}

        def progress(stream: str, done: int, total: int) -> None:
            if stream not in tasks:
                tasks[stream] = bars.add_task(f"{what} {stream}", total=total)
            bars.update(tasks[stream], completed=done, total=total)

        yield progress
