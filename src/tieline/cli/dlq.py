"""``tieline dlq``: dead letters listed, shown, edited, sent again and dropped."""

import asyncio
import json as jsonlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tieline import codec
from tieline.cli.letters import as_json, details, following, listing, parsed, summary, tally_json
from tieline.cli.options import JsonOption, ServerOption, connected, moment, settings_of
from tieline.cli.printing import console, line, print_json
from tieline.cli.pub import fitting
from tieline.errors import BadPayload, BadSettings
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.services.letters import editing, redriving
from tieline.services.letters.reading import Letter, Listing, Selection, counted, letters, listed, numbered
from tieline.services.letters.redriving import Order, Tally
from tieline.services.questions import whoever
from tieline.services.reference import load_pod
from tieline.services.timeline import redacted_by
from tieline.subjects import check_filter, check_template

__all__ = ["dlq"]

dlq = typer.Typer(help="Dead letters: look, edit, send again, drop.", no_args_is_help=True)

_FAILED = 1

IdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, help="The letter, as `tieline dlq ls` numbers it.")]
IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", help="Letters, as `tieline dlq ls` numbers them.")
]
AgentOption = Annotated[
    str | None, typer.Option("--agent", metavar="NAME", help="Who gave it up: an agent, tool-<name>, a consumer.")
]
CauseOption = Annotated[str | None, typer.Option("--cause", metavar="CAUSE", help="Such as raised, invalid, timeout.")]
SubjectOption = Annotated[
    str | None, typer.Option("--subject", metavar="FILTER", help="The message's own subject; * and > as NATS has them.")
]
ConversationOption = Annotated[str | None, typer.Option("--conversation", metavar="ID", help="Only of this one.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Died since then, or so long ago: 2h.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Died before then: 10m, or a time.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them; needed where nothing else says which.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.", show_default="all")]


@dlq.command()
def ls(
    agent: AgentOption = None,
    cause: CauseOption = None,
    subject: SubjectOption = None,
    conversation: ConversationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="List so many of the newest; 0: counts only.")] = 20,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Count dead letters by cause and agent, and list the newest.

    With --subject it also shows the filter by which any NATS client receives these letters.
    """
    selection = _selection(agent, cause, subject, conversation, (since, until))
    found = asyncio.run(_ls(server, selection, limit))
    if json:
        groups = [asdict(group) for group in found.groups]
        letters_json = [as_json(one) for one in found.newest]
        print_json({"total": found.total, "groups": groups, "letters": letters_json, "filter": selection.filter})
    elif not found.groups:
        print("no dead letters")
    else:
        console().print(listing(found))
    if subject is not None and not json:
        print(f"any NATS client receives them, and those to come, by the filter {selection.filter}")
    return 0


@dlq.command()
def show(
    id: IdArgument,  # noqa: A002 - the field's word for it
    pod: Annotated[
        str | None, typer.Option("--pod", metavar="POD", help="Hide the fields that this pod's messages redact.")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Show one dead letter: its cause, the traceback, every attempt, headers and payload."""
    redact = frozenset[str]() if pod is None else redacted_by(load_pod(pod))
    found = asyncio.run(_show(server, id))
    if found is None:
        return _missing([id])
    letter, payload = found
    content = None if payload is None else parsed(payload, redact)
    if json:
        print_json({**as_json(letter), "headers": dict(letter.headers), "payload": content})
    else:
        console().print(details(letter, content))
    return 0


