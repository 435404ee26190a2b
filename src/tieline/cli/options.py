"""What the commands' options have in common, and the connection they give."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from tieline.errors import BadDeclaration, BadSettings
from tieline.messages import seconds
from tieline.settings import Settings
from tieline.wire.connection import Connection

__all__ = ["JsonOption", "PodArgument", "ServerOption", "byte_count", "connected", "moment", "settings_of", "urls_of"]

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


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def byte_count(option: str, text: str) -> int:
    """The bytes that an option gives: ``10GB``, ``512KiB``. `BadSettings` says what it takes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise BadSettings(f"{option} {text!r} is not understood; write it like 10GB or 512KiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])


@asynccontextmanager
async def connected(servers: list[str] | None, credentials: Path | None = None) -> AsyncIterator[Connection]:
    """A connection for one command, closed also when SIGTERM ends the command. Raises `Unreachable` where no server
    answers."""
    settings = settings_of(servers).connection
    if credentials is not None:
        settings = replace(settings, credentials=credentials)
    connection = await Connection.open(settings, "tieline-cli")
    try:
        with _stopped_by_sigterm():
            yield connection
    finally:
        await connection.close()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM cancels the current task and ends the process with the exit code 143. By default, it would kill the
    process before anything is cleaned up. Where the process handles SIGTERM already, nothing changes."""
    if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    except asyncio.CancelledError:
        if stopped.is_set():
            raise SystemExit(128 + signal.SIGTERM) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
