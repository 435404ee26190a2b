"""Losses are never shown as success: each kind of loss, on a real server, through the command and its exit code."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import natsio
import pytest
from command_line import tieline
from support.office import Office, at_work, settings, stored

from tieline import Bus, Pod, connect
from tieline.services import accountant
from tieline.services.accounting.asking import ask
from tieline.services.ledger import Row
from tieline.services.reference import load_pod
from tieline.testing import Server, eventually
from tieline.wire.connection import NoAnswer

_POD = """
from tieline import Conversation, Expiry, Limits, Message, Pod, Stream

class Late(Expiry, subject="clinic.late"):
    pass

class Visit(Message, subject="clinic.visit", ttl="1d", on_expired=Late):
    call_id: str

class Unread(Message, subject="clinic.unread"):
    call_id: str

short = Stream(name="CLINIC", subjects=("clinic.*",), max_age={age}, duplicates=1.0)
pod = Pod("clinic", streams=(short,), limits=Limits(first_retry=0.05, ack_wait=2.0))
seen = []

@pod.agent
async def doctor(visit: Visit, call: Conversation) -> None:
    seen.append(visit.call_id)

@pod.agent
async def desk(late: Late, call: Conversation) -> None:
    seen.append("late " + late.call_id)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def clinic(folder: Path, monkeypatch: pytest.MonkeyPatch, age: float = 86_400.0) -> Pod:
    """The pod, also for commands that run in ``folder``."""
    name = f"clinic_{folder.name}"
    (folder / f"{name}.py").write_text(_POD.format(age=age))
    monkeypatch.syspath_prepend(str(folder))
    return load_pod(name)


