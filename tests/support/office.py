"""A pod at work on a server: streams and consumers applied, its agents and tools running in this process."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from tieline import Bus, Host, Limits, Pod, Settings, connect
from tieline.runtime.host import names_of
from tieline.settings import ConnectionSettings, PublishSettings
from tieline.wire import topology
from tieline.wire.delivery import Delivery

__all__ = ["QUICK", "DeadLetter", "Office", "at_work", "consumer_info", "dead_letters", "settings", "stored"]

QUICK = Limits(first_retry=0.05, longest_retry=0.5, drain=2.0)


def settings(url: str, *, audit: bool = False, patience: float = 10.0, **connection: Any) -> Settings:
    """Settings for a test: this server, and nothing that waits for minutes."""
    return Settings(
        connection=replace(ConnectionSettings(servers=(url,)), **connection),
        publish=PublishSettings(patience=patience, ack_timeout=1.0),
        audit=audit,
    )


@dataclass(frozen=True)
class Office:
    """What is at work."""

    bus: Bus
    host: Host
    work: asyncio.Task[None]


@asynccontextmanager
async def at_work(pod: Pod, at: Settings | str, *names: str) -> AsyncIterator[Office]:
    """``names`` of ``pod`` (all, unless given) run until the block ends; then they are drained.

    A host that fails fails the test, unless the test awaits ``work`` itself.
    """
    chosen = settings(at) if isinstance(at, str) else at
    async with connect(pod, settings=chosen) as bus:
        await topology.apply(bus.connection, pod)
        host = Host(bus, names or names_of(pod))
        work = asyncio.create_task(host.run())
        office = Office(bus, host, work)
        try:
            await asyncio.sleep(0)  # its pumps exist now: a stop finds them
            yield office
        finally:
            failed = work.done()
            host.stop()
            await asyncio.wait([work])
        if not failed:
            await work


@dataclass(frozen=True)
class DeadLetter:
    """One message of the stream DLQ, and what it says it died of."""

    subject: str
    payload: bytes
    headers: dict[str, str]
    told: dict[str, Any]


async def dead_letters(bus: Bus) -> list[DeadLetter]:
    """All that are stored now."""
    return [
        DeadLetter(d.subject, d.payload, dict(d.headers), json.loads(d.headers["Tieline-Dead"]))
        for d in await stored(bus, "DLQ.>")
    ]


async def stored(bus: Bus, subject: str) -> list[Delivery]:
    """Everything a stream holds on ``subject`` now."""
    return [delivery async for delivery in bus.feed(subject, start=1, to_end=True)]


async def consumer_info(bus: Bus, stream: str, durable: str) -> dict[str, Any]:
    """What the server says of one consumer."""
    return await bus.connection.api(f"CONSUMER.INFO.{stream}.{durable}")