@dlq.command()
def edit(
    id: IdArgument,  # noqa: A002 - the field's word for it
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field (a.b for an inner one) to JSON, or to text."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why: for the audit.")] = "",
    pod: Annotated[
        str | None, typer.Option("--pod", metavar="POD", help="Check the payload by this pod's message or tool.")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Change a dead letter's payload: by --set, else in $VISUAL or $EDITOR. Exit 1 where it does not fit."""
    declared = None if pod is None else load_pod(pod)
    return asyncio.run(_edit(server, id, sets or [], (declared, reason), json))


@dlq.command()
def redrive(
    ids: IdsArgument = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    subject: SubjectOption = None,
    conversation: ConversationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: AllOption = False,
    dry_run: DryOption = False,
    rate: Annotated[float | None, typer.Option("--rate", min=0.01, help="At most so many a second.")] = None,
    limit: LimitOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what died three times, and to subjects that others consume.")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Run every step again; none that is recorded is found.")] = False,
    to_subject: Annotated[
        str | None, typer.Option("--to-subject", metavar="SUBJECT", help="Send them there, as messages like any.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why: for the audit.")] = "",
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Send dead letters again, to the agent that gave them up and to nobody else. Exit 1 where some are held.

    Steps that were recorded are found again. Killed in the middle and run again, it sends nothing twice.
    """
    selection = _selection(agent, cause, subject, conversation, (since, until))
    if to_subject is not None:
        check_template(to_subject)
    order = Order(
        by=whoever(),
        reason=reason,
        force=force,
        anew=anew,
        to_subject=to_subject,
        rate=rate,
        limit=limit,
        dry_run=dry_run,
    )
    return asyncio.run(_work(server, _Chosen(selection, ids or [], everything), order, "redriven", json))


@dlq.command()
def drop(
    reason: Annotated[str, typer.Option("--reason", help="Why: for the audit.")],
    ids: IdsArgument = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    subject: SubjectOption = None,
    conversation: ConversationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: AllOption = False,
    dry_run: DryOption = False,
    limit: LimitOption = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Remove dead letters for good: their messages will never be handled. The audit keeps who did it, and why."""
    if not reason.strip():
        raise BadSettings("--reason says why nobody will ever handle these messages; it must not be empty")
    selection = _selection(agent, cause, subject, conversation, (since, until))
    order = Order(by=whoever(), reason=reason, limit=limit, dry_run=dry_run)
    return asyncio.run(_work(server, _Chosen(selection, ids or [], everything), order, "dropped", json))


class _Chosen:
    """The letters that a command is about: by number, or by a selection, which must not be everything by mistake."""

    def __init__(self, selection: Selection, ids: list[int], everything: bool) -> None:
        narrowed = selection != Selection()
        if ids and (narrowed or everything):
            raise BadSettings("give either IDs or options that choose letters, not both")
        if not ids and not narrowed and not everything:
            raise BadSettings("say which letters: IDs, --agent, --cause, --subject, --conversation, --since, or --all")
        self.selection = selection
        self.ids = ids

    async def total(self, bus: Bus) -> int | None:
        """How many there are; None where only reading them would tell."""
        if self.ids:
            return len(self.ids)
        if self.selection.conversation is not None:
            return None
        return sum(group.count for group in await counted(bus.connection, self.selection))

    async def letters(self, bus: Bus, missing: list[int]) -> AsyncIterator[Letter]:
        """The letters; numbers that are gone are added to ``missing``."""
        if not self.ids:
            async for letter in letters(bus.connection, self.selection):
                yield letter
            return
        found = await numbered(bus.connection, self.ids)
        missing += sorted(set(self.ids) - {letter.seq for letter in found})
        for letter in found:
            yield letter


def _selection(
    agent: str | None,
    cause: str | None,
    subject: str | None,
    conversation: str | None,
    times: tuple[str | None, str | None],
) -> Selection:
    for given in (agent, cause, subject):
        if given is not None:
            check_filter(given)
    since, until = times
    return Selection(
        agent=agent,
        cause=cause,
        subject=subject,
        conversation=conversation,
        since=None if since is None else moment("--since", since),
        until=None if until is None else moment("--until", until),
    )


async def _ls(server: list[str] | None, selection: Selection, limit: int) -> Listing:
    async with connected(server) as connection:
        return await listed(connection, selection, limit)


async def _show(server: list[str] | None, seq: int) -> tuple[Letter, bytes | None] | None:
    async with _bus(server) as bus:
        found = await numbered(bus.connection, [seq])
        return (found[0], await editing.content_of(bus, found[0])) if found else None


