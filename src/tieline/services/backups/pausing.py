"""Holding the consumers still while a backup is taken. The server ends the pause by itself should we die."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from tieline.errors import BackupFailed
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.topology import consumer_infos

__all__ = ["lift", "paused"]

_PAUSE = 60.0  # seconds that a pause lasts if nobody renews it
_RENEW = 15.0
_LOOK = 0.05
_PATIENCE = 30.0  # seconds without an answer to a renewal before the pause cannot be relied on

type Names = tuple[str, str]  # a stream and a consumer of it


@asynccontextmanager
async def paused(connection: Connection, consumers: Iterable[Names], settle: float) -> AsyncIterator[int]:
    """No consumer delivers until the block ends; yields how many deliveries did not end within ``settle`` seconds.

    Agents first, and tools when the agents are done: a handler waits for its tools. What is in flight and stays so is
    either at work or waits for its next attempt. Raises `BackupFailed` when the server does not pause; publishers are
    not held up.
    """
    every = sorted(set(consumers))
    waves = [[one for one in every if _is_tool(one) == tools] for tools in (False, True)]
    holding: set[Names] = set()
    keeping = asyncio.create_task(_keep(connection, holding))
    try:
        running = 0
        for wave in waves:
            holding |= set(wave)
            for one in wave:
                await _set(connection, one, _PAUSE)
            running += await _settled(connection, wave, settle)
        yield running
        if keeping.done():
            keeping.result()
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await lift(connection, every)


async def lift(connection: Connection, consumers: Iterable[Names]) -> None:
    """Let them deliver again, as far as the server can be reached; else the pause ends by itself within a minute."""
    for one in consumers:
        if not connection.connected:
            return
        try:
            await _set(connection, one, None)
        except (BackupFailed, ConnectionError):
            return


async def _keep(connection: Connection, holding: set[Names]) -> None:
    while True:
        await asyncio.sleep(_RENEW)
        for one in sorted(holding):
            await _set(connection, one, _PAUSE)


async def _set(connection: Connection, one: Names, seconds: float | None) -> None:
    stream, name = one
    body = {} if seconds is None else {"pause_until": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await connection.api(f"CONSUMER.PAUSE.{stream}.{name}", body)
    except (ApiError, NoAnswer, TimeoutError) as error:
        raise BackupFailed(f"consumer {name} of stream {stream} cannot be paused or resumed: {error}") from error
    if seconds is not None and not answer.get("paused"):
        raise BackupFailed(
            f"consumer {name} of stream {stream} does not stay paused for {seconds:.0f} s: this machine's clock is "
            "behind the server's. Set them right (timedatectl set-ntp true), or back up with --live"
        )


async def _settled(connection: Connection, wave: Iterable[Names], settle: float) -> int:
    loop = asyncio.get_running_loop()
    until = loop.time() + settle
    while True:
        running = await _in_flight(connection, set(wave))
        if not running or loop.time() >= until:
            return running
        await asyncio.sleep(_LOOK)


async def _in_flight(connection: Connection, wave: set[Names]) -> int:
    count = 0
    for stream in sorted({stream for stream, _ in wave}):
        infos = await consumer_infos(connection, stream)
        count += sum(int(info["num_ack_pending"]) for info in infos if (stream, info["name"]) in wave)
    return count


def _is_tool(one: Names) -> bool:
    return one[1].startswith("tool-")
