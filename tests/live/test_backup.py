"""Backup and restore: work in flight comes back where it stood, and what breaks in the middle never counts as whole."""

import asyncio
import json
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from command_line import started, tieline
from support.guarded import address, guarded_server
from support.office import QUICK, at_work, consumer_info, dead_letters, settings, stored

from tieline import Bus, Conversation, Message, Pod, Refuse, connect
from tieline.errors import BackupFailed
from tieline.runtime import waits
from tieline.server import ServerConfig
from tieline.services import accountant
from tieline.services.backups.manifest import MANIFEST, Manifest
from tieline.services.backups.order import in_order
from tieline.services.backups.restoring import MARK, Restored, opened, restore, standing
from tieline.services.backups.taking import Wanted, take
from tieline.testing import Cluster, Server, eventually
from tieline.wire.topology import stream_infos

SHOP = """
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop")

@pod.agent
async def booking(intent: Book, call: Conversation) -> None: ...
"""


class Job(Message, subject="call.intent.job"):
    call_id: str
    kind: str = "plain"
    pad: str = ""


@dataclass
class Work:
    """A pod that counts what it did. Its numbers outlive servers: they are the outside world."""

    pod: Pod = field(default_factory=lambda: Pod("desk", limits=replace(QUICK, ack_wait=1.0)))
    done: list[str] = field(default_factory=list)
    noted: dict[str, int] = field(default_factory=dict)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        @self.pod.tool(effect="once")
        async def note(call_id: str) -> None:
            self.noted[call_id] = self.noted.get(call_id, 0) + 1

        @self.pod.agent
        async def worker(job: Job, call: Conversation) -> Refuse | None:
            await call.tool(note, job.call_id)
            match job.kind:
                case "asks":
                    await call.ask_human("May I?", expects=bool)
                case "held":
                    await self.release.wait()
                case "refused":
                    return Refuse("not ours")
            self.done.append(job.call_id)
            return None


def quiet(_stream: str, _done: int, _total: int) -> None:
    """No progress bar."""


async def saved(bus: Bus, to: Path, *, settle: float | None = 0.3) -> Manifest:
    return await take(bus.connection, Wanted(pod=bus.pod, settle=settle), to, quiet)


async def put_back(bus: Bus, folder: Path, *, force: bool = False) -> list[Restored]:
    return await restore(bus.connection, opened(folder), quiet, pod=bus.pod, force=force)


async def holds(bus: Bus) -> bool:
    return all(row.holds for row in await accountant.take(bus))


def random_text() -> str:
    """20 kB that do not compress much: snapshots have many chunks."""
    return os.urandom(10_000).hex()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("b*"))


async def all_ended(bus: Bus) -> bool:
    return all(row.holds and not row.pending for row in await accountant.take(bus))


@asynccontextmanager
async def filled(server: Server, count: int = 100) -> AsyncIterator[Bus]:
    """A pod's streams with jobs that nobody has taken yet."""
    async with connect(Work().pod, settings=settings(server.url)) as bus:
        await bus.apply()
        await asyncio.gather(*(bus.publish(Job(call_id=f"c{n}", pad=random_text())) for n in range(count)))
        yield bus


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[Server]:
    """Another server, with nothing on it."""
    async with Server(ServerConfig(data=tmp_path / "other", sync="2m")) as server:
        yield server


