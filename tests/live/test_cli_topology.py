"""`tieline plan` and `tieline apply`, as processes on a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import tieline

from tieline.settings import ConnectionSettings
from tieline.wire.connection import Connection

_POD = """
from tieline import Conversation, Limits, Message, Pod

class Book(Message, subject="call.intent.book"):
    call_id: str

pod = Pod("shop", version="{version}")

@pod.agent(limits=Limits(ack_wait={ack_wait}))
async def booking(intent: Book, call: Conversation) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version, ack_wait in ((1, 20), (2, 40)):
        (tmp_path / f"shop{version}.py").write_text(_POD.format(version=version, ack_wait=ack_wait))
    return tmp_path


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(ConnectionSettings(servers=(url,)), "test")
    try:
        yield connection
    finally:
        await connection.close()


async def config_of(url: str, endpoint: str) -> dict[str, Any]:
    async with connected(url) as connection:
        config: dict[str, Any] = (await connection.api(endpoint))["config"]
        return config


async def test_plan_tells_apply_does_and_then_there_is_nothing_to_do(folder: Path, nats_url: str) -> None:
    planned = await tieline("plan", "shop1", "--json", cwd=folder, url=nats_url)
    assert planned.code == 1
    assert {change["action"] for change in planned.json["changes"]} == {"create"}
    assert "CALL_INTENT/booking" in {change["name"] for change in planned.json["changes"]}

    applied = await tieline("apply", "shop1", cwd=folder, url=nats_url)
    assert (applied.code, applied.err) == (0, "")
    assert "call.intent.book" in applied.out

    planned = await tieline("plan", "shop1", "--json", cwd=folder, url=nats_url)
    assert (planned.code, planned.json) == (0, {"changes": []})
    assert "nothing to do" in (await tieline("apply", "shop1", cwd=folder, url=nats_url)).out


async def test_two_applies_at_once_both_succeed(folder: Path, nats_url: str) -> None:
    both = await asyncio.gather(*(tieline("apply", "shop1", cwd=folder, url=nats_url) for _ in range(2)))
    assert [(end.code, end.err) for end in both] == [(0, ""), (0, "")]
    assert (await tieline("plan", "shop1", cwd=folder, url=nats_url)).code == 0


async def test_what_only_recreating_could_change_is_refused_and_left(folder: Path, nats_url: str) -> None:
    async with connected(nats_url) as connection:
        await connection.api("STREAM.CREATE.DLQ", {"name": "DLQ", "subjects": ["DLQ.>"], "storage": "memory"})
    applied = await tieline("apply", "shop1", "--json", cwd=folder, url=nats_url)
    assert applied.code == 1
    refused = [change for change in applied.json["changes"] if change["action"] == "refuse"]
    assert ("DLQ", "storage", "memory", "file") in [(c["name"], c["field"], c["have"], c["want"]) for c in refused]
    assert (await config_of(nats_url, "STREAM.INFO.DLQ"))["storage"] == "memory"
    assert (await tieline("plan", "shop1", cwd=folder, url=nats_url)).code == 1


async def test_an_older_version_keeps_what_a_newer_one_holds(folder: Path, nats_url: str) -> None:
    assert (await tieline("apply", "shop2", cwd=folder, url=nats_url)).code == 0
    older = await tieline("apply", "shop1", "--json", cwd=folder, url=nats_url)
    assert older.code == 0
    assert {change["action"] for change in older.json["changes"]} == {"keep"}
    consumer = "CONSUMER.INFO.CALL_INTENT.booking"
    assert (await config_of(nats_url, consumer))["ack_wait"] == 40_000_000_000
    assert (await tieline("plan", "shop1", cwd=folder, url=nats_url)).code == 0

    assert (await tieline("apply", "shop1", "--force", cwd=folder, url=nats_url)).code == 0
    assert (await config_of(nats_url, consumer))["ack_wait"] == 20_000_000_000