async def _work(server: list[str] | None, chosen: _Chosen, order: Order, verb: str, as_json: bool) -> int:
    missing: list[int] = []
    async with _bus(server) as bus:
        with following(f"{verb}:", await chosen.total(bus)) as progress:
            work = redriving.redrive if verb == "redriven" else redriving.drop
            tally: Tally = await work(bus, chosen.letters(bus, missing), order, progress)
    if as_json:
        print_json(tally_json(tally, dry_run=order.dry_run) | {"missing": missing})
    else:
        console().print(summary(tally, verb, dry_run=order.dry_run))
    if missing:
        return _missing(missing)
    return _FAILED if tally.held else 0


async def _edit(
    server: list[str] | None, seq: int, sets: list[str], about: tuple[Pod | None, str], as_json: bool
) -> int:
    pod, reason = about
    async with _bus(server) as bus:
        found = await numbered(bus.connection, [seq])
        if not found:
            return _missing([seq])
        payload = await editing.content_of(bus, found[0])
        if payload is None:
            return _fail(f"letter {seq}: its payload was too large to keep with its cause, and the message is gone")
        before = parsed(payload)
        after = _with(before, sets) if sets else await asyncio.to_thread(_edited, before)
        changed = _changed(before, after)
        if not changed:
            return _fail(f"letter {seq}: nothing was changed")
        if pod is not None:
            _check(pod, found[0], after)
        new = await editing.edit(bus, found[0], codec.to_json(after), changed, by=whoever(), reason=reason)
    if as_json:
        print_json({"id": new, "replaces": seq, "changed": changed})
    else:
        print(f"letter {seq} is now letter {new}; changed: {', '.join(map(line, changed))}")
    return 0


@asynccontextmanager
async def _bus(server: list[str] | None) -> AsyncIterator[Bus]:
    """A bus for one command, which tells what a person did whatever the environment says of the audit."""
    settings = replace(settings_of(server), audit=True)
    async with connect(Pod("command-line"), settings=settings, name="tieline-cli") as bus:
        yield bus


def _with(content: Any, sets: list[str]) -> Any:
    if not isinstance(content, dict):
        raise BadSettings("the payload is no JSON object, so that it has no fields to --set; leave it out to edit it")
    changed = jsonlib.loads(jsonlib.dumps(content))
    for given in sets:
        path, equals, text = given.partition("=")
        *outer, last = path.split(".")
        if not equals or not last:
            raise BadSettings(f"--set {given!r}: write field=value, such as --set callId=c1")
        inner = changed
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise BadSettings(f"--set {path}: {name} is no object")
        try:
            inner[last] = jsonlib.loads(text)
        except ValueError:
            inner[last] = text
    return changed


def _edited(content: Any) -> Any:
    """What a person makes of it in an editor. The shell finds out which: $VISUAL, else $EDITOR, else vi."""
    with tempfile.TemporaryDirectory(prefix="tieline-") as folder:
        path = Path(folder) / "payload.json"
        path.write_text(jsonlib.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        ended = subprocess.run(["sh", "-c", 'eval "${VISUAL:-${EDITOR:-vi}} \\"\\$1\\""', "sh", str(path)], check=False)
        if ended.returncode:
            raise BadSettings(f"the editor ended with exit code {ended.returncode}; nothing was changed")
        text = path.read_text(encoding="utf-8")
    try:
        return jsonlib.loads(text)
    except ValueError as error:
        raise BadSettings(f"what you wrote is not JSON: {error}; nothing was changed") from None


def _changed(before: Any, after: Any) -> list[str]:
    """The outermost fields that differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else ["payload"]
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _check(pod: Pod, letter: Letter, content: Any) -> None:
    """`BadPayload` where the payload does not fit the message, or the arguments do not fit the tool."""
    tool = pod.tools.get(letter.agent.removeprefix("tool-"))
    if not isinstance(content, dict):
        raise BadPayload(f"the payload must be a JSON object, not {type(content).__name__}")
    if tool is None or pod.agent_on_bus(letter.agent) is not None:
        fitting(pod, letter.subject, content)
        return
    try:
        tool.arguments.model_validate(content.get("args", {}))
    except ValidationError as error:
        raise BadPayload(f"tool {tool.name}: {codec.explain(error)}") from None


def _missing(ids: list[int]) -> int:
    named = ", ".join(map(str, ids))
    return _fail(f"there is no dead letter {named} (any more); `tieline dlq ls` lists those there are")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED
