"""Machines that are cut off from each other, or lose their power."""

import asyncio
from collections.abc import Callable

from tieline.testing.server import Server
from tieline.testing.torture.field import Field
from tieline.testing.torture.record import Record
from tieline.testing.waiting import eventually
from tieline.wire.connection import ApiError, NoAnswer

__all__ = [
    "bridge",
    "cut_the_leader",
    "deafen_the_leader",
    "lossy",
    "power_all",
    "power_dance",
    "power_fresh",
]

_APART = 15.0  # seconds; longer than elections and pings take
_FRESH = 3.0  # seconds between a stream's making and the loss of power


async def cut_the_leader(there: Field, _: Record) -> None:
    """The leader is alone with its clients: what it takes without the others must not be acknowledged."""
    leader, others = await _leader(there)
    _each(others, leader, there.net.cut)
    await there.goes_on()
    await asyncio.sleep(_APART)
    _each(others, leader, there.net.join)
    await there.goes_on()


async def deafen_the_leader(there: Field, _: Record) -> None:
    """It speaks, and hears none of the others."""
    leader, others = await _leader(there)
    _each(others, leader, there.net.deafen)
    await asyncio.sleep(_APART)
    _each(others, leader, there.net.hear)
    await there.goes_on()


async def bridge(there: Field, _: Record) -> None:
    """The followers hear the leader, and not each other."""
    _leads, others = await _leader(there)
    there.net.cut(*others)
    await asyncio.sleep(_APART)
    there.net.join(*others)
    await there.goes_on()


async def lossy(there: Field, _: Record) -> None:
    """A fifth of what is sent to the leader is lost."""
    leader, _others = await _leader(there)
    await there.net.lossy(leader, _APART)
    await there.goes_on()


async def power_all(there: Field, _: Record) -> None:
    """Every machine loses its power at once, and gets it back."""
    _cut(there, *there.nodes)
    await asyncio.gather(*(node.start() for node in there.nodes))
    await there.goes_on()


async def power_dance(there: Field, _: Record) -> None:
    """One is frozen, another loses its power, then the third is frozen while the first goes on: two are left that know
    different things, and one of them has forgotten what was not on its disk."""
    leader, others = await _leader(there)
    first, second = (there.nodes[number] for number in others)
    first.pause()
    await asyncio.sleep(_FRESH)
    _cut(there, second)
    there.nodes[leader].pause()
    first.resume()
    await second.start()
    await there.goes_on()
    there.nodes[leader].resume()
    await there.goes_on()


async def power_fresh(there: Field, record: Record) -> None:
    """A stream and its consumer are a few seconds old when every machine loses its power."""
    api = there.bus.connection.api
    replicas = len(there.nodes)
    stream = {"name": "FRESH", "subjects": ["fresh.>"], "num_replicas": replicas}
    consumer = {"durable_name": "reader", "ack_policy": "explicit", "num_replicas": replicas}
    await api("STREAM.CREATE.FRESH", stream)
    await api("CONSUMER.CREATE.FRESH.reader", {"stream_name": "FRESH", "config": consumer})
    await there.bus.connection.request("fresh.one", b"{}")
    await asyncio.sleep(_FRESH)
    await power_all(there, record)

    async def there_still() -> bool:
        try:
            found = await api("CONSUMER.INFO.FRESH.reader")
        except (ApiError, NoAnswer):
            return False
        return bool(found["num_pending"] == 1)

    try:
        await eventually(there_still, what="the fresh stream, its consumer and its message", within=60)
    except AssertionError as error:
        record.notes.append(str(error))


async def _leader(there: Field) -> tuple[int, list[int]]:
    """The number of the stream's leader, and those of the others."""
    leader = there.nodes.index(await there.leader())
    return leader, [number for number in range(len(there.nodes)) if number != leader]


def _each(others: list[int], leader: int, do: Callable[[int, int], None]) -> None:
    for other in others:
        do(leader, other)


def _cut(there: Field, *nodes: Server) -> None:
    """They lose their power as nearly at once as can be: all stop before the first disk is gone."""
    for node in nodes:
        node.pause()
    for node in nodes:
        there.disks[node.config.server_name].lose(node)
