"""The pod's processes, and other clients: frozen, killed, slow, away too long."""

import asyncio
import os
import signal

from tieline.errors import BadSettings
from tieline.settings import PublishSettings
from tieline.testing.torture.effects import Effects
from tieline.testing.torture.field import Field
from tieline.testing.torture.office import ACK_WAIT
from tieline.testing.torture.record import Record
from tieline.testing.waiting import eventually

__all__ = ["ambiguous", "audit_away", "frozen_clerk", "long_outage", "nothing", "poison", "slow_reader", "stale_retry"]

_READERS = 3


async def nothing(there: Field, _: Record) -> None:
    """The load itself is the fault."""
    await there.goes_on()


async def frozen_clerk(there: Field, _: Record) -> None:
    """SIGSTOP a clerk and a tool executor for longer than the ack wait: others do their work, then they wake up."""
    pids = [there.first.pid(name) for name in ("clerk", "tools")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(ACK_WAIT * 3)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


async def poison(there: Field, record: Record) -> None:
    """Some jobs end the process that runs them; and the leader dies among it, where there is one."""
    await eventually(lambda: there.ends, what="the first process ended by poison", within=60)
    if len(there.nodes) > 1:
        node = await there.leader()
        node.kill()
        await there.goes_on()
        await node.restart()
    ends = [end.code for end in there.ends if end.name == "clerk"]
    if 17 not in ends:
        record.notes.append(f"no clerk was poisoned: they ended with {ends}")


async def audit_away(there: Field, _: Record) -> None:
    """The process with the accountant and the dead-letter service is away while the leader of the letters dies."""
    there.first.kill("audit", away=8.0)
    for _turn in range(2):
        node = await there.leader()
        node.kill()
        await node.restart()
        await there.goes_on()


async def stale_retry(_: Field, record: Record) -> None:
    """A publisher that tries for longer than the server remembers ids would publish twice: it cannot be had."""
    try:
        PublishSettings(patience=601.0)
    except BadSettings:
        return
    record.notes.append("a publisher may try for longer than the duplicate window")


async def ambiguous(there: Field, _: Record) -> None:
    """The server freezes with publishes under way: they time out, and were stored or not. Three times."""
    for _turn in range(3):
        there.server.pause()
        await asyncio.sleep(2.5)
        there.server.resume()
        await there.goes_on()


async def slow_reader(there: Field, _record: Record) -> None:
    """Clients that subscribe to everything and never read."""
    host, _colon, port = there.server.url.removeprefix("nats://").rpartition(":")
    stuck: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    for _turn in range(_READERS):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b'CONNECT {"verbose":false}\r\nSUB > 1\r\n')
        stuck.append((reader, writer))
    await there.goes_on()
    await asyncio.sleep(2.0)
    for _, writer in stuck:
        writer.transport.abort()


async def long_outage(there: Field, record: Record) -> None:
    """The server stays away for longer than the processes wait: they end with an error, and are started again."""
    there.server.kill()
    await eventually(lambda: len(there.ends) >= 2, what="processes that give up", within=60)
    if codes := [end.code for end in there.ends if end.code == 0]:
        record.notes.append(f"{len(codes)} processes ended with code 0 while the server was away")
    await there.server.restart()
    with Effects(there.effects) as effects:
        before = effects.count()
        await eventually(lambda: effects.count() > before, what="work after the outage", within=90)