async def summed(folder: Path, url: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `report --sum`, and its rows of CLINIC by agent."""
    end = await tieline("report", f"clinic_{folder.name}", "--sum", "--json", cwd=folder, url=url)
    return end.code, {row["agent"]: row for row in end.json["rows"] if row["stream"] == "CLINIC"}


@asynccontextmanager
async def accounting(bus: Bus) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(accountant.run(bus, stop))
    try:
        await eventually(lambda: _answers(bus), what="the accountant")
        yield
    finally:
        stop.set()
        await running


async def _answers(bus: Bus) -> bool:
    try:
        return bool(await ask(bus.connection, bus.pod.name))
    except NoAnswer:
        return False


async def publish(bus: Bus, *conversations: str, headers: dict[str, str] | None = None) -> None:
    """As another client does, which tells no facts."""
    for conversation in conversations:
        body = json.dumps({"callId": conversation}).encode()
        reply = await bus.connection.request("clinic.visit", body, headers)
        assert b"error" not in reply.payload


async def handled(office: Office, *conversations: str) -> None:
    """Until the consumer has passed everything, and everything that was told is stored."""

    async def quiet() -> bool:
        info = await office.bus.connection.api("CONSUMER.INFO.CLINIC.doctor")
        return not info["num_pending"] and not info["num_ack_pending"]

    await publish(office.bus, *conversations)
    await eventually(quiet, what="the messages to be handled")
    await office.bus.written()


async def gone(bus: Bus) -> bool:
    state = (await bus.connection.api("STREAM.INFO.CLINIC"))["state"]
    return bool(state["messages"] == 0)


async def facts(bus: Bus, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(one.payload) for one in await stored(bus, "call.audit.*")]
    return [fact for fact in found if fact["fact"] == kind]


@pytest.mark.parametrize("running", [True, False], ids=["accountant running", "no accountant yet"])
async def test_an_agent_that_is_away_for_longer_than_max_age_leaves_expired_messages(
    nats_server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, *, running: bool
) -> None:
    """They are expired, with a fact and a notice each, also once the agent is back and its floor has passed them."""
    monkeypatch.setattr(accountant, "_EVERY", 0.1)
    pod = clinic(folder, monkeypatch, age=1.0)
    chosen = settings(nats_server.url, audit=True)
    async with connect(pod, settings=chosen) as bus:
        await bus.apply()
        if running:
            async with accounting(bus):
                await publish(bus, "c1", "c2")
                await eventually(lambda: gone(bus), what="them to age out")
                await eventually(lambda: _expired(bus, 2), what="the facts")
        else:
            await publish(bus, "c0")  # so that the stream's first message is not among them
            async with at_work(pod, chosen, "doctor") as office:
                await handled(office)
            await publish(bus, "c1", "c2")
            await _read_once(bus)
            await eventually(lambda: gone(bus), what="them to age out")
    async with at_work(pod, chosen, "doctor", "desk") as office:
        await handled(office, "c3")
        async with accounting(office.bus):
            told = await eventually(lambda: _expired(office.bus, 2), what="the facts")
            seen = __import__(f"clinic_{folder.name}").seen
            await eventually(lambda: sum(one.startswith("late") for one in seen) == 2, what="the notices")
            code, rows = await summed(folder, nats_server.url)
    assert (code, rows["doctor"]["expired"], rows["doctor"]["unaccounted"]) == (0, 2, 0)
    assert {fact["callId"] for fact in told} == {"c1", "c2"} or not running


async def _read_once(bus: Bus) -> None:
    """An accountant reads what is there, and is gone."""
    async with accounting(bus):
        await ask(bus.connection, bus.pod.name)


async def _expired(bus: Bus, count: int) -> list[dict[str, Any]] | None:
    found = await facts(bus, "expired")
    return found if len(found) == count else None


async def test_a_ttl_that_is_a_duration_explains_what_expired(
    nats_server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accountant, "_EVERY", 0.1)
    pod = clinic(folder, monkeypatch)
    chosen = settings(nats_server.url, audit=True)
    async with connect(pod, settings=chosen) as bus:
        await bus.apply()
        async with accounting(bus):
            await publish(bus, "c1", headers={"Nats-TTL": "1s"})
            await publish(bus, "c2", headers={"Nats-TTL": "1200ms"})
            await publish(bus, "c3", headers={"Nats-TTL": "never"})
            [_, _] = await eventually(lambda: _expired(bus, 2), what="the facts")
    async with at_work(pod, chosen, "doctor") as office:
        await handled(office, "c4")
        code, rows = await summed(folder, nats_server.url)
    row = rows["doctor"]
    assert (code, row["expired"], row["done"], row["unaccounted"]) == (0, 2, 2, 0)


async def recreated(bus: Bus) -> None:
    config = (await bus.connection.api("CONSUMER.INFO.CLINIC.doctor"))["config"]
    await bus.connection.api("CONSUMER.DELETE.CLINIC.doctor")
    change = {"stream_name": "CLINIC", "config": config | {"deliver_policy": "new"}}
    await bus.connection.api("CONSUMER.CREATE.CLINIC.doctor", change)


async def purged(bus: Bus) -> None:
    await bus.connection.api("STREAM.PURGE.CLINIC")


async def deleted(bus: Bus) -> None:
    for seq in (2, 3):
        await bus.connection.api("STREAM.MSG.DELETE.CLINIC", {"seq": seq})


async def acknowledged(bus: Bus) -> None:
    client = await natsio.connect(bus.settings.connection.servers[0])
    inbox = "_INBOX.test.acknowledged"
    arrived = client.subscribe(inbox)
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.CLINIC.doctor", b'{"batch": 2}', reply=inbox)
    for _ in range(2):
        message = await arrived.next_msg(timeout=5)
        await client.request(message.reply or "", b"+ACK")
    await client.close()


async def created_again(bus: Bus) -> None:
    await bus.connection.api("STREAM.DELETE.CLINIC")
    await bus.apply()


LOSSES = (recreated, purged, deleted, acknowledged, created_again)


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("running", [True, False], ids=["accountant running", "from the checkpoint"])
async def test_a_loss_is_unaccounted_until_an_operator_accepts_it(
    nats_server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, lose: Any, *, running: bool
) -> None:
    """Two messages are lost behind the pod's back. One was handled before, one is handled after."""
    monkeypatch.setattr(accountant, "_EVERY", 0.1)
    pod, chosen = clinic(folder, monkeypatch), settings(nats_server.url, audit=True)
    async with connect(pod, settings=chosen) as bus:
        await bus.apply()
    async with at_work(pod, chosen, "doctor") as office:
        await handled(office, "c1")
    async with connect(pod, settings=chosen) as bus:
        await publish(bus, "c2", "c3")
        if running:
            async with accounting(bus):
                await lose(bus)
                rows = await _sum_with(bus, 2)
        else:
            await _read_once(bus)
            await lose(bus)
            rows = await _sum_with(bus, 2)
    assert (rows.published, rows.done, rows.expired, rows.pending) == (3, 1, 0, 0)
    async with at_work(pod, chosen, "doctor") as office:
        await handled(office, "c4")
    code, shown = await summed(folder, nats_server.url)
    row = shown["doctor"]
    assert (code, row["published"], row["done"], row["unaccounted"]) == (3, 4, 2, 2)
    await _accepted(folder, nats_server.url, 2)
    code, shown = await summed(folder, nats_server.url)
    assert (code, shown["doctor"]["unaccounted"], shown["doctor"]["accepted"]) == (0, 0, 2)


async def _sum_with(bus: Bus, unaccounted: int) -> Row:
    async def found() -> Row | None:
        [row] = [row for row in await accountant.take(bus) if row.agent == "doctor"]
        return row if row.unaccounted == unaccounted else None

    return await eventually(found, what="the loss to show")


async def _accepted(folder: Path, url: str, count: int) -> None:
    listed = await tieline("losses", f"clinic_{folder.name}", "--json", cwd=folder, url=url)
    assert (listed.code, listed.json["count"]) == (3, count)
    refused = await tieline("losses", f"clinic_{folder.name}", "--accept", cwd=folder, url=url)
    assert refused.code == 2
    done = await tieline("losses", f"clinic_{folder.name}", "--accept", "--reason", "a test", cwd=folder, url=url)
    assert done.code == 0
    assert (await tieline("losses", f"clinic_{folder.name}", cwd=folder, url=url)).code == 0


async def test_what_was_gone_before_anybody_read_it_is_unseen(
    nats_server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of another client, deleted before an accountant or an agent was there: nothing tells of them."""
    pod, chosen = clinic(folder, monkeypatch), settings(nats_server.url, audit=True)
    async with connect(pod, settings=chosen) as bus:
        await bus.apply()
        await publish(bus, "c1", "c2", "c3", "c4")
        for seq in (1, 3):
            await bus.connection.api("STREAM.MSG.DELETE.CLINIC", {"seq": seq})
        code, rows = await summed(folder, nats_server.url)
        assert (code, rows["(unseen)"]["published"], rows["(unseen)"]["unaccounted"]) == (3, 2, 2)
        assert (rows["(unseen)"]["done"], rows["(unseen)"]["expired"]) == (0, 0)
        assert rows["(unseen)"]["since"] < rows["(unseen)"]["until"]
        assert (rows["doctor"]["published"], rows["doctor"]["pending"]) == (2, 2)
        await purged(bus)  # the whole stream, and nothing came after: that shows too
        code, rows = await summed(folder, nats_server.url)
        assert (code, rows["(unseen)"]["unaccounted"]) == (3, 4)
        await _accepted(folder, nats_server.url, 4)
        code, rows = await summed(folder, nats_server.url)
    assert (code, rows["(unseen)"]["accepted"], rows["(unseen)"]["unaccounted"]) == (0, 4, 0)


async def test_a_message_that_nobody_consumes_and_that_ages_out_has_expired(
    nats_server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accountant, "_EVERY", 0.1)
    pod = clinic(folder, monkeypatch, age=1.0)
    async with connect(pod, settings=settings(nats_server.url, audit=True)) as bus:
        await bus.apply()
        async with accounting(bus):
            await bus.connection.request("clinic.unread", b'{"callId": "c1"}')

            async def expired() -> bool:
                rows = await accountant.take(bus)
                return any((row.agent, row.expired) == ("(nobody)", 1) for row in rows)

            await eventually(expired, what="it to expire")
            [fact] = await eventually(lambda: _expired(bus, 1), what="the fact")
    assert (fact["by"], fact["callId"], fact["subject"]) == ("(nobody)", "c1", "clinic.unread")
