"""``tieline calls``: lists conversations, shows one as a timeline, answers questions and cancels."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic.alias_generators import to_camel
from rich.text import Text

from tieline import subjects
from tieline.cli.options import JsonOption, ServerOption, connected, moment, settings_of
from tieline.cli.printing import age, line, print_json, print_table
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.services import cancelling, questions, schema
from tieline.services.conversations import Listing, Summary, list_conversations
from tieline.services.questions import Board, Question, open_questions
from tieline.services.reference import load_pod
from tieline.services.timeline import Entry, Timeline, redacted_by, timeline
from tieline.wire.topology import consumers_of

__all__ = ["calls"]

calls = typer.Typer(
    help="Inspect conversations and what they wait for, answer their questions, cancel them.", no_args_is_help=True
)

_FAILED = 1
_SHOWN = 160  # characters of a result or a reason, for people
_OPEN = 5  # open questions of other conversations that are named
_STYLES = {
    "waiting": "yellow",
    "running": "green",
    "dead": "red",
    "dead letter": "red",
    "vanished": "red",
    "expired": "red",
    "unaccounted": "red",
    "cancelled": "magenta",
    "asked": "yellow",
    "answered": "yellow",
}

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The conversation, such as a call's id.")]


@calls.command()
def ls(
    pod: Annotated[str | None, typer.Argument(metavar="[POD]", help="Only those that this pod takes part in.")] = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that wait for a person.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of conversations, the newest activity first.")] = 50,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only those with activity since then: a time, or an age such as 2h.",
            show_default="7 days",
        ),
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """List conversations and their states, the newest activity first."""
    names = None if pod is None else frozenset(consumer.durable for consumer in consumers_of(load_pod(pod)))
    start = None if since is None else moment("--since", since)
    found = asyncio.run(_ls(server, start, limit, names, waiting))
    if json:
        for summary in found.summaries:
            print_json(_camel(asdict(summary)))
    elif not found.summaries:
        print("no conversation waits for a person" if waiting else "no conversations")
    else:
        _print_summaries(found.summaries)
    if found.since is not None:
        what = "questions" if waiting else "facts"
        print(
            f"note: {what} from before {_date(found.since)} were not looked at; `tieline calls show ID` looks at one "
            "conversation",
            file=sys.stderr,
        )
    return 0


@calls.command()
def show(
    id: IdArgument,  # noqa: A002 - the field's word for it
    pod: Annotated[
        str | None, typer.Option("--pod", metavar="POD", help="Hide the fields that this pod's messages redact.")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Show a conversation as a timeline: messages, attempts, steps and results, waits, questions, dead letters."""
    redact = frozenset[str]() if pod is None else redacted_by(load_pod(pod))
    found = asyncio.run(_show(server, id, redact))
    if found is None:
        return _fail(
            f"nothing is known of conversation {line(id)}; facts are kept for 7 days, `tieline calls ls` lists"
        )
    if json:
        for entry in found.entries:
            print_json(_camel(asdict(entry) | {"told": None}) | {"told": entry.told})
    else:
        _print_timeline(found)
    return 0


