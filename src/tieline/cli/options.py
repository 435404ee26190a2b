"""What the commands' options have in common, and the connection they give."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated

import typer

from tieline.settings import Settings
from tieline.wire.connection import Connection

__all__ = ["JsonOption", "PodArgument", "ServerOption", "connected", "settings_of", "urls_of"]

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


@asynccontextmanager
async def connected(servers: list[str] | None) -> AsyncIterator[Connection]:
    """A connection for one command. Raises `Unreachable` where no server answers."""
    connection = await Connection.open(settings_of(servers).connection, "tieline-cli")
    try:
        yield connection
    finally:
        await connection.close()
