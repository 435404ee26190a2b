"""Servers that die, freeze, come back, or have no room."""

import asyncio
import os
import shutil
import subprocess

from tieline.testing.torture.field import Field
from tieline.testing.torture.record import Record
from tieline.testing.waiting import eventually
from tieline.wire.connection import Connection

__all__ = [
    "fill_the_disk",
    "freeze_the_leader",
    "kill_all",
    "kill_the_consumers_leader",
    "kill_the_leader",
    "kill_two",
    "no_strace",
    "not_root",
    "roll",
    "storm",
    "syncs_fail",
]

_DOWN = 4.0  # seconds without a majority
_FROZEN = 12.0  # longer than elections and pings take
_CLIENTS = 200


async def kill_the_leader(there: Field, _: Record) -> None:
    """kill -9 the stream's leader, twice; each comes back."""
    for _turn in range(2):
        node = await there.leader()
        node.kill()
        await there.goes_on()
        await there.back(node)


async def kill_the_consumers_leader(there: Field, _: Record) -> None:
    """kill -9 the leader of the clerk's consumer, twice."""
    for _turn in range(2):
        node = await there.leader("clerk")
        node.kill()
        await there.goes_on()
        await there.back(node)


async def kill_two(there: Field, _: Record) -> None:
    """No majority for a while."""
    two = there.nodes[1:]
    for node in two:
        node.kill()
    await asyncio.sleep(_DOWN)
    await asyncio.gather(*(node.restart() for node in two))


async def kill_all(there: Field, _: Record) -> None:
    """kill -9 every server, twice, and start them again."""
    for _turn in range(2):
        for node in there.nodes:
            node.kill()
        await asyncio.gather(*(node.restart() for node in there.nodes))
        await there.goes_on()


async def freeze_the_leader(there: Field, _: Record) -> None:
    """SIGSTOP the leader, or the only server: connections stay open, and nothing answers."""
    node = await there.leader()
    node.pause()
    await asyncio.sleep(_FROZEN)
    node.resume()


async def roll(there: Field, _: Record) -> None:
    """SIGTERM each server in turn, and wait until it is back and work goes on."""
    for node in there.nodes:
        await there.back(node)
        await there.goes_on()


async def storm(there: Field, _: Record) -> None:
    """Hundreds of clients lose all servers at once, and come back at once."""
    settings = there.bus.settings.connection
    clients = await asyncio.gather(*(Connection.open(settings, f"client {number}") for number in range(_CLIENTS)))
    try:
        for node in there.nodes:
            node.kill()
        await asyncio.gather(*(node.restart() for node in there.nodes))
        await eventually(lambda: all(client.connected for client in clients), what="all clients back", within=90)
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def fill_the_disk(there: Field, record: Record) -> None:
    """The store has no room for a while: nothing is acknowledged that is not kept. Then there is room again."""
    data = there.server.config.data
    filler = data / "filler"
    try:
        with filler.open("wb") as full:
            while full.write(b"\0" * (1 << 20)):
                full.flush()
    except OSError:
        pass
    await asyncio.sleep(3.0)
    filler.unlink()
    if shutil.disk_usage(data).free < 1 << 20:
        record.notes.append("there is no room after the filler was removed")
    await there.server.restart()  # the runbook's way: a server that had no room is started again


async def syncs_fail(there: Field, _: Record) -> None:
    """Each fsync of the server gives EIO for a while; then the server is started again, as the runbook says."""
    inject = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, "-p", str(there.server.pid)]
    tracer = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await asyncio.sleep(3.0)
    there.server.kill()
    await tracer.wait()  # it ends with what it traces
    await there.server.restart()


def not_root() -> str | None:
    """Why a file system cannot be mounted, if it cannot."""
    if os.geteuid() != 0:
        return "needs root: a small file system is mounted"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "this machine does not let root mount file systems"


def no_strace() -> str | None:
    """Why fsync cannot be made to fail, if it cannot."""
    if shutil.which("strace") is None:
        return "needs strace (apt-get install strace)"
    tried = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else "strace may not trace processes on this machine"
