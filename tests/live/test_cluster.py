"""A pod on three servers: three replicas, Raft traffic in its own account, and each server's death under load."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from command_line import started
from support.office import QUICK, at_work, settings

from tieline import Bus, Conversation, Message, Pod, Settings, connect
from tieline.errors import BadSettings, NotAccepted
from tieline.server import ServerConfig
from tieline.server.cluster import configs_of
from tieline.services import accountant
from tieline.services.doctor import examine, visit
from tieline.settings import PublishSettings
from tieline.testing import Cluster, Server, eventually
from tieline.wire.connection import ApiError, NoAnswer

STREAM = "CALL_INTENT"


class Job(Message, subject="call.intent.job"):
    call_id: str


@dataclass
class Work:
    """A pod that notes what it did, and what was accepted for it."""

    pod: Pod = field(default_factory=lambda: Pod("office", limits=replace(QUICK, ack_wait=2.0)))
    accepted: list[str] = field(default_factory=list)
    noted: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        @self.pod.tool(effect="once")
        async def note(call_id: str) -> None:
            self.noted[call_id] = self.noted.get(call_id, 0) + 1

        @self.pod.agent
        async def worker(job: Job, call: Conversation) -> None:
            await call.tool(note, job.call_id)


def with_all(cluster: Cluster) -> Settings:
    found = settings(cluster.urls[0], audit=True, patience=30.0, reconnect=60.0)
    return replace(found, connection=replace(found.connection, servers=cluster.urls))


@asynccontextmanager
async def under_load(cluster: Cluster, work: Work) -> AsyncIterator[Bus]:
    """The pod works while jobs come, ten at a time; at the end everything accepted is done, once, and the sum holds."""
    async with at_work(work.pod, with_all(cluster)) as office:
        stop = asyncio.Event()

        async def publish(lane: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                call = f"c{lane}-{number}"
                try:
                    await office.bus.publish(Job(call_id=call), id=call)
                except NotAccepted:
                    continue  # said no: nothing was promised
                work.accepted.append(call)
                await asyncio.sleep(0.02)

        lanes = [asyncio.create_task(publish(lane)) for lane in range(4)]
        await eventually(lambda: len(work.accepted) >= 20, what="some work", within=30)
        yield office.bus
        before = len(work.accepted)
        await eventually(lambda: len(work.accepted) > before + 8, what="work that is accepted again", within=60)
        stop.set()
        await asyncio.gather(*lanes)
        await eventually(lambda: work.noted.keys() >= set(work.accepted), what="everything accepted", within=60)
        await eventually(lambda: holds(office.bus), what="the sum", within=60)


async def holds(bus: Bus) -> bool:
    rows = await accountant.take(bus)
    return bool(rows) and all(row.holds and not row.pending for row in rows)


async def leader(bus: Bus, cluster: Cluster) -> Server:
    info = await bus.connection.api(f"STREAM.INFO.{STREAM}")
    return cluster.named(info["cluster"]["leader"])


async def test_streams_have_three_replicas_and_their_traffic_is_their_owners(nats_cluster: Cluster) -> None:
    work = Work()
    async with connect(work.pod, settings=with_all(nats_cluster)) as bus:
        await bus.apply()
        for stream in work.pod.streams:
            info = await bus.connection.api(f"STREAM.INFO.{stream}")
            assert info["config"]["num_replicas"] == 3
            assert info["cluster"]["traffic_account"] == "TIELINE"
        info = await bus.connection.api(f"CONSUMER.INFO.{STREAM}.worker")
        assert len(info["cluster"]["replicas"]) == 2
        seen = await visit(bus.connection, bus.settings, pod=work.pod, pause=0.1)
    assert not {found.rule for found in examine(seen)} & {"one-replica", "cluster-traffic"}


@pytest.mark.parametrize("how", ["kill", "pause"])
async def test_a_leader_that_goes_takes_nothing_with_it(how: str, nats_cluster: Cluster) -> None:
    work = Work()
    async with under_load(nats_cluster, work) as bus:
        node = await leader(bus, nats_cluster)
        if how == "kill":
            node.kill()
        else:
            node.pause()
        before = len(work.accepted)
        await eventually(lambda: len(work.accepted) > before + 8, what="a new leader", within=60)
        if how == "kill":
            await node.restart()
        else:
            node.resume()


async def test_all_three_may_be_killed_at_once(nats_cluster: Cluster) -> None:
    work = Work()
    async with under_load(nats_cluster, work):
        for node in nats_cluster.nodes:
            node.kill()
        await asyncio.gather(*(node.restart() for node in nats_cluster.nodes))


async def test_the_cluster_may_be_rolled(nats_cluster: Cluster) -> None:
    work = Work()
    async with under_load(nats_cluster, work) as bus:
        for node in nats_cluster.nodes:
            await node.restart()
            await eventually(lambda: in_sync(bus), what="the replicas to have caught up", within=60)


async def in_sync(bus: Bus) -> bool:
    try:
        info = await bus.connection.api(f"STREAM.INFO.{STREAM}")
    except (ApiError, NoAnswer):  # between two leaders
        return False
    return all(peer["current"] for peer in info["cluster"]["replicas"])


async def test_up_brings_back_a_server_that_ends(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from tieline import Conversation, Message, Pod\n"
        "class Book(Message, subject='call.intent.book'):\n    call_id: str\n"
        "pod = Pod('shop')\n"
        "@pod.agent\nasync def booking(book: Book, call: Conversation) -> None: ...\n"
    )
    async with started("up", "shop", "--servers", "3", "--port", "0", "--json", cwd=tmp_path) as up:
        ready = await up.line(event="ready")
        assert len(ready["url"].split(",")) == 3
        [first] = pids_in(tmp_path / ".tieline" / "n2")
        os.kill(first, signal.SIGKILL)
        exited = await up.line(event="exited")
        assert (exited["name"], exited["code"]) == ("nats-server tieline-n2", -signal.SIGKILL)
        assert (await up.line(event="restarted"))["name"] == "nats-server tieline-n2"
        await eventually(lambda: pids_in(tmp_path / ".tieline" / "n2") - {first}, what="another server", within=30)
        up.process.send_signal(signal.SIGTERM)
        assert (await up.ended()).code == 0


def pids_in(folder: Path) -> set[int]:
    """The server names its ports file by its pid."""
    return {int(path.stem.rpartition("_")[2]) for path in folder.glob("*.ports")}


def test_two_servers_are_no_cluster() -> None:
    with pytest.raises(BadSettings, match="3 or 5 servers"):
        configs_of(ServerConfig(data=Path("x")), 2)


async def test_two_lost_servers_are_an_outage_until_one_is_back(nats_cluster: Cluster) -> None:
    """The runbook: one of them with its disk makes a leader; then the other may come with an empty one."""
    pod = Pod("office", limits=QUICK)
    found = with_all(nats_cluster)
    impatient = replace(found, publish=PublishSettings(patience=3.0, ack_timeout=1.0), audit=False)
    _, *lost = nats_cluster.nodes
    async with connect(pod, settings=impatient) as bus:
        await bus.apply()
        for number in range(20):
            await bus.publish(Job(call_id=f"c{number}"), id=f"c{number}")
        await eventually(lambda: in_sync(bus), what="the survivor to have everything", within=30)
        for node in lost:
            node.kill()
        with pytest.raises(NotAccepted, match="are most of its servers up"):
            await bus.publish(Job(call_id="late"), id="late")
        await lost[0].restart()
        await eventually(lambda: leads(bus), what="a leader", within=60)
        shutil.rmtree(lost[1].config.data / "jetstream")
        await lost[1].restart()
        await eventually(lambda: accepts(bus), what="the same message to be accepted", within=60)
        info = await bus.connection.api(f"STREAM.INFO.{STREAM}")
        assert info["state"]["messages"] == 21
        await eventually(lambda: in_sync(bus), what="the one with the empty disk to have everything", within=60)


async def accepts(bus: Bus) -> bool:
    try:
        await bus.publish(Job(call_id="late"), id="late")
    except NotAccepted:
        return False
    return True


async def leads(bus: Bus) -> bool:
    try:
        return bool((await bus.connection.api(f"STREAM.INFO.{STREAM}"))["cluster"].get("leader"))
    except (ApiError, NoAnswer):
        return False
