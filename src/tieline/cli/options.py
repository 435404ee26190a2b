"""What the commands' options have in common, and the connection they give."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated

import typer

from tieline.errors import BadDeclaration, BadSettings
from tieline.messages import seconds
from tieline.settings import Settings
from tieline.wire.connection import Connection

__all__ = ["JsonOption", "PodArgument", "ServerOption", "connected", "moment", "settings_of", "urls_of"]

ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="NATS server; repeat it, or separate several by commas. Default: TIELINE_SERVERS, else "
        "nats://127.0.0.1:4222.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
PodArgument = Annotated[
    str,
    typer.Argument(metavar="POD", help="The pod: module, or module:attribute (the attribute is `pod` unless given)."),
]


def urls_of(servers: list[str] | None) -> tuple[str, ...]:
    """The URLs that ``--server`` gives; empty where it was not given."""
    return tuple(part.strip() for given in servers or () for part in given.split(",") if part.strip())


def settings_of(servers: list[str] | None) -> Settings:
    """The settings of the environment, with the servers of ``--server`` where given. Raises `BadSettings`."""
    settings = Settings.from_environment()
    urls = urls_of(servers)
    return replace(settings, connection=replace(settings.connection, servers=urls)) if urls else settings


def moment(option: str, text: str, others: str = "") -> datetime:
    """The time that an option gives: ISO 8601, or how long ago. `BadSettings` says what it takes, ``others`` first."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now().astimezone() - timedelta(seconds=seconds(text))
    except BadDeclaration:
        raise BadSettings(
            f"{option} {text!r} is not understood; give {others}a time such as 2026-01-31T09:30, or 10m for "
            "ten minutes ago"
        ) from None


@asynccontextmanager
async def connected(servers: list[str] | None) -> AsyncIterator[Connection]:
    """A connection for one command. Raises `Unreachable` where no server answers."""
    connection = await Connection.open(settings_of(servers).connection, "tieline-cli")
    try:
        yield connection
    finally:
        await connection.close()
