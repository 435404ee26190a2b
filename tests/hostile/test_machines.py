"""Machines that lose their power, or each other: the harness does what it says, and default settings lose messages."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from support.office import settings, stored

from tieline import Bus, Conversation, Host, Message, Pod, connect
from tieline.errors import NotApplied, ServerFailed
from tieline.server import ServerConfig
from tieline.testing import Cluster, Server, eventually
from tieline.testing.torture.disks import disk_at, no_disk
from tieline.testing.torture.network import Network, network_of, no_network
from tieline.wire.connection import ApiError, NoAnswer


class Book(Message, subject="call.intent.book"):
    call_id: str


async def publish(bus: Bus, count: int) -> int:
    """How many were acknowledged."""
    await asyncio.gather(*(bus.publish(Book(call_id=f"c{number}")) for number in range(count)))
    return count


async def gone(server: Server) -> str:
    """Start it; what it says where streams of it are gone whole."""
    try:
        await server.start()
    except ServerFailed as failed:
        return str(failed)
    return ""


@pytest.mark.parametrize("sync", ["always", "2m"])
async def test_what_a_loss_of_power_costs(tmp_path: Path, sync: str) -> None:
    """Nothing with our setting. With the server's own it must cost something, or this test could not tell."""
    if why := no_disk():
        pytest.skip(why)
    pod = Pod("office")
    place = tmp_path / "nats"
    with disk_at(place, tmp_path / "images") as disk:
        server = Server(ServerConfig(data=place, sync=sync, max_file_store=1 << 40))
        async with server:
            async with connect(pod, settings=settings(server.url)) as bus:
                await bus.apply()
                acked = await publish(bus, 500)
                server.pause()
                disk.lose(server)
            lost = await gone(server)
            assert not (lost and sync == "always"), lost
            if lost:
                assert "could not be recovered" in lost
                return
            async with connect(pod, settings=settings(server.url)) as bus:
                left = 0
                with suppress(NotApplied):  # the stream itself is gone
                    left = len(await stored(bus, "call.intent.book"))
    assert (left == acked) == (sync == "always"), f"{acked} acknowledged, {left} left"


_ASK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as found:
        print("heard" if found.recv(4) else "silent")
except OSError:
    print("nothing")
"""


async def test_a_cut_is_a_cut(tmp_path: Path) -> None:
    """Between two servers, in one direction alone or both; we are heard by both all the time."""
    if why := no_network():
        pytest.skip(why)
    with network_of(2) as network:
        config = ServerConfig(data=tmp_path, host=network.address(0), sync="2m")
        async with Server(config, network.launcher(0)) as server:
            port = server.url.rpartition(":")[2]

            async def asked(*launcher: str) -> str:
                command = [*launcher, sys.executable, "-c", _ASK, network.address(0), port]
                asking = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
                said, _ = await asking.communicate()
                return said.decode().strip()

            other = network.launcher(1)
            assert (await asked(), await asked(*other)) == ("heard", "heard")
            for deaf, speaker in ((0, 1), (1, 0)):
                network.deafen(deaf, speaker)
                assert (await asked(), await asked(*other)) == ("heard", "nothing")
                network.hear(deaf, speaker)
            assert await asked(*other) == "heard"


@asynccontextmanager
async def separable(folder: Path) -> AsyncIterator[tuple[Network, Cluster]]:
    """Three servers, and the network between them."""
    if why := no_network():
        pytest.skip(why)
    with network_of(3) as network:
        config = ServerConfig(data=folder, sync="2m", server_name="cut")
        place = lambda number: (network.address(number), network.launcher(number))  # noqa: E731
        async with Cluster(config, 3, place) as cluster:
            yield network, cluster


def cut_off(network: Network, alone: int) -> None:
    for other in {0, 1, 2} - {alone}:
        network.cut(alone, other)


async def test_a_process_leaves_a_server_that_is_cut_off(tmp_path: Path) -> None:
    """Connected to it and to no other, an agent would wait for as long as the cut lasts."""
    pod = Pod("office")

    @pod.agent
    async def booking(_book: Book, _: Conversation) -> None: ...

    async with separable(tmp_path) as (network, cluster):
        chosen = settings(cluster.nodes[0].url, patience=120.0)
        async with connect(pod, settings=chosen) as bus:  # told of one; the server tells of the others
            await bus.apply()
            assert bus.connection.server["server_name"] == "cut-n1"
            cut_off(network, 0)
            async with asyncio.timeout(100):
                await bus.publish(Book(call_id="c1"))
            assert bus.connection.server["server_name"] in ("cut-n2", "cut-n3")
            found = await eventually(lambda: stored(bus, "call.intent.book"), what="the message", within=60)
    assert len(found) == 1


async def test_an_answer_that_a_server_has_by_itself_keeps_nobody_there(tmp_path: Path) -> None:
    """One that is cut off goes on answering infos of what it led."""
    pod, taken = Pod("office"), []

    @pod.agent
    async def booking(book: Book, _: Conversation) -> None:
        taken.append(book.call_id)

    async with separable(tmp_path) as (network, cluster):
        async with connect(pod, settings=settings(cluster.nodes[0].url)) as bus:
            await bus.apply()
            info = await bus.connection.api("STREAM.INFO.CALL_INTENT")
        leader = next(n for n in range(3) if cluster.nodes[n].config.server_name == info["cluster"]["leader"])
        alone, well = cluster.nodes[leader].url, cluster.nodes[(leader + 1) % 3].url
        async with (
            connect(pod, settings=settings(alone)) as there,
            connect(pod, settings=settings(well, patience=120.0)) as here,
        ):
            asking = asyncio.create_task(ask_without_end(there))
            host = Host(there, ["booking"])
            running = asyncio.create_task(host.run())
            cut_off(network, leader)
            await here.publish(Book(call_id="c1"))
            await eventually(lambda: taken, what="the message", within=100)
            host.stop()
            await running
            asking.cancel()
    assert taken == ["c1"]


async def ask_without_end(bus: Bus) -> None:
    while True:
        with suppress(ApiError, NoAnswer):
            await bus.connection.api("STREAM.INFO.CALL_INTENT")
        await asyncio.sleep(0.3)
