"""Keeps a nats-server running: it is started again when it ends, until that does not help."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import NoReturn

from tieline.errors import ServerFailed
from tieline.server.embedded import EmbeddedServer

__all__ = ["Report", "ServerEnded", "ServerRestarted", "describe_end", "keep_running"]

log = logging.getLogger("tieline.server")

_FIRST_WAIT = 0.2  # seconds until a server that ended is started again; doubles with each end
_LONGEST_WAIT = 10.0
_SETTLED = 10.0  # seconds that one must live to count as brought back
_TRIES = 5  # ends and failed starts in a row after which it is given up


@dataclass(frozen=True, slots=True)
class ServerEnded:
    """A server ended, or did not start again: ``why`` says how. It is started again in ``again_in`` seconds."""

    name: str
    pid: int
    code: int
    why: str
    again_in: float


@dataclass(frozen=True, slots=True)
class ServerRestarted:
    """A server runs again, on the same ports and data, as ``pid``; ``restarts`` counts them."""

    name: str
    pid: int
    restarts: int


type Report = Callable[[ServerEnded | ServerRestarted], None]


async def keep_running(server: EmbeddedServer, report: Report) -> NoReturn:
    """Start ``server`` again whenever it ends, on the same ports and data. Runs until it is cancelled.

    Raises `ServerFailed` when it ended or failed to start five times in a row: with the explanation of the last failed
    start, and with where its log is.
    """
    loop, name = asyncio.get_running_loop(), server.config.server_name
    ends, restarts, wait = 0, 0, _FIRST_WAIT
    failure: ServerFailed | None = None
    while True:
        began = loop.time()
        code = await server.wait()
        if loop.time() - began > _SETTLED:
            ends, wait = 0, _FIRST_WAIT
        ends += 1
        why = describe_end(code) if failure is None else str(failure)
        if ends > _TRIES:
            raise failure or ServerFailed(f"nats-server {name} {why}, {ends} times in a row; its log is {server.log}")
        if failure is not None:
            log.warning("nats-server %s did not start again; the next try is in %g s: %s", name, wait, failure)
        report(ServerEnded(name, server.pid, code, why, wait))
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LONGEST_WAIT)
        try:
            await server.start()
        except ServerFailed as error:
            failure = error
            continue
        failure, restarts = None, restarts + 1
        report(ServerRestarted(name, server.pid, restarts))


def describe_end(code: int) -> str:
    """What an exit code says, such as ``was killed by SIGKILL``."""
    if code < 0:
        return f"was killed by {Signals(-code).name}"
    return "ended" if code == 0 else f"ended with exit code {code}"
