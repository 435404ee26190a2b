"""``tieline dlq``: dead letters listed, shown, edited, sent again and dropped."""

import asyncio
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from tieline.cli.dlq_edit import edit
from tieline.cli.letter_choice import (
    FAILED,
    AgentOption,
    AllOption,
    CauseOption,
    Chosen,
    ConversationOption,
    DryOption,
    IdArgument,
    IdsArgument,
    LimitOption,
    SinceOption,
    SubjectOption,
    UntilOption,
    by_wire_name,
    commanding_bus,
    report_missing,
    selection_of,
)
from tieline.cli.letters import as_json, details, following, listing, parsed, summary, tally_json
from tieline.cli.options import JsonOption, ServerOption, connected
from tieline.cli.printing import console, print_json
from tieline.errors import BadSettings, ObjectGone
from tieline.services.letters import editing, redriving
from tieline.services.letters.reading import Letter, Listing, Selection, listed, numbered
from tieline.services.letters.redriving import Order, Tally
from tieline.services.questions import whoever
from tieline.services.reference import load_pod
from tieline.services.timeline import redacted_by
from tieline.subjects import check_template

__all__ = ["dlq"]

dlq = typer.Typer(help="Dead letters: look, edit, send again, drop.", no_args_is_help=True)
dlq.command()(edit)


@dlq.command()
def ls(
    agent: AgentOption = None,
    cause: CauseOption = None,
    subject: SubjectOption = None,
    conversation: ConversationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Number of letters to list, the newest first; 0 shows counts only.")
    ] = 20,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Count dead letters by cause and agent, and list the newest.

    With --subject it also shows the filter by which any NATS client receives these letters.
    """
    selection = selection_of(agent, cause, subject, conversation, (since, until))
    selection, found = asyncio.run(_ls(server, selection, limit))
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
        return report_missing([id])
    letter, payload = found
    content = None if payload is None else parsed(payload, redact)
    if json:
        print_json({**as_json(letter), "headers": dict(letter.headers), "payload": content})
    else:
        console().print(details(letter, content))
    return 0


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
    rate: Annotated[float | None, typer.Option("--rate", min=0.01, help="Maximum number of letters a second.")] = None,
    limit: LimitOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what died three times, and to subjects that others consume.")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Start with an empty journal: every step runs again.")] = False,
    to_subject: Annotated[
        str | None,
        typer.Option("--to-subject", metavar="SUBJECT", help="Send them to this subject, as ordinary messages."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why: for the audit.")] = "",
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Send dead letters again, to the agent that gave them up and to nobody else. Exit 1 where some are held.

    Steps that were recorded are found again. Killed in the middle and run again, it sends nothing twice.
    """
    selection = selection_of(agent, cause, subject, conversation, (since, until))
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
    return asyncio.run(_work(server, Chosen(selection, ids or [], everything), order, "redriven", json))


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
    selection = selection_of(agent, cause, subject, conversation, (since, until))
    order = Order(by=whoever(), reason=reason, limit=limit, dry_run=dry_run)
    return asyncio.run(_work(server, Chosen(selection, ids or [], everything), order, "dropped", json))


async def _ls(server: list[str] | None, selection: Selection, limit: int) -> tuple[Selection, Listing]:
    async with connected(server) as connection:
        selection = await by_wire_name(connection, selection)
        return selection, await listed(connection, selection, limit)


async def _show(server: list[str] | None, seq: int) -> tuple[Letter, bytes | None] | None:
    async with commanding_bus(server) as bus:
        found = await numbered(bus.connection, [seq])
        if not found:
            return None
        try:
            return found[0], await editing.content_of(bus, found[0])
        except ObjectGone as gone:
            print(f"its payload cannot be read: {gone}", file=sys.stderr)
            return found[0], found[0].payload  # the reference


async def _work(server: list[str] | None, chosen: Chosen, order: Order, verb: str, as_json: bool) -> int:
    missing: list[int] = []
    async with commanding_bus(server) as bus:
        with following(f"{verb}:", await chosen.total(bus)) as progress:
            work = redriving.redrive if verb == "redriven" else redriving.drop
            tally: Tally = await work(bus, chosen.letters(bus, missing), order, progress)
    if as_json:
        print_json(tally_json(tally, dry_run=order.dry_run) | {"missing": missing})
    else:
        console().print(summary(tally, verb, dry_run=order.dry_run))
    if missing:
        return report_missing(missing)
    return FAILED if tally.held else 0