async def test_work_in_flight_comes_back_where_it_stood(
    nats_server: Server, other: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "_SHORT", 0.05)
    work = Work()
    async with at_work(work.pod, settings(nats_server.url, audit=True)) as office:
        for kind in ("plain", "asks", "held", "refused"):
            for number in range(3):
                await office.bus.publish(Job(call_id=f"{kind}-{number}", kind=kind))
        await eventually(lambda: in_place(office.bus, work), what="each job where it is to be")
        await office.bus.written()
        manifest = await saved(office.bus, tmp_path / "b")
        assert (manifest.paused, manifest.running) == (True, 3)
        assert [one.moved for one in manifest.streams] == [False] * len(manifest.streams)
        work.release.set()  # the old office ends its work; the backup knows nothing of it
        await eventually(lambda: len(work.done) == 6, what="the pause to be over")
    work.release.set()
    work.done.clear()

    async with connect(work.pod, settings=settings(other.url)) as bus:
        found = await put_back(bus, tmp_path / "b")
        assert [(one.stream, one.wrong) for one in found if one.wrong] == []
        assert await holds(bus)
        assert await bus.apply() == []  # nothing to do
    async with at_work(work.pod, settings(other.url, audit=True)) as office:
        for asked in await stored(office.bus, "step.worker.*.question.*"):
            await office.bus.journal.write(asked.subject.replace(".question.", ".human."), {"ok": True, "value": True})
        await eventually(lambda: len(work.done) == 6, what="what was pending and what was parked")
        await office.bus.publish(Job(call_id="new"))
        await eventually(lambda: "new" in work.done, what="new work")
        await eventually(lambda: holds(office.bus), what="the sum")
        assert len(await dead_letters(office.bus)) == 3
    assert sorted(work.done) == ["asks-0", "asks-1", "asks-2", "held-0", "held-1", "held-2", "new"]
    assert set(work.noted.values()) == {1}, "a step that was journaled ran again"


async def in_place(bus: Bus, work: Work) -> bool:
    """Three are done, three parked, three dead; three are being handled."""
    info = await consumer_info(bus, "CALL_INTENT", "worker")
    parked = await stored(bus, "step.worker.*.park.*")
    return len(work.done) == 3 and len(parked) == 3 and (info["num_pending"], info["num_ack_pending"]) == (0, 3)


async def test_a_backup_under_load_goes_into_a_cluster_and_back(
    nats_server: Server, nats_cluster: Cluster, other: Server, tmp_path: Path
) -> None:
    work = Work()
    async with at_work(work.pod, settings(nats_server.url, audit=True)) as office:
        accepted: list[str] = []
        load = asyncio.create_task(publish_on(office.bus, accepted))
        await eventually(lambda: len(work.done) > 50, what="some work")
        known = list(accepted)
        await saved(office.bus, tmp_path / "live", settle=None)
        await eventually(lambda: len(accepted) > len(known) + 20, what="work beside and after the backup")
        load.cancel()
        await asyncio.wait([load])
    work.done.clear()
    finished = set(work.noted)
    async with connect(work.pod, settings=settings(nats_cluster.urls[0])) as bus:
        found = await put_back(bus, tmp_path / "live")
        assert [(one.stream, one.wrong) for one in found if one.wrong] == []
        assert {one.replicas for one in found} == {3}
        assert all(info["config"]["num_replicas"] == 3 for info in (await stream_infos(bus.connection)).values())
        assert set(known) <= {json.loads(d.payload)["callId"] for d in await stored(bus, "call.intent.job")}
    async with at_work(work.pod, settings(nats_cluster.urls[0], audit=True)) as office:
        await office.bus.publish(Job(call_id="new"))
        await eventually(lambda: "new" in work.done, what="new work", within=30)
        await eventually(lambda: all_ended(office.bus), what="the sum, and nothing pending", within=30)
        assert set(known) <= finished | set(work.done)
        manifest = await saved(office.bus, tmp_path / "back")
        assert (manifest.cluster, manifest.running) == ("tieline", 0)
    async with connect(work.pod, settings=settings(other.url)) as bus:
        found = await put_back(bus, tmp_path / "back")
        assert [(one.stream, one.wrong) for one in found if one.wrong] == []
        assert {one.replicas for one in found} == {1}
        assert await holds(bus)


async def publish_on(bus: Bus, accepted: list[str]) -> None:
    while True:
        call = f"c{len(accepted)}"
        await bus.publish(Job(call_id=call), id=call)
        accepted.append(call)


async def test_paused_consumers_deliver_nothing_and_go_on_by_themselves(nats_server: Server, tmp_path: Path) -> None:
    work = Work()
    held: list[int] = []
    async with at_work(work.pod, nats_server.url) as office:
        await office.bus.publish(Job(call_id="before"))
        await eventually(lambda: work.done, what="work before it")
        tasks: list[asyncio.Task[object]] = []

        def progress(_stream: str, _done: int, _total: int) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(paused_for(office.bus, held)))
                tasks.append(asyncio.create_task(office.bus.publish(Job(call_id="during"))))

        await take(office.bus.connection, Wanted(pod=work.pod), tmp_path / "b", progress)
        await asyncio.gather(*tasks)
        await eventually(lambda: work.done == ["before", "during"], what="work after it")
    assert 0 < held[0] <= 60e9, "a backup that dies must not hold the agents for ever"


