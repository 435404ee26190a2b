"""Dead letters of consumers that are not Tieline's: each message that one gives up is in DLQ, once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import started
from support.messages import Book
from support.office import Office, at_work, dead_letters, settings, stored

from tieline import Bus, Conversation, Pod, Refuse
from tieline.outcomes import Outcome
from tieline.services import deadletters
from tieline.services.deadletters import DeadLetters
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.testing import Server, eventually

NODE = "node-mailer"


@pytest.fixture
async def office(nats_server: Server) -> AsyncIterator[Office]:
    """A pod at work, and a consumer of somebody else on its stream that gives a message up after two tries."""
    pod = Pod("office")

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> Outcome | None:
        return Refuse("no") if intent.phone == "refused" else None

    async with at_work(pod, settings(nats_server.url)) as office:
        await node(office.bus, "CALL_INTENT")
        yield office


async def node(bus: Bus, stream: str, **config: Any) -> None:
    """The consumer of a Node service."""
    body = {"durable_name": NODE, "ack_policy": "explicit", "ack_wait": 100_000_000, "max_deliver": 2, **config}
    await bus.connection.api(f"CONSUMER.CREATE.{stream}.{NODE}", {"stream_name": stream, "config": body})


async def pulled(bus: Bus, stream: str = "CALL_INTENT") -> str:
    """One delivery of it, not acknowledged; where it could be answered for."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    inbox = f"{bus.connection.inbox}.node"
    listening = bus.connection.listen(inbox, lambda received: heard.put_nowait(received.reply or ""))
    pull = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
    await bus.connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{NODE}", pull, reply=inbox)
    async with asyncio.timeout(5):
        reply = await heard.get()
    await listening.stop()
    return reply


async def given_up(bus: Bus, stream: str = "CALL_INTENT") -> None:
    """The consumer had it twice, and the server will not deliver it again."""
    for _ in range(2):
        await pulled(bus, stream)


@asynccontextmanager
async def service(bus: Bus, every: float = 0.1) -> AsyncIterator[None]:
    """The dead-letter service at work."""
    working = asyncio.create_task(DeadLetters(bus, every).work())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.wait([working])


async def test_what_a_foreign_consumer_gave_up_is_a_dead_letter_though_nobody_pulls(office: Office) -> None:
    bus = office.bus
    async with service(bus):
        headers = {"Nats-Msg-Id": "m", "X-Mine": "kept", "Nats-TTL": "60"}
        await bus.connection.request("call.intent.book", b'{"callId":"c1"}', headers)
        await given_up(bus)
        # Nobody pulls any more: only the probe makes the server say so.
        [letter] = await eventually(lambda: dead_letters(bus), what="the dead letter")
    assert letter.subject == f"DLQ.{NODE}.exhausted.call.intent.book"
    assert letter.payload == b'{"callId":"c1"}'
    assert (letter.headers["X-Mine"], letter.headers["Tieline-Conversation"]) == ("kept", "c1")
    assert "Nats-TTL" not in letter.headers
    told = letter.told
    assert (told["stream"], told["seq"], told["subject"], told["agent"]) == ("CALL_INTENT", 1, "call.intent.book", NODE)
    assert (told["cause"], told["deliveries"], told["ttl"]) == ("exhausted", 2, "60")
    assert told["origin"].startswith("CALL_INTENT-1-")
    assert "did not acknowledge it in 2 deliveries" in told["reason"]


@pytest.mark.parametrize("remembered", [True, False])
async def test_an_advisory_that_comes_again_makes_no_second_letter(
    office: Office, monkeypatch: pytest.MonkeyPatch, *, remembered: bool
) -> None:
    """The service dies between the letter and the advisory's acknowledgement: another one gets the advisory again."""
    bus = office.bus
    async with service(bus):
        await bus.connection.request("call.intent.book", b'{"callId":"c1"}')
        await given_up(bus)
        await eventually(lambda: dead_letters(bus), what="the dead letter")
    if not remembered:
        monkeypatch.setattr(deadletters, "_REMEMBERED", -1.0)
        [letter] = await dead_letters(bus)  # under another id, as if the server had forgotten it
        await bus.publisher.publish(letter.subject, letter.payload, letter.headers | {"Nats-Msg-Id": "long ago"})
        await bus.connection.api("STREAM.MSG.DELETE.DLQ", {"seq": 1})
        await bus.connection.api("STREAM.UPDATE.DLQ", await brief_memory(bus))
        await asyncio.sleep(0.2)
    await bus.connection.api(f"CONSUMER.DELETE.ADVISORY.{deadletters.DURABLE}")  # forgets what it acknowledged
    async with service(bus):
        await eventually(lambda: settled(bus), what="the advisory to be dealt with again")
    assert len(await dead_letters(bus)) == 1


