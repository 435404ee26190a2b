"""The sum as a table, for commands and for pods that show it."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tieline.services.ledger import Row

__all__ = ["sum_table"]

_COLUMNS = ("published", "done", "dead", "expired", "pending", "unaccounted")


def sum_table(rows: Sequence[Row]) -> Table:
    """Published = done + dead + expired + pending, a line for each agent, and up to which sequence each was counted.

    The columns ``accepted`` and ``before`` are there only if a row needs them.
    """
    title = "The sum: published = done + dead + expired + pending"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("stream / agent", no_wrap=True)
    columns = [*_COLUMNS, *(name for name in ("accepted", "before") if any(getattr(row, name) for row in rows))]
    for column in (*columns, "server"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stream, grouped in groupby(sorted(rows, key=lambda row: row.stream), key=lambda row: row.stream):
        its = list(grouped)
        behind = f", {its[0].behind:,} behind" if its[0].behind else ""
        table.add_row(f"[dim]{stream} to {its[0].upto:,}{behind}[/dim]")
        for row in its:
            shown = [_figure(getattr(row, name), alarming=name == "unaccounted") for name in columns]
            server = "" if row.at_server is None else f"{row.at_server:,}"
            table.add_row(f"  {_name(row)}", *shown, server, _mark(row))
    return table


def _name(row: Row) -> str:
    if row.since is None or row.until is None:
        return row.agent
    since, until = (datetime.fromtimestamp(at).astimezone() for at in (row.since, row.until))
    return f"{row.agent} {since:%m-%d %H:%M:%S} to {until:%m-%d %H:%M:%S}"


def _figure(count: int, *, alarming: bool) -> str:
    return f"[bold red]{count:,}[/bold red]" if alarming and count else f"{count:,}"


def _mark(row: Row) -> str:
    """A tick only where every message of the row has an end on record, or is pending."""
    if not row.holds:
        return "[red]✗[/red]"
    return "[green]✓[/green]" if row.accepted + row.before < row.published or not row.published else "[dim]-[/dim]"
