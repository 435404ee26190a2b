"""The sum as a table, for commands and for pods that show it."""

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tieline.services.ledger import Row

__all__ = ["sum_table"]


def sum_table(rows: Sequence[Row]) -> Table:
    """Published = done + dead + expired + pending, a line for each agent, and up to which sequence each was counted."""
    title = "The sum: published = done + dead + expired + pending"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("stream / agent", no_wrap=True)
    for column in ("published", "done", "dead", "expired", "pending", "server"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for stream, grouped in groupby(sorted(rows, key=lambda row: row.stream), key=lambda row: row.stream):
        its = list(grouped)
        behind = f", {its[0].behind:,} behind" if its[0].behind else ""
        table.add_row(f"[dim]{stream} to {its[0].upto:,}{behind}[/dim]")
        for row in its:
            figures = (row.published, row.done, row.dead, row.expired, row.pending, row.at_server)
            shown = ["" if figure is None else f"{figure:,}" for figure in figures]
            table.add_row(f"  {row.agent}", *shown, "[green]✓[/green]" if row.holds else "[red]✗[/red]")
    return table
