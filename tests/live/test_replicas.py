"""`tieline audit replicas`: bit rot on one of three servers is found, named, and mended by the words it prints."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import tieline
from support.messages import Book
from support.office import settings

from tieline import Bus, Pod, connect
from tieline.errors import NotAccepted
from tieline.server import embedded
from tieline.server.config import render
from tieline.services.replicas import compared, copies, examined, splits
from tieline.testing import Cluster, Server, eventually
from tieline.wire.batches import Outgoing, store_together

STREAM = "CALL_INTENT"


def streams_of(node: Server) -> Path:
    return node.config.data / "jetstream" / "TIELINE" / "streams"


@pytest.mark.nats(monitor_port=0)
async def test_a_copy_that_lost_messages_is_named_and_comes_back(nats_cluster: Cluster, tmp_path: Path) -> None:
    monitors = [str(node.monitor_url) for node in nats_cluster.nodes]
    options = [part for url in monitors for part in ("--monitor", url)]
    async with connect(Pod("office"), settings=settings(nats_cluster.urls[0])) as bus:
        await bus.apply()
        page: list[Outgoing] = [
            ("call.intent.book", json.dumps({"callId": "c" * 200, "note": "n" * 1000}).encode(), {}) for _ in range(500)
        ]
        for _ in range(20):
            assert await store_together(bus.connection, page) is None
        await bus.publish(Book(call_id="c1"))
        leader = (await bus.connection.api(f"STREAM.INFO.{STREAM}"))["cluster"]["leader"]
    await eventually(lambda: agree(monitors), what="the copies to agree")
    said = await tieline("audit", "replicas", *options, cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    assert "on 3 servers: all agree" in said.out

    node = next(node for node in nats_cluster.nodes if node.config.server_name != leader)

    await node.embedded.stop()
    rot(streams_of(node) / STREAM)
    await node.restart()
    await eventually(lambda: holds(monitors), what="three copies")
    said = await tieline("audit", "replicas", *options, cwd=tmp_path)
    assert said.code == 3
    assert f"stop {node.config.server_name}, remove its folder jetstream" in said.out
    [damage] = (await examined(monitors)).damages
    assert (damage.stream, damage.odd) == (STREAM, (node.config.server_name,))

    await node.embedded.stop()
    shutil.rmtree(node.config.data / "jetstream")
    await node.restart()
    await eventually(lambda: agree(monitors), what="the wiped server to catch up", within=30)


def rot(stream: Path) -> None:
    """Flip bytes of an old block, and let the server find its index gone, as after a crash.

    Of an old one: what is missing at the end, a server notices, and gets from the others within seconds.
    """
    assert len(list(stream.glob("msgs/*.blk"))) > 1
    block = min(stream.glob("msgs/*.blk"), key=lambda path: int(path.stem))
    content = bytearray(block.read_bytes())
    for at in range(len(content) // 4, len(content) // 2, 997):
        content[at] ^= 0xFF
    block.write_bytes(content)
    (stream / "msgs" / "index.db").unlink(missing_ok=True)


@pytest.mark.nats(monitor_port=0)
async def test_servers_that_do_not_hear_one_another_are_named(
    nats_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that send by different accounts have no majority while the third is away, though both are up and healthy."""
    odd, away, there = nats_cluster.nodes
    async with connect(Pod("office"), settings=settings(there.url)) as bus:
        await bus.apply()
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "render", lambda config: render(config).replace("cluster_traffic: owner", ""))
        await odd.restart()
    monitors = [str(node.monitor_url) for node in (odd, there)]
    await eventually(lambda: part(monitors), what="each to know how the others send", within=60)
    away.kill()
    options = [word for url in monitors for word in ("--monitor", url)]
    said = await tieline("audit", "replicas", *options, cwd=tmp_path)
    assert said.code == 3
    assert "account TIELINE is split: its servers do not hear one another" in said.out
    assert f"or restart {odd.config.server_name} while it is down" in said.out
    said = await tieline("audit", "replicas", *options, "--json", cwd=tmp_path)
    [split] = json.loads(said.out)["split"]
    assert split["traffic"] == {odd.config.server_name: "SYS", there.config.server_name: "TIELINE"}
    async with connect(Pod("office"), settings=settings(there.url)) as bus:
        with pytest.raises(NotAccepted):
            await bus.publish(Book(call_id="c1"))

        await odd.restart()  # as it says, and with its configuration put right
        await eventually(lambda: accepts(bus), what="a majority of two", within=60)
    await eventually(lambda: of_one_mind(monitors), what="the two to hear one another")


async def accepts(bus: Bus) -> bool:
    try:
        await bus.publish(Book(call_id="c1"))
    except NotAccepted:
        return False
    return True


async def part(monitors: list[str]) -> bool:
    found = [sorted(split.traffic.values()) for split in splits(await copies(monitors))]
    return found == [["SYS", "TIELINE"]]


async def of_one_mind(monitors: list[str]) -> bool:
    return not splits(await copies(monitors))


async def agree(monitors: list[str]) -> bool:
    found = [copy for copy in await copies(monitors) if copy.stream == STREAM]
    return len(found) == 3 and not compared(found)


async def holds(monitors: list[str]) -> bool:
    return len([copy for copy in await copies(monitors) if copy.stream == STREAM]) == 3


async def test_one_server_has_nothing_to_compare(tmp_path: Path) -> None:
    said = await tieline("audit", "replicas", "--monitor", "http://127.0.0.1:1", cwd=tmp_path)
    assert (said.code, "give --monitor URL for each" in said.err) == (2, True)
    said = await tieline(*("audit", "replicas"), *["--monitor", "http://127.0.0.1:1"] * 2, cwd=tmp_path)
    assert (said.code, "127.0.0.1:1" in said.err) == (1, True)