@calls.command()
def answer(
    id: IdArgument,  # noqa: A002 - the field's word for it
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="JSON where the question wants that, else text.")
    ] = None,
    refuse: Annotated[
        str | None, typer.Option(metavar="REASON", help="Refuse to answer; the handler gets the reason.")
    ] = None,
    question: Annotated[
        int | None,
        typer.Option(min=1, help="Which one, if several are open; 1 is the oldest.", show_default="the only one"),
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Answer the question that a conversation waits for. Exit 1 if none is open, or somebody else answered first."""
    if (value is None) == (refuse is None):
        raise BadSettings("give either a VALUE or --refuse REASON")
    return asyncio.run(_answer(server, id, value, refuse, question, json))


@calls.command()
def cancel(
    id: IdArgument,  # noqa: A002 - the field's word for it
    reason: Annotated[str, typer.Option(help="The reason, stored with the cancellation and its dead letters.")] = "",
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Cancel a conversation for good. Its running handlers end; its later messages become dead letters."""
    record, woken = asyncio.run(_cancel(server, id, reason))
    if json:
        print_json({"id": id, **record, "broughtBack": woken})
    else:
        told = f"cancelled by {record.get('by')} {_ago(record.get('at'))}"
        print(f"{line(id)}: {told}; {woken} parked messages brought back to be refused")
    return 0


async def _ls(
    server: list[str] | None, since: datetime | None, limit: int, names: frozenset[str] | None, waiting: bool
) -> Listing:
    async with connected(server) as connection:
        return await list_conversations(connection, since=since, limit=limit, names=names, waiting=waiting)


async def _show(server: list[str] | None, conversation: str, redact: frozenset[str]) -> Timeline | None:
    async with connected(server) as connection:
        return await timeline(connection, conversation, redact=redact)


async def _answer(
    server: list[str] | None, conversation: str, text: str | None, refuse: str | None, number: int | None, as_json: bool
) -> int:
    async with _bus(server) as bus:
        board = await open_questions(bus.connection, conversation)
        chosen = _chosen(board, conversation, number)
        if chosen is None:
            return _fail(await _why_not(bus, board, conversation, number))
        if text is None:
            outcome: dict[str, Any] = {"ok": False, "cause": "refused", "reason": refuse}
        else:
            outcome = {"ok": True, "value": schema.fitting(text, chosen.schema)}
        record, mine = await questions.answer(bus, chosen, outcome)
    if not mine:
        return _fail(f"{line(chosen.text)}: {_answered(record)}")
    if as_json:
        print_json({"id": chosen.conversation, "question": chosen.text, **record})
    else:
        print(f"{line(chosen.text)}: {_answered(record)}")
    return 0


async def _cancel(server: list[str] | None, conversation: str, reason: str) -> tuple[Any, int]:
    async with _bus(server) as bus:
        return await cancelling.cancel(bus, conversation, reason)


@asynccontextmanager
async def _bus(server: list[str] | None) -> AsyncIterator[Bus]:
    """A bus for one command: no pod's, so that it tells no facts."""
    settings = replace(settings_of(server), audit=False)
    async with connect(Pod("command-line"), settings=settings, name="tieline-cli") as bus:
        yield bus


def _chosen(board: Board, conversation: str, number: int | None) -> Question | None:
    token = subjects.token(conversation)
    found = [] if token in board.cancelled else board.questions.get(token, [])
    if number is None:
        return found[0] if len(found) == 1 else None
    return found[number - 1] if number <= len(found) else None


async def _why_not(bus: Bus, board: Board, conversation: str, number: int | None) -> str:
    """Why there is nothing to answer, and what there is."""
    token, named = subjects.token(conversation), line(conversation)
    if (cancelled := board.cancelled.get(token)) is not None:
        return f"{named} was cancelled by {cancelled.get('by')} {_ago(cancelled.get('at'))}"
    if found := board.questions.get(token, []):
        listed = "\n".join(f"  {n}  {line(asked.text)}" for n, asked in enumerate(found, 1))
        which = f"has no question {number}" if number is not None else f"has {len(found)} open questions"
        return f"{named} {which}; say which with --question:\n{listed}"
    if (last := board.answered.get(token)) is not None:
        asked, record = last
        return f"{named} has no open question; the last one was {line(asked.text)!r}, {_answered(record)}"
    others = [asked for several in (await open_questions(bus.connection)).questions.values() for asked in several]
    listed = "".join(f"\n  {line(asked.conversation)}  {line(asked.text)}" for asked in others[:_OPEN])
    return f"{named} has no open question; {'open are:' if others else 'nor has any other conversation'}{listed}"


def _answered(record: Any) -> str:
    by, when = record.get("by") or "nobody", _ago(record.get("at"))
    if record.get("ok") is True:
        return f"answered {line(record.get('value'))} by {by} {when}"
    return f"refused by {by} {when}: {line(str(record.get('reason', '')))}"


def _print_summaries(found: Iterable[Summary]) -> None:
    rows = []
    for summary in found:
        state = f"{summary.state}, ended" if summary.ended and summary.state == "done" else summary.state
        asks = "; ".join(_cut(question.text) for question in summary.questions)
        rows.append(
            (
                line(summary.id),
                Text(state, style=_STYLES.get(summary.state, "")),
                _ago(summary.last),
                age(summary.last - summary.first),
                summary.published,
                summary.steps,
                Text(str(summary.dead), style="red" if summary.dead else ""),
                ", ".join(summary.agents),
                asks,
            )
        )
    columns = ("conversation", "state", ">last", ">lasted", ">published", ">steps", ">dead", "agents", "question")
    print_table("conversations", columns, rows)


def _print_timeline(found: Timeline) -> None:
    summary, began = found.summary, found.summary.first
    title = f"{line(summary.id)}: {summary.state}{', ended' if summary.ended else ''}, since {_date(began)}"
    rows = [_row(entry, began) for entry in found.entries if entry.kind != "superseded"]
    print_table(title, (">after", "by", "", "what", ">took"), rows)
    for question in summary.questions:
        wanted = schema.described(question.schema)
        print(f"waits for a person: {line(question.text)}  (tieline calls answer {line(summary.id)} …, {wanted})")


def _date(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _row(entry: Entry, began: float) -> tuple[object, ...]:
    kind = Text(entry.kind, style=_STYLES.get(entry.kind, ""))
    return (
        f"{entry.at - began:.3f} s",
        line(entry.by),
        kind,
        _cut(entry.what),
        "" if entry.took is None else age(entry.took),
    )


def _cut(text: str) -> str:
    shown = line(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def _ago(at: object) -> str:
    return f"{age(max(0.0, time.time() - at))} ago" if isinstance(at, int | float) else "some time ago"


def _camel(value: Any) -> Any:
    """As JSON has it: the fields of ours in camelCase; what others wrote stays as it is."""
    match value:
        case {"schema": wanted, **rest}:
            return {to_camel(str(name)): _camel(inner) for name, inner in rest.items()} | {"schema": wanted}
        case dict():
            return {to_camel(str(name)): _camel(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_camel(inner) for inner in value]
        case _:
            return value


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED
