"""Tables for people, JSON lines for scripts, and numbers that either can read."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["age", "console", "line", "print_json", "print_table", "size", "table"]

_PLAIN_WIDTH = 240  # columns where nobody looks: a file or a pipe is not cut at 80
_UNITS = (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0))


def console() -> Console:
    """The standard output. Colour and the terminal's width where it is one; plain and wide where it is not."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def print_json(value: object) -> None:
    """One line of JSON, out at once."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; numbers stand right, and a column that begins with ``>`` too."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, and an empty line after it."""
    out = console()
    out.print(table(title, columns, rows))
    out.print()


def size(count: int | None) -> str:
    """Bytes, as a person reads them. None, or less than none, is no limit."""
    if count is None or count < 0:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"


def age(seconds: float | None) -> str:
    """A duration in its largest unit. None is none."""
    if seconds is None:
        return "-"
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1000:.0f} ms"


def line(value: Any) -> str:
    """A value as compact JSON, in one line that no control character leaves."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
