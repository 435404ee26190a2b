"""How large streams may become, and what is said on every surface when one fills up."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command_line import tieline
from scraping import scraped, serving
from support.office import settings
from support.old_deployment import old_deployment
from support.old_deployment_pod import old_pod

from tieline import Bus, Expected, Pod, Stream, connect
from tieline.diagnosis.capacity import alarms
from tieline.errors import BadDeclaration
from tieline.server import ServerConfig
from tieline.services import pager, storage_watch
from tieline.services.doctor import examine, visit
from tieline.settings import PagerSettings
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.infos import stream_infos

MIB = 1024 * 1024
JOURNAL = 1 * MIB


async def sizes(bus: Bus) -> dict[str, int]:
    return {name: info["config"]["max_bytes"] for name, info in (await stream_infos(bus.connection)).items()}


async def test_a_small_office_has_room_for_days_that_filled_the_old_sizes(nats_server: Server) -> None:
    pod = Pod("clinic")
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, pod)
        found = await sizes(bus)
    # Measured with a clinic: 9.8 KB of facts and 3.8 KB of journal for each conversation.
    assert found["CALL_AUDIT"] > 20_000 * 9_800 * 7
    assert found["STEP"] > 20_000 * 3_800 * 3
    assert found["CALL_INTENT"] >= 256 * MIB


def test_sizes_follow_from_what_is_expected() -> None:
    small, busy = Pod("small"), Pod("busy", expects=Expected(conversations_per_day=400_000))
    for name in ("CALL_INTENT", "TOOL_CALL", "STEP", "CALL_AUDIT", "STATE", "TOOL_RESULT"):
        assert (busy.streams[name].max_bytes or 0) > (small.streams[name].max_bytes or 0), name
    own = Stream(name="CALL_TOLD", subjects=("told.*",), max_age="30d")
    said = Stream(name="SAID", subjects=("said.*",), max_bytes=5 * MIB)
    pod = Pod("own", streams=(own, said), expects=Expected(conversations_per_day=400_000))
    assert (pod.streams["CALL_TOLD"].max_bytes or 0) > (pod.streams["CALL_INTENT"].max_bytes or 0)
    assert pod.streams["SAID"].max_bytes == 5 * MIB  # what is said explicitly stays
    for wrong in ({"messages": -1}, {"open": 2}, {"conversations_per_day": float("nan")}, {"steps": "many"}):
        with pytest.raises(BadDeclaration, match="expects"):
            Expected(**wrong)


async def test_limits_only_grow_by_themselves(nats_server: Server) -> None:
    busy = Pod("office", expects=Expected(conversations_per_day=200_000))
    calm = Pod("office")
    async with connect(calm, settings=settings(nats_server.url)) as bus:
        await topology.apply(bus.connection, calm)
        before = await sizes(bus)
        assert {c.field for c in await topology.plan(bus.connection, busy)} == {"max_bytes"}
        await topology.apply(bus.connection, busy)
        grown = await sizes(bus)
        assert grown["CALL_AUDIT"] > before["CALL_AUDIT"]
        assert await topology.plan(bus.connection, calm) == []  # an unlimited or larger stream is never refused
        assert await topology.apply(bus.connection, calm) == []
        assert await sizes(bus) == grown


async def test_an_old_deployment_grows(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        before = await sizes(bus)
        await topology.apply(bus.connection, old_pod)
        after = await sizes(bus)
        assert all(after[name] == -1 or after[name] >= before[name] for name in before)
        assert after["CALL_AUDIT"] > before["CALL_AUDIT"] == 512 * MIB
        assert after["SCHEDULE"] == before["SCHEDULE"] == -1


async def test_a_small_disk_gets_smaller_streams(tmp_path: Path) -> None:
    disk = 1024 * MIB
    async with (
        Server(ServerConfig(data=tmp_path / "nats", sync="2m", max_file_store=disk)) as server,
        connect(Pod("office"), settings=settings(server.url)) as bus,
    ):
        await topology.apply(bus.connection, bus.pod)
        found = await sizes(bus)
        assert set(found) == set(bus.pod.streams)
        assert disk / 4 < sum(size for size in found.values() if size > 0) <= disk
        assert found["CALL_AUDIT"] > found["STEP"] > found["KEYS"]  # in proportion
        await topology.apply(bus.connection, bus.pod)
        assert await sizes(bus) == found


async def test_of_an_account_with_a_limit_a_share_is_used(tmp_path: Path) -> None:
    limit = 2048 * MIB
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{tmp_path}"\njetstream {{ store_dir: "{tmp_path}" }}\n'
        f"accounts {{ A {{ jetstream {{ max_file: {limit} }}, users: [ {{user: a, password: a}} ] }} }}\n"
        "no_auth_user: a\n"
    )
    async with plain_server(config) as url, connect(Pod("office"), settings=settings(url)) as bus:
        await topology.apply(bus.connection, bus.pod)
        found = await sizes(bus)
        assert 0.6 * limit < sum(size for size in found.values() if size > 0) <= 0.81 * limit
        assert await topology.plan(bus.connection, bus.pod) == []


@asynccontextmanager
async def plain_server(config: Path) -> AsyncIterator[str]:
    from support.guarded import address

    from tieline.server import find_binary

    process = await asyncio.create_subprocess_exec(find_binary(), "-c", str(config), stderr=asyncio.subprocess.DEVNULL)
    try:
        yield "nats://" + await eventually(lambda: address(config.parent), what="the server's port")
    finally:
        process.terminate()
        await process.wait()


def crowded() -> Pod:
    """A pod whose journal is small."""
    pod = Pod("crowded")
    pod.streams["STEP"] = replace(pod.streams["STEP"], max_bytes=JOURNAL)
    return pod


async def fill(bus: Bus, share: float) -> None:
    """Records until the journal is that full."""
    number = 0
    while (await bus.connection.api("STREAM.INFO.STEP"))["state"]["bytes"] < share * JOURNAL:
        for _ in range(10):
            number += 1
            await bus.journal.write(
                f"step.a.c{share:.0%}-{number}.step.x".replace("%", ""), {"ok": True, "value": "x" * 1000}
            )


async def test_every_surface_says_that_a_stream_fills_up(
    nats_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pod = crowded()
    chosen = replace(settings(nats_server.url), pager=PagerSettings(every=0.05))
    async with connect(pod, settings=chosen) as bus:
        await topology.apply(bus.connection, pod)
        stop = asyncio.Event()
        services = [asyncio.create_task(storage_watch.run(bus, stop)), asyncio.create_task(pager.run(bus, stop))]

        def logged(name: str, text: str, level: int) -> bool:
            return any(
                record.name == name and text in record.getMessage() and record.levelno == level
                for record in caplog.records
            )

        for share, severity, level in ((0.72, "warning", logging.WARNING), (0.92, "error", logging.ERROR)):
            await fill(bus, share)
            text = f"stream STEP is {str(share)[2]}"  # and another digit, as full as it is then
            await eventually(partial(logged, "tieline.storage", text, level), what="a line in the log")
            seen = examine(await visit(bus.connection, chosen, pod=pod, pause=0.01))
            [finding] = [finding for finding in seen if finding.rule == "filling"]
            assert (finding.severity, finding.thing) == (severity, "stream STEP")
            assert "expects=Expected(" in finding.remedy
            report = await tieline("report", "--json", cwd=tmp_path, url=nats_server.url)
            [alarm] = json.loads(report.out)["alarms"]
            assert (alarm["thing"], share < alarm["ratio"] < share + 0.05) == ("stream STEP", True)
            shown = await tieline("report", cwd=tmp_path, url=nats_server.url)
            assert "handlers wait" in shown.out
            assert "tieline apply" in shown.out
            async with serving(bus) as url:
                ratio = (await scraped(url)).of("tieline_stream_bytes_ratio", stream_name="STEP")
            assert share < ratio < share + 0.05
        await eventually(partial(logged, "tieline.pager", "stream STEP is 7", logging.WARNING), what="a page")
        for task in services:
            if task.done():
                await task
        pod.streams["STEP"] = replace(pod.streams["STEP"], max_bytes=8 * JOURNAL)
        await topology.apply(bus.connection, pod)
        await eventually(
            lambda: logged("tieline.storage", "has room again", logging.WARNING), what="its end in the log"
        )
        await eventually(
            lambda: logged("tieline.pager", "has room again", logging.WARNING), what="its end in the pager"
        )
        stop.set()
        await asyncio.gather(*services)


@pytest.mark.parametrize(
    ("used", "limit", "level"), [(69, 100, None), (70, 100, "warning"), (90, 100, "critical"), (98, 100, "full")]
)
def test_the_thresholds(used: int, limit: int, level: str | None) -> None:
    info: dict[str, Any] = {"config": {"name": "STEP", "max_bytes": limit}, "state": {"bytes": used}}
    account = {"limits": {"max_storage": limit}, "storage": used}
    found = alarms([info], account)
    assert [alarm.level for alarm in found] == ([] if level is None else [level, level])
    unlimited: dict[str, Any] = {"config": {"name": "SCHEDULE", "max_bytes": -1}, "state": {"bytes": used}}
    assert alarms([unlimited]) == []
    assert len(alarms([unlimited], planned={"SCHEDULE": limit})) == (level is not None)
    tiers = {"tiers": {"R1": account, "R3": {"limits": {"max_storage": -1}}}}
    assert len(alarms([], tiers)) == (level is not None)


async def test_the_budget_names_everything_that_is_stored(tmp_path: Path, nats_server: Server) -> None:
    (tmp_path / "shop.py").write_text(
        "from tieline import Expected, Pod\npod = Pod('shop', expects=Expected(conversations_per_day=50_000))\n"
    )
    said = await tieline("size", "shop", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in said.json["rows"]}
    assert set(rows) == set(Pod("shop").streams)
    assert rows["SCHEDULE"]["planned"] > 0
    assert rows["SCHEDULE"]["bound"] is None
    assert said.json["disk"] > sum(row["bound"] or row["planned"] for row in rows.values())
    shown = await tieline("size", "shop", cwd=tmp_path)
    assert (shown.code, shown.err) == (0, "")
    assert "50,000 conversations a day" in shown.out
    async with connect(Pod("shop"), settings=settings(nats_server.url)) as bus:
        await tieline("apply", "shop", cwd=tmp_path, url=nats_server.url)
        on_server = await sizes(bus)
    assert {name: row["bound"] or -1 for name, row in rows.items()} == on_server
