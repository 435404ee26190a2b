"""Which dead letters a command is about, and the bus that it works with."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated

import typer

from tieline.cli.options import moment, settings_of
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.services.letters.reading import Letter, Selection, counted, letters, numbered
from tieline.subjects import check_filter
from tieline.wire.connection import Connection
from tieline.wire.infos import consumer_infos, stream_infos
from tieline.wire.new_consumers import RENAMED

__all__ = [
    "FAILED",
    "AgentOption",
    "AllOption",
    "CauseOption",
    "Chosen",
    "ConversationOption",
    "DryOption",
    "IdArgument",
    "IdsArgument",
    "LimitOption",
    "SinceOption",
    "SubjectOption",
    "UntilOption",
    "by_wire_name",
    "commanding_bus",
    "report_failure",
    "report_missing",
    "selection_of",
]

FAILED = 1

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
    str | None, typer.Option("--since", metavar="TIME", help="Died since then: a time, or an age such as 2h.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Died before then: 10m, or a time.")]
AllOption = Annotated[bool, typer.Option("--all", help="All of them; needed where nothing else says which.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Maximum number of dead letters.", show_default="all")
]


class Chosen:
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
        selection = await by_wire_name(bus.connection, self.selection)
        return sum(group.count for group in await counted(bus.connection, selection))

    async def letters(self, bus: Bus, missing: list[int]) -> AsyncIterator[Letter]:
        """The letters; numbers that are gone are added to ``missing``."""
        if not self.ids:
            async for letter in letters(bus.connection, await by_wire_name(bus.connection, self.selection)):
                yield letter
            return
        found = await numbered(bus.connection, self.ids)
        missing += sorted(set(self.ids) - {letter.seq for letter in found})
        for letter in found:
            yield letter


def selection_of(
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


async def by_wire_name(connection: Connection, selection: Selection) -> Selection:
    """The selection with the name on the bus of an agent that was renamed; its consumers say which one that is."""
    if selection.agent is None:
        return selection
    for stream in await stream_infos(connection):
        for info in await consumer_infos(connection, stream):
            if (info["config"].get("metadata") or {}).get(RENAMED) == selection.agent:
                return replace(selection, agent=info["name"])
    return selection


@asynccontextmanager
async def commanding_bus(server: list[str] | None) -> AsyncIterator[Bus]:
    """A bus for one command, which tells what a person did whatever the environment says of the audit."""
    settings = replace(settings_of(server), audit=True)
    async with connect(Pod("command-line"), settings=settings, name="tieline-cli") as bus:
        yield bus


def report_missing(ids: list[int]) -> int:
    named = ", ".join(map(str, ids))
    return report_failure(f"there is no dead letter {named} (any more); `tieline dlq ls` lists those there are")


def report_failure(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return FAILED