async def test_a_backup_that_is_killed_leaves_no_backup_and_lets_go(nats_server: Server, tmp_path: Path) -> None:
    """It waits for a handler that does not end, and dies."""
    (tmp_path / "shop.py").write_text("import asyncio\n" + SHOP.replace(" ...", " await asyncio.sleep(600)"))
    url = nats_server.url
    assert (await tieline("apply", "shop", cwd=tmp_path, url=url)).code == 0
    assert (await tieline("pub", "call.intent.book", '{"callId": "c1"}', cwd=tmp_path, url=url)).code == 0
    async with (
        started("run", "shop", "booking", cwd=tmp_path, url=url),
        connect(Pod("desk"), settings=settings(url)) as bus,
    ):
        await eventually(lambda: held_by(bus, "num_ack_pending"), what="the handler at work")
        async with started("backup", "shop", "--to", "b", "--settle", "10m", cwd=tmp_path, url=url) as backup:
            await eventually(lambda: held_by(bus, "pause_remaining"), what="the pause")
            backup.process.kill()
            await backup.process.wait()
        assert left_in(tmp_path) == ["b.partial"]
        assert 0 < await held_by(bus, "pause_remaining") <= 60e9
        again = await tieline("backup", "shop", "--to", "b", "--settle", "0s", "--json", cwd=tmp_path, url=url)
        assert (again.code, again.json["running"]) == (0, 1), again.err
        assert await held_by(bus, "pause_remaining") == 0


async def held_by(bus: Bus, field: str) -> int:
    return int((await consumer_info(bus, "CALL_INTENT", "booking")).get(field, 0))


