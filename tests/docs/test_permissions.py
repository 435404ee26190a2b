"""The permissions that docs/operations/server.md gives an agent and an executor are enough, and no wider than said."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from snippets import ROOT

from tieline import Conversation, Host, Limits, Message, NotAccepted, Pod, Settings, Stream, Unconfirmed, connect
from tieline.server import find_binary
from tieline.settings import ConnectionSettings, PublishSettings
from tieline.testing import eventually
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed

PAGE = ROOT / "docs" / "operations" / "server.md"


class Ask(Message, subject="call.intent.ask", ttl="5m"):
    call_id: str


class Told(Message, subject="call.told.{call_id}"):
    call_id: str
    answer: str


pod = Pod(
    "desk",
    streams=(Stream(name="CALL_TOLD", subjects=("call.told.*",)),),
    limits=Limits(first_retry=0.05, ack_wait=1, attempts=3),
)


@pod.tool(effect="once")
async def count_words(text: str) -> int:
    return len(text.split())


@pod.agent
async def front_desk(ask: Ask, call: Conversation) -> None:
    if ask.call_id == "broken":
        raise RuntimeError(ask.call_id)
    words = await asyncio.gather(call.tool(count_words, text="one"), call.tool(count_words, text="one two"))
    if ask.call_id == "again" and call.attempt == 1:
        raise RuntimeError(ask.call_id)
    await call.publish(Told(call_id=ask.call_id, answer=f"{words}"))
    await call.publish(Told(call_id=ask.call_id, answer="later"), after=0.1)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """``host:port`` of a server with the accounts of the page; every password is ``secret``."""
    found = re.search(r"^```conf\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    accounts = found[1].replace("…", "secret")
    top = f'host: 127.0.0.1\nport: -1\nports_file_dir: "{tmp_path}"\njetstream {{ store_dir: "{tmp_path}" }}\n'
    config = tmp_path / "nats.conf"
    config.write_text(top + accounts)
    with subprocess.Popen([find_binary(), "-c", config, "-l", tmp_path / "nats.log"]) as process:
        try:
            yield asyncio.run(eventually(lambda: bound(tmp_path), what="the server's port"))
        finally:
            process.terminate()


def bound(folder: Path) -> str | None:
    """What the server says it listens on, once it does."""
    for path in folder.glob("*.ports"):
        if found := re.search(r"nats://([0-9.]+:[0-9]+)", path.read_text()):
            return found[1]
    return None


def as_user(user: str, where: str) -> Settings:
    """Settings of a process that logs in as ``user``."""
    inbox = "_INBOX" if user == "admin" else f"_INBOX_{user}"
    connection = ConnectionSettings(servers=(f"nats://{user}:secret@{where}",), inbox_prefix=inbox, request_timeout=0.5)
    return Settings(connection=connection, publish=PublishSettings(patience=3.0))


async def test_the_permissions_of_the_page_are_enough(guarded: str) -> None:
    async with (
        connect(pod, settings=as_user("admin", guarded)) as admin,
        connect(pod, settings=as_user("front-desk", guarded)) as agents,
        connect(pod, settings=as_user("tools", guarded)) as tools,
    ):
        await admin.apply()
        hosts = [Host(agents, ["front-desk"]), Host(tools, ["tools"])]
        running = [asyncio.create_task(host.run()) for host in hosts]
        for call_id in ("plain", "again", "broken"):
            await admin.publish(Ask(call_id=call_id))
        told = await _first(admin.feed("call.told.*", start=1), 4)
        dead = await _first(admin.feed("DLQ.>", start=1), 1)
        facts = await _first(admin.feed("call.audit.broken", start=1), 3)
        for host in hosts:
            host.stop()
        await asyncio.gather(*running)
    assert sorted(delivery.subject for delivery in told) == ["call.told.again"] * 2 + ["call.told.plain"] * 2
    assert [delivery.subject for delivery in dead] == ["DLQ.front-desk.raised.call.intent.ask"]
    assert len(facts) == 3


async def test_and_no_wider(guarded: str) -> None:
    settings = as_user("front-desk", guarded)
    impatient = replace(settings, publish=PublishSettings(patience=0.3, ack_timeout=0.1), audit=False)
    async with connect(pod, settings=as_user("admin", guarded)) as admin, connect(pod, settings=impatient) as agent:
        await admin.apply()
        with pytest.raises((NotAccepted, Unconfirmed)):
            await agent.publish(Ask(call_id="forged"))
        stored = [delivery async for delivery in admin.feed("call.intent.ask", start=1, to_end=True)]
    assert not stored


async def _first(feed: Feed, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async for delivery in feed:
        found.append(delivery)
        if len(found) == count:
            break
    return found
