"""``tieline tail``: follow what streams store."""

import asyncio
import base64
import json as jsonlib
import shutil
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tieline import codec, subjects
from tieline import headers as names
from tieline.cli.options import JsonOption, ServerOption, connected, moment
from tieline.cli.printing import line, print_json
from tieline.errors import BadSettings, NotApplied, first_of
from tieline.wire.connection import Connection
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed

__all__ = ["tail"]

_WAITING = 256  # messages read and not yet shown


def tail(
    filters: Annotated[list[str], typer.Argument(metavar="FILTER…", help="Subjects, with * and > as NATS has them.")],
    stream: Annotated[str | None, typer.Option(help="Only this stream.", show_default="all that store them")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="start|SEQ|TIME",
            help="Where to begin: `start`, a sequence, an ISO 8601 time, or how long ago (10m).",
            show_default="what comes from now on",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of messages after which to end.", show_default="never")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Follow what streams store, one line a message, until Ctrl-C. Acknowledges nothing, changes nothing."""
    for subject in filters:
        subjects.check_filter(subject)
    begin = _begin(start)
    try:
        asyncio.run(_tail(filters, stream, begin, count, server, json))
    except KeyboardInterrupt:
        return 0  # how a tail ends
    return 0


def _begin(text: str | None) -> int | datetime | None:
    if text is None:
        return None
    if text == "start":
        return 1
    if text.isdigit():
        return int(text)
    return moment("--from", text, "start, a sequence, ")


async def _tail(
    filters: list[str],
    stream: str | None,
    begin: int | datetime | None,
    count: int | None,
    server: list[str] | None,
    as_json: bool,
) -> None:
    async with connected(server) as connection:
        found = {stream: filters} if stream is not None else await _streams(connection, filters)
        if isinstance(begin, int) and begin > 1 and len(found) > 1:
            raise BadSettings(f"--from {begin}: these filters are in {', '.join(found)}; say which with --stream")
        feeds = [Feed(connection, name, wanted, start=begin) for name, wanted in found.items()]
        try:
            async with asyncio.TaskGroup() as group:
                await _show(connection, feeds, group, count, as_json)
        except BaseExceptionGroup as failed:
            raise first_of(failed) from None


async def _streams(connection: Connection, filters: list[str]) -> dict[str, list[str]]:
    """The streams that store what the filters match, with the filters that concern each."""
    found: dict[str, list[str]] = {}
    for subject in filters:
        streams = (await connection.api("STREAM.NAMES", {"subject": subject})).get("streams") or []
        if not streams:
            raise NotApplied(f"no stream stores {subject!r}; `tieline report` lists the streams")
        for name in streams:
            found.setdefault(name, []).append(subject)
    return found


async def _show(
    connection: Connection, feeds: list[Feed], group: asyncio.TaskGroup, count: int | None, as_json: bool
) -> None:
    arrived: asyncio.Queue[Delivery] = asyncio.Queue(_WAITING)
    tasks = [group.create_task(_read(feed, arrived)) for feed in feeds]
    tasks.append(group.create_task(_until_lost(connection)))
    shown = 0
    while shown != count:
        delivery = await arrived.get()
        if as_json:
            print_json(_full(delivery))
        else:
            print(_short(delivery), flush=True)
        shown += 1
    for task in tasks:
        task.cancel()


async def _read(feed: Feed, arrived: asyncio.Queue[Delivery]) -> None:
    async for delivery in feed:
        await arrived.put(delivery)


async def _until_lost(connection: Connection) -> None:
    await asyncio.shield(connection.lost)


def _conversation(delivery: Delivery) -> str | None:
    headers = delivery.headers
    named = headers.get(names.CONVERSATION_NAME) or headers.get(names.CONVERSATION)
    return named or codec.conversation_in(delivery.payload)


def _full(delivery: Delivery) -> dict[str, Any]:
    told = {
        "time": datetime.fromtimestamp(delivery.stored, UTC).isoformat(),
        "stream": delivery.stream,
        "seq": delivery.seq,
        "subject": delivery.subject,
        "conversation": _conversation(delivery),
        "headers": dict(delivery.headers),
    }
    try:
        return told | {"payload": jsonlib.loads(delivery.payload)}
    except (ValueError, RecursionError):
        return told | {"payloadBase64": base64.b64encode(delivery.payload).decode()}


def _short(delivery: Delivery) -> str:
    at = datetime.fromtimestamp(delivery.stored).astimezone().strftime("%H:%M:%S.%f")[:-3]
    payload = delivery.payload.decode(errors="replace")
    text = f"{at} {delivery.stream}:{delivery.seq} {delivery.subject} {_conversation(delivery) or '-'} {payload}"
    shown = line(text)
    if not sys.stdout.isatty():
        return shown
    width = shutil.get_terminal_size().columns
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"
