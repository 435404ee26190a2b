"""What the demo shows: tables and lines for people."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from oneroof.opening import Office
from oneroof.play import Player, Progress
from oneroof.timeline import Moment
from tieline.services.ledger import Row
from tieline.services.letters.reading import Letter

__all__ = ["call_timeline", "calls", "dead_letters", "opening", "verdict"]

_SHOWN = 8  # calls at once in the live view
_REASON = 100  # characters of why a message died
_STATES = {"waiting": "dim", "talking": "yellow", "done": "green", "stuck": "bold red", "wrong": "bold red"}


def opening(office: Office, took: float) -> RenderableType:
    """The URL and the process table."""
    table = Table(title=f"OneRoof is open: {office.url}", title_justify="left")
    for column in ("process", "pid", "consumes"):
        table.add_column(column)
    for process in office.processes:
        consumes = ", ".join(process.consumes) or "every stream, for the sum"
        table.add_row(process.name, str(office.supervisor.pid(process.name)), consumes)
    return Group(table, Text(f"the server and {len(office.processes)} processes were ready in {took:.1f} s\n"))


def calls(player: Player, notes: Sequence[str]) -> RenderableType:
    """The calls in progress, and what happened on purpose."""
    table = Table(title=f"{player.over} of {len(player.calls)} calls", title_justify="left", expand=True)
    for column, ratio in (("call", 3), ("turn", 1), ("the caller", 6), ("the office", 8)):
        table.add_column(column, ratio=ratio, no_wrap=True, overflow="ellipsis")
    talking = [call for call in player.calls if call.state == "talking"]
    ended = [call for call in player.calls if call.state not in ("talking", "waiting")]
    for call in [*ended[-(_SHOWN - len(talking)) :], *talking][-_SHOWN:]:
        turn = f"{call.turn}/{len(call.script.turns)}"
        title = Text(call.script.title, style=_STATES[call.state])
        table.add_row(title, turn, escape(call.said[:200]), escape(call.heard[:200]))
    return Group(table, *(Text.from_markup(note) for note in notes))


def call_timeline(call: Progress, moments: Sequence[Moment]) -> RenderableType:
    """One call from its first word to its last."""
    table = Table(
        title=f"One call: {call.script.title} ({call.call_id})",
        title_justify="left",
        show_header=False,
        box=SIMPLE_HEAD,
    )
    table.add_column("at", justify="right")
    table.add_column("who")
    table.add_column("what", overflow="fold")
    start = moments[0].at if moments else 0.0
    for moment in moments:
        style = {"caller": "cyan", "office": "bold"}.get(moment.who, "dim")
        table.add_row(f"{moment.at - start:7.3f} s", moment.who, Text(moment.what, style=style))
    return table


def dead_letters(letters: Sequence[Letter], told: str) -> RenderableType:
    """The dead-letter desk: what went wrong on purpose, and what became of it."""
    title = "The dead-letter desk: a poisonous call and a payload that does not fit, both planted"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("id", justify="right")
    for column in ("given up by", "cause", "attempts", "why"):
        table.add_column(column, overflow="fold")
    for letter in letters:
        attempts = str(len(letter.told.get("attempts", ())))
        table.add_row(str(letter.seq), letter.agent, letter.cause, attempts, escape(_cut(letter.reason)))
    late = f"[green]told: {escape(told)}[/green]" if told else "[red]never told[/red]"
    return Group(table, Text.from_markup(f"A third call wanted what nobody took in time; its caller was {late}\n"))


def _cut(text: str) -> str:
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"


def verdict(player: Player, rows: Sequence[Row], *, ok: bool) -> RenderableType:
    """What it came to, and where to go next."""
    lines = [f"{len(player.calls) - len(player.failed)} of {len(player.calls)} calls were answered as they should be."]
    lines += [f"[red]{call.state}: {call.script.id} {escape(call.script.title)}[/red]" for call in player.failed]
    total = sum(row.published for row in rows)
    lines.append(
        f"[green]Nothing was lost: {total:,} messages, the sum holds.[/green]"
        if ok
        else f"[red]The sum over {total:,} messages does not hold, or calls failed: see above.[/red]"
    )
    lines += [
        "",
        "Next:  uv run oneroof up               the office stays open",
        "       uv run oneroof call             talk to it",
        "       uv run tieline report oneroof   what its streams and agents hold",
        "       uv run tieline dlq ls           its dead letters: show, edit, redrive, drop",
        "       docs/tour.md                    one call followed through the files",
    ]
    return Text.from_markup("\n".join(lines))
