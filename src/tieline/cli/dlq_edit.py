"""``tieline dlq edit``: other payloads for dead letters, one or many."""

import asyncio
import json as jsonlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Group
from rich.text import Text

from tieline import codec
from tieline.cli.letter_choice import (
    FAILED,
    AgentOption,
    AllOption,
    CauseOption,
    Chosen,
    ConversationOption,
    DryOption,
    IdsArgument,
    LimitOption,
    SinceOption,
    SubjectOption,
    UntilOption,
    commanding_bus,
    report_failure,
    report_missing,
    selection_of,
)
from tieline.cli.letters import following, parsed
from tieline.cli.options import JsonOption, ServerOption
from tieline.cli.printing import console, line, print_json, table
from tieline.cli.pub import fitting
from tieline.errors import BadPayload, BadSettings
from tieline.operations.edit_letters import EditOrder, EditTally, PayloadChange, changed_fields, edit_letters
from tieline.pod import Pod
from tieline.services.letters import editing
from tieline.services.letters.reading import Letter, numbered
from tieline.services.questions import whoever
from tieline.services.reference import load_pod

__all__ = ["edit"]


def edit(
    ids: IdsArgument = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field (a.b for an inner one) to JSON, or to text."),
    ] = None,
    renames: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Give a field another name."),
    ] = None,
    removes: Annotated[list[str] | None, typer.Option("--unset", metavar="FIELD", help="Remove a field.")] = None,
    agent: AgentOption = None,
    cause: CauseOption = None,
    subject: SubjectOption = None,
    conversation: ConversationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: AllOption = False,
    dry_run: DryOption = False,
    limit: LimitOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Why: for the audit.")] = "",
    pod: Annotated[
        str | None, typer.Option("--pod", metavar="POD", help="Check payloads by this pod's messages and tools.")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Change the payloads of dead letters: by --rename, --set and --unset, or one letter in $VISUAL or $EDITOR.

    Exit 1 where a payload does not fit afterwards; that letter stays as it is. Killed in the middle and run again, it
    finishes.
    """
    selection = selection_of(agent, cause, subject, conversation, (since, until))
    chosen = Chosen(selection, ids or [], everything)
    change = PayloadChange(tuple(map(_rename, renames or ())), tuple(map(_set, sets or ())), tuple(removes or ()))
    check = _checked_by(None if pod is None else load_pod(pod))
    order = EditOrder(change=change, by=whoever(), reason=reason, check=check, limit=limit, dry_run=dry_run)
    if len(chosen.ids) == 1 and not dry_run:
        return asyncio.run(_edit_one(server, chosen.ids[0], order, json))
    if not change:
        raise BadSettings("say what to change: --rename, --set or --unset; an editor is for one letter, by its ID")
    return asyncio.run(_edit_many(server, chosen, order, json))


async def _edit_one(server: list[str] | None, seq: int, order: EditOrder, as_json: bool) -> int:
    async with commanding_bus(server) as bus:
        found = await numbered(bus.connection, [seq])
        if not found:
            return report_missing([seq])
        payload = await editing.content_of(bus, found[0])
        if payload is None:
            return report_failure(
                f"letter {seq}: its payload was too large to keep with its cause, and the message is gone"
            )
        before = parsed(payload)
        after = order.change.applied(before) if order.change else await asyncio.to_thread(_in_editor, before)
        changed = changed_fields(before, after)
        if not changed:
            return report_failure(f"letter {seq}: nothing was changed")
        order.check(found[0], before, after)
        new = await editing.edit(bus, found[0], codec.to_json(after), changed, by=order.by, reason=order.reason)
    if as_json:
        print_json({"id": new, "replaces": seq, "changed": changed})
    else:
        print(f"letter {seq} is now letter {new}; changed: {', '.join(map(line, changed))}")
    return 0


async def _edit_many(server: list[str] | None, chosen: Chosen, order: EditOrder, as_json: bool) -> int:
    missing: list[int] = []
    async with commanding_bus(server) as bus:
        with following("edited:", await chosen.total(bus)) as progress:
            tally = await edit_letters(bus, chosen.letters(bus, missing), order, progress)
    if as_json:
        print_json(_as_json(tally, order) | {"missing": missing})
    else:
        console().print(_summary(tally, order))
    if missing:
        return report_missing(missing)
    return FAILED if tally.held else 0


def _as_json(tally: EditTally, order: EditOrder) -> dict[str, Any]:
    groups = [
        {"cause": cause, "agent": agent, "changed": fields.split(", "), "count": count}
        for (cause, agent, fields), count in tally.groups.most_common()
    ]
    held = [{"reason": reason, "count": count} for reason, count in tally.held.most_common()]
    done = {"done": tally.done, "unchanged": tally.unchanged}
    return {**done, "held": held, "groups": groups, "dryRun": order.dry_run}


def _summary(tally: EditTally, order: EditOrder) -> Group:
    verb = "would be edited" if order.dry_run else "edited"
    rows = [(count, cause, line(agent), line(fields)) for (cause, agent, fields), count in tally.groups.most_common()]
    parts: list[Any] = [table(verb, (">count", "cause", "agent", "changed"), rows)] if rows else [Text(f"none {verb}")]
    if tally.unchanged:
        parts.append(Text(f"{tally.unchanged} unchanged: they were as ordered already"))
    parts += [Text(f"{count} held: {reason}", style="yellow") for reason, count in tally.held.most_common()]
    return Group(*parts)


def _rename(given: str) -> tuple[str, str]:
    old, equals, new = given.partition("=")
    if not (equals and all(old.split(".")) and all(new.split("."))):
        raise BadSettings(f"--rename {given!r}: write old=new, such as --rename home=house")
    return old, new


def _set(given: str) -> tuple[str, Any]:
    path, equals, text = given.partition("=")
    if not (equals and all(path.split("."))):
        raise BadSettings(f"--set {given!r}: write field=value, such as --set callId=c1")
    try:
        return path, jsonlib.loads(text)
    except (ValueError, RecursionError):
        return path, text


def _in_editor(content: Any) -> Any:
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


def _checked_by(pod: Pod | None) -> Callable[[Letter, Any, Any], None]:
    """Raises `BadPayload` where a payload does not fit the pod's message, or the arguments do not fit its tool."""

    def check(letter: Letter, before: Any, after: Any) -> None:
        if pod is None:
            return
        tool = pod.tools.get(letter.agent.removeprefix("tool-"))
        if not isinstance(after, dict):
            raise BadPayload(f"the payload must be a JSON object, not {type(after).__name__}")
        if tool is None or pod.agent_on_bus(letter.agent) is not None:
            # Fields that were in the letter already are ignored, as they are when it is delivered.
            fitting(pod, letter.subject, after, frozenset(before) if isinstance(before, dict) else frozenset())
            return
        try:
            tool.arguments.model_validate(after.get("args", {}))
        except ValidationError as error:
            raise BadPayload(f"tool {tool.name}: {codec.explain(error)}") from None

    return check
