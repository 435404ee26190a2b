"""``tieline audit``: is what the servers hold what they should hold?"""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from tieline.cli.options import JsonOption
from tieline.cli.printing import console, print_json, table
from tieline.errors import BadSettings, Unreachable
from tieline.services.replicas import Copy, Damage, Examined, examined

__all__ = ["audit"]

_DAMAGED = 3

audit = typer.Typer(help="Check that what the servers hold is what they should hold.", no_args_is_help=True)


@audit.callback()
def _audit() -> None:
    """Check that what the servers hold is what they should hold."""


@audit.command()
def replicas(
    monitor: Annotated[
        list[str],
        typer.Option("--monitor", metavar="URL", help="Monitoring pages of a server; give those of each of them."),
    ],
    json: JsonOption = False,
) -> int:
    """Compare the copies of each stream, and say which server to wipe where one differs.

    Also finds servers that do not hear one another, though all of them answer. Changes nothing. Exit 0 where all is
    well, 3 where it is not, 1 where a server does not answer.
    """
    if len(monitor) < 2:
        raise BadSettings("copies are compared over servers; give --monitor URL for each of them")
    try:
        found = asyncio.run(examined(monitor))
    except OSError as error:
        raise Unreachable(
            f"a server's copies cannot be looked at: {error}; leave out the servers that are down"
        ) from error
    if json:
        damaged = [{**asdict(one), "remedy": one.remedy} for one in found.damages]
        parted = [{**asdict(one), "odd": one.odd, "remedy": one.remedy} for one in found.splits]
        print_json({"copies": len(found.copies), "damaged": damaged, "split": parted})
    else:
        _show(found)
    return _DAMAGED if found.damages or found.splits else 0


def _show(found: Examined) -> None:
    out = console()
    for damage in found.damages:
        rows = [_row(copy, damage) for copy in damage.copies]
        columns = ("server", "", *(f">{name}" for name in damage.copies[0].state))
        out.print(table(f"stream {damage.stream} of {damage.account}: its copies differ", columns, rows))
        out.print(f"→ {damage.remedy}\n")
    for split in found.splits:
        out.print(f"account {split.account} is split: its servers do not hear one another")
        out.print(table("", ("server", "sends Raft traffic by"), list(split.traffic.items())))
        out.print(f"→ {split.remedy}\n")
    streams = {(copy.account, copy.stream) for copy in found.copies}
    servers = {copy.server for copy in found.copies}
    agree = f"{len(found.damages)} differ" if found.damages else "all agree"
    out.print(f"{len(found.copies)} copies of {len(streams)} streams on {len(servers)} servers: {agree}")


def _row(copy: Copy, damage: Damage) -> tuple[object, ...]:
    name = Text(copy.server, style="red" if copy.server in damage.odd else "")
    counts = (f"{count:,}" for count in copy.state.values())
    return (name, "leads" if copy.server == damage.leader else "", *counts)