async def brief_memory(bus: Bus) -> dict[str, Any]:
    """The configuration of DLQ with a duplicate window that is over at once."""
    config: dict[str, Any] = (await bus.connection.api("STREAM.INFO.DLQ"))["config"]
    return config | {"duplicate_window": 100_000_000}


async def settled(bus: Bus) -> bool:
    """The service has acknowledged all there is."""
    found = await bus.connection.api("CONSUMER.LIST.ADVISORY")
    mine = [info for info in found.get("consumers") or [] if info["name"] == deadletters.DURABLE]
    return bool(
        mine and mine[0]["delivered"]["stream_seq"] and mine[0]["num_pending"] == mine[0]["num_ack_pending"] == 0
    )


async def test_tielines_own_consumers_are_not_dead_lettered_twice(office: Office) -> None:
    bus = office.bus
    async with service(bus):
        await bus.publish(Book(call_id="c1", phone="refused"))
        [letter] = await eventually(lambda: dead_letters(bus), what="the agent's own letter")
        said = {"stream": "CALL_INTENT", "consumer": "booking", "stream_seq": letter.told["seq"], "deliveries": 1000}
        said["timestamp"] = "2026-01-01T00:00:00Z"
        forged = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CALL_INTENT.booking"
        await bus.connection.request(forged, json.dumps(said).encode())
        await bus.connection.request(forged, b"no advisory at all")
        await eventually(lambda: settled(bus), what="both to be dealt with")
        assert [one.told["cause"] for one in await dead_letters(bus)] == ["refused"]


async def test_a_terminated_message_is_a_dead_letter_with_its_reason(office: Office) -> None:
    bus = office.bus
    async with service(bus):
        await bus.connection.request("call.intent.book", b'{"callId":"c1"}')
        await bus.connection.send(await pulled(bus), b"+TERM no such mailbox")
        [letter] = await eventually(lambda: dead_letters(bus), what="the dead letter")
    assert letter.told["cause"] == "terminated"
    assert letter.told["reason"].endswith("terminated it: no such mailbox")


async def test_the_sweep_finds_on_a_work_queue_what_no_advisory_told(office: Office) -> None:
    bus = office.bus
    jobs = {"name": "JOBS", "subjects": ["jobs.*"], "retention": "workqueue", "storage": "file"}
    await bus.connection.api("STREAM.CREATE.JOBS", jobs)
    await node(bus, "JOBS")
    config = (await bus.connection.api("STREAM.INFO.ADVISORY"))["config"]
    await bus.connection.api("STREAM.UPDATE.ADVISORY", config | {"subjects": ["lost.*"]})  # none is ever told
    await bus.connection.request("jobs.mail", b"dead")
    await given_up(bus, "JOBS")
    await bus.connection.request("jobs.mail", b"fine")
    await bus.connection.send(await pulled(bus, "JOBS"), b"+ACK")
    async with service(bus):
        [letter] = await eventually(lambda: dead_letters(bus), what="the dead letter")

        async def empty() -> bool:
            return bool((await bus.connection.api("STREAM.INFO.JOBS"))["state"]["messages"] == 0)

        await eventually(empty, what="the queue to be empty")
    assert (letter.payload, letter.told["cause"], letter.told["stream"], letter.told["seq"]) == (
        b"dead",
        "exhausted",
        "JOBS",
        1,
    )
    assert len(await dead_letters(bus)) == 1


async def test_a_foreign_letter_goes_only_where_a_person_says(office: Office) -> None:
    bus = office.bus
    async with service(bus):
        await bus.connection.request("call.intent.book", b'{"callId":"c1"}')
        await given_up(bus)
        await eventually(lambda: dead_letters(bus), what="the dead letter")
    held = await redrive(bus, letters(bus.connection, Selection()), Order(by="ada"))
    assert held.done == 0
    assert ["is not Tieline's" in reason for reason in held.held] == [True]
    elsewhere = Order(by="ada", to_subject="call.intent.mail")
    assert (await redrive(bus, letters(bus.connection, Selection()), elsewhere)).done == 1
    [again] = await stored(bus, "call.intent.mail")
    assert (again.payload, again.headers["Tieline-Redriven"]) == (b'{"callId":"c1"}', "1")
    assert "Tieline-Origin" not in again.headers


async def test_it_runs_where_the_accountant_runs(office: Office, nats_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from tieline import Pod\n\npod = Pod('shop')\n")
    async with started("run", "shop", "audit", cwd=tmp_path, url=nats_url) as program:

        async def following() -> bool:
            found = await office.bus.connection.api("CONSUMER.LIST.ADVISORY")
            return any(info["name"] == deadletters.DURABLE for info in found.get("consumers") or [])

        await eventually(following, what="the service to follow the advisories")
        program.process.terminate()
        assert (await program.ended()).code == 0