async def test_a_clock_that_is_behind_is_told_before_anything_is_saved(
    nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would let go at once what it is to hold until a time that is over."""
    monkeypatch.setattr("tieline.services.backups.pausing._PAUSE", -3600.0)
    async with filled(nats_server, 1) as bus:
        with pytest.raises(BackupFailed, match="clock is behind"):
            await saved(bus, tmp_path / "b")
    assert left_in(tmp_path) == []


async def paused_for(bus: Bus, held: list[int]) -> None:
    held.append(int((await consumer_info(bus, "CALL_INTENT", "worker")).get("pause_remaining", 0)))


def breaking(what: Callable[[], None], at: float) -> Callable[[str, int, int], None]:
    """A progress that breaks something once, when this part of the messages is through. Both sides run ahead."""
    left = [what]

    def progress(name: str, done: int, total: int) -> None:
        if name == "CALL_INTENT" and left and done > total * at:
            left.pop()()

    return progress


async def test_a_server_killed_during_a_backup_leaves_no_backup(nats_server: Server, tmp_path: Path) -> None:
    to = tmp_path / "b"
    async with filled(nats_server, 400) as bus:
        with pytest.raises(BackupFailed, match="in the middle of the snapshot of stream CALL_INTENT"):
            await take(bus.connection, Wanted(pod=bus.pod), to, breaking(nats_server.kill, 0.1))
        assert left_in(tmp_path) == []
        await nats_server.restart()
        await eventually(lambda: bus.connection.connected, what="the connection")
        (tmp_path / "b.partial").mkdir()  # as if we had been killed too
        (tmp_path / "b.partial" / "CALL_INTENT.snapshot").write_bytes(b"half")
        with pytest.raises(BackupFailed, match="without it the folder is not whole"):
            opened(tmp_path / "b.partial")
        await saved(bus, to)
        assert {saved.messages for saved in opened(to, ["CALL_INTENT"]).streams} == {400}
        with pytest.raises(BackupFailed, match="never written over"):
            await saved(bus, to)


async def test_a_server_killed_during_a_restore_leaves_a_mark(
    nats_server: Server, other: Server, tmp_path: Path
) -> None:
    async with filled(nats_server, 400) as bus:
        await saved(bus, tmp_path / "b")
        pod = bus.pod
    async with connect(pod, settings=settings(other.url)) as bus:
        source = opened(tmp_path / "b")
        with pytest.raises(BackupFailed, match=r"the restore of stream CALL_INTENT.*marked as unf"):
            await restore(bus.connection, source, breaking(other.kill, 0.6), pod=pod)
    await other.restart()
    async with connect(pod, settings=settings(other.url)) as bus:
        half = (await stream_infos(bus.connection))["CALL_INTENT"]
        assert (half["config"]["metadata"][MARK], half["state"]["messages"] < 400) == ("1", True)
        assert MARK in (await stream_infos(bus.connection))["STEP"]["config"]["metadata"], "none counts before all do"
        assert await standing(bus.connection, source) == []
        found = await put_back(bus, tmp_path / "b")
        assert [(one.stream, one.wrong) for one in found if one.wrong] == []
        whole = (await stream_infos(bus.connection))["CALL_INTENT"]
        assert (MARK in whole["config"]["metadata"], whole["state"]["messages"]) == (False, 400)
        assert await holds(bus)


async def test_what_is_damaged_is_named_before_anything_is_touched(nats_server: Server, tmp_path: Path) -> None:
    async with filled(nats_server, 3) as bus:
        manifest = await saved(bus, tmp_path / "b")
        flipped = tmp_path / "b" / "CALL_INTENT.snapshot"
        content = bytearray(flipped.read_bytes())
        content[len(content) // 2] ^= 1
        flipped.write_bytes(content)
        (tmp_path / "b" / "STEP.snapshot").unlink()
        with pytest.raises(
            BackupFailed, match=r"CALL_INTENT.snapshot \(its sha256 is another\), STEP.snapshot \(No such"
        ):
            opened(tmp_path / "b")
        assert [one.name for one in opened(tmp_path / "b", ["DLQ"]).streams] == ["DLQ"]
        with pytest.raises(BackupFailed, match="has no stream NOPE"):
            opened(tmp_path / "b", ["NOPE"])

        told = json.loads(manifest.model_dump_json())
        told["streams"][0]["file"] = "../../etc/passwd"
        (tmp_path / "b" / MANIFEST).write_text(json.dumps(told))
        with pytest.raises(BackupFailed, match="not a file of this folder"):
            opened(tmp_path / "b", [told["streams"][0]["name"]])


async def test_a_full_disk_leaves_nothing(nats_server: Server, tmp_path: Path) -> None:
    """The limit on a file's size stands in for the disk: the write fails in the middle in the same way."""
    async with filled(nats_server, 400) as bus:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            with pytest.raises(BackupFailed, match="cannot be written: File too large; nothing of it is left"):
                await saved(bus, tmp_path / "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert left_in(tmp_path) == []


async def test_the_commands(nats_server: Server, other: Server, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    assert (await tieline("backup", "shop", "--to", "b", cwd=tmp_path, url=nats_server.url)).code == 1
    assert (await tieline("apply", "shop", cwd=tmp_path, url=nats_server.url)).code == 0
    sent = await tieline("pub", "call.intent.book", '{"callId": "c1"}', cwd=tmp_path, url=nats_server.url)
    assert sent.code == 0
    said = await tieline("backup", "shop", "--to", "b", "--json", cwd=tmp_path, url=nats_server.url)
    assert (said.code, said.err) == (0, "")
    assert {one["name"]: one["messages"] for one in said.json["streams"]}["CALL_INTENT"] == 1

    said = await tieline("restore", "shop", "--from", "b", cwd=tmp_path, url=other.url)
    assert (said.code, said.err) == (0, "")
    assert "The sum" in said.out
    said = await tieline("restore", "shop", "--from", "b", cwd=tmp_path, url=other.url)
    assert (said.code, "CALL_INTENT" in said.err, "--force" in said.err) == (1, True, True)
    said = await tieline("restore", "shop", "--from", "b", "--force", cwd=tmp_path, url=other.url)
    assert (said.code, "--yes" in said.err) == (2, True)

    told = json.loads((tmp_path / "b" / MANIFEST).read_text())
    for one in told["streams"]:
        if one["name"] == "CALL_INTENT":  # as if the server had not given back what it was given
            one["last_seq"] += 1
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(told))
    said = await tieline("restore", "--from", "b", "--force", "--yes", "--json", cwd=tmp_path, url=other.url)
    assert said.code == 3
    assert said.json["wrong"] == ["CALL_INTENT: last sequence 1, not 2"]


async def test_the_permissions_that_the_page_gives_are_enough(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations" / "backup.md").read_text(encoding="utf-8")
    fence = page.partition("```conf\n")[2].partition("```")[0]
    users = f"{{ user: admin, password: a }}, {{ user: backup, password: b, permissions: {{ {fence} }} }}"
    (tmp_path / "shop.py").write_text(SHOP)
    with guarded_server(tmp_path / "guarded", users) as data:
        at = await eventually(lambda: address(data), what="the server")
        variables = {"TIELINE_SERVERS": f"nats://backup:b@{at}", "TIELINE_INBOX_PREFIX": "_INBOX_backup"}
        assert (await tieline("apply", "shop", cwd=tmp_path, url=f"nats://admin:a@{at}")).code == 0
        for command in (
            ("backup", "shop", "--to", "b"),
            ("restore", "shop", "--from", "b", "--force", "--yes"),
        ):
            async with started(*command, cwd=tmp_path, **variables) as program:
                ended = await program.ended()
            assert (ended.code, ended.err) == (0, ""), ended.err
        denied = await tieline("apply", "shop", cwd=tmp_path, url=f"nats://backup:b@{at}")
        assert denied.code == 1


def test_effects_are_saved_after_what_they_are_effects_of() -> None:
    def copies(*names: str) -> dict[str, object]:
        return {"sources": [{"name": name} for name in names]}

    streams = {
        "STEP": {},
        "TOOL_RESULT": copies("STEP"),
        "CALL_INTENT": copies("SCHEDULE"),
        "SCHEDULE": {},
        "DLQ": {},
        "CALL_AUDIT": {},
        "OBJ_TIELINE": {},
        "COPY": copies("TOOL_RESULT"),
    }
    found = in_order(streams, {"CALL_INTENT", "STEP"})
    assert found[0] == "CALL_AUDIT"
    assert found[-1] == "OBJ_TIELINE"
    for first, then in [
        ("CALL_INTENT", "STEP"),
        ("CALL_INTENT", "DLQ"),
        ("CALL_INTENT", "SCHEDULE"),
        ("TOOL_RESULT", "STEP"),
        ("COPY", "TOOL_RESULT"),
    ]:
        assert found.index(first) < found.index(then)
    assert sorted(in_order({"A": copies("B"), "B": copies("A")}, ())) == ["A", "B"]


def test_when_the_backup_was_taken_is_in_it(tmp_path: Path) -> None:
    manifest = Manifest(
        pod="desk",
        version="1",
        at=datetime.fromisoformat("2026-01-31T09:30:00Z"),
        tieline="0.1.0",
        server="2.15.1",
        cluster="",
        paused=True,
        running=0,
        streams=(),
    )
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json())
    assert opened(tmp_path).manifest == manifest
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json().replace('"format":1', '"format":2'))
    with pytest.raises(BackupFailed, match=r"manifest.json cannot be used: format: .*newer Tieline"):
        opened(tmp_path)


async def test_the_checkpoint_of_the_sum_comes_back_with_the_streams(
    nats_server: Server, other: Server, tmp_path: Path
) -> None:
    """The restored books go on where they stood. They are not taken for those of streams that were created again."""
    async with filled(nats_server, 5) as bus:
        stop = asyncio.Event()
        running = asyncio.create_task(accountant.run(bus, stop))
        await eventually(lambda: _has_checkpoint(bus), what="a checkpoint")
        stop.set()
        await running
        await bus.publish(Job(call_id="later", pad=""))
        manifest = await saved(bus, tmp_path / "b")
        assert manifest.streams[0].name == "ACCOUNTING"
    async with connect(Work().pod, settings=settings(other.url)) as bus:
        await put_back(bus, tmp_path / "b")
        assert await _has_checkpoint(bus)
        [row] = [row for row in await accountant.take(bus) if row.agent == "worker" and row.stream == "CALL_INTENT"]
    assert (row.published, row.pending, row.unaccounted, row.holds) == (6, 6, 0, True)


async def _has_checkpoint(bus: Bus) -> bool:
    return bool((await bus.connection.api("STREAM.INFO.ACCOUNTING"))["state"]["messages"])
