"""What is stored, and what is sent: rot, and rubbish."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from tieline.errors import ServerFailed
from tieline.services.replicas import examined
from tieline.testing.torture.field import STREAM, Field
from tieline.testing.torture.record import Record
from tieline.testing.waiting import eventually
from tieline.wire.batches import Outgoing, store_together

__all__ = ["hostile_payloads", "rot", "rotten_meta"]

_KIB = 1024


async def rot(there: Field, record: Record) -> None:
    """Flipped bytes in an old block of one copy: no server notices, the comparison does, and wiping it repairs it."""
    page: list[Outgoing] = [("torture.job", b'{"callId":"rot"}' + b" " * 15 * _KIB, {}) for _ in range(100)]
    for _turn in range(8):
        if (refusal := await store_together(there.bus.connection, page)) is not None:
            record.notes.append(f"the filling was refused: {refusal}")
    leader = await there.leader()
    node = next(one for one in there.nodes if one is not leader)
    await node.stop()
    store = node.config.data / "jetstream" / "TIELINE" / "streams" / STREAM / "msgs"
    blocks = sorted(store.glob("*.blk"), key=lambda path: int(path.stem))
    _flip(blocks[0])
    (store / "index.db").unlink(missing_ok=True)
    await node.restart()
    monitors = [str(one.monitor_url) for one in there.nodes]

    async def named() -> bool:
        return any(damage.odd == (node.config.server_name,) for damage in (await examined(monitors)).damages)

    await eventually(named, what="the comparison to name the rotten copy", within=60, every=1.0)
    await node.stop()
    shutil.rmtree(node.config.data / "jetstream")
    await node.restart()


async def rotten_meta(there: Field, record: Record) -> None:
    """Flipped bytes in what a server knows of the cluster: the others serve, and no stream is deleted."""
    node = there.nodes[-1]
    await node.stop()
    for path in (node.config.data / "jetstream").rglob("_meta_/**/*"):
        if path.is_file() and path.stat().st_size > 64:
            _flip(path)
    with suppress(ServerFailed):  # it may refuse to start: the better answer
        await node.restart()
    await there.goes_on()
    names = (await there.bus.connection.api("STREAM.NAMES"))["streams"]
    if STREAM not in names:
        record.notes.append(f"the stream {STREAM} is gone: {names}")
    await node.stop()
    shutil.rmtree(node.config.data / "jetstream")
    await node.restart()


async def hostile_payloads(there: Field, _: Record) -> None:
    """Beside the load's own rubbish: the largest, the deepest, and headers of every kind."""
    send = there.bus.connection.send
    deep, large = b"[" * 200_000, b'{"callId":"x","a":"' + b"a" * 900 * _KIB + b'"}'
    for payload in (deep, large, b"\0" * 1000, b'{"callId":"' + b"x" * 100_000 + b'"}'):
        await send("torture.job", payload)
        await send("torture.job", payload, {"Tieline-Conversation": "a.b.>", "Tieline-Step": "step.*.>.x.y"})
    await send("torture.job", b'{"callId":"late"}', {"Tieline-Deadline": "2001-01-01T00:00:00Z"})
    await send("torture.job", b"{}", {"Tieline-Origin": "x" * 5000, "Tieline-Run": "../../etc"})
    await asyncio.sleep(1.0)
    await there.goes_on()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(len(content) // 4, len(content) // 2, 97):
        content[at] ^= 0xFF
    path.write_bytes(content)
