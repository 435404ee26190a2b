"""A message whose TTL ends while a handler works on it. The server removes it and sends the advisory that it also sends
for a message that a consumer terminated. Nobody gave up on it, so it is not a dead letter."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.messages import Book
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import Bus, Conversation, Expiry, Limits, Message, Pod
from tieline.services import accountant, deadletters
from tieline.services.deadletters import DeadLetters
from tieline.testing import Server, eventually
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery
from tieline.wire.stored import stored_message


class TooLate(Expiry, subject="call.intent.too-late"):
    pass


class Brief(Message, subject="call.intent.brief", ttl="1s", on_expired=TooLate):
    call_id: str


class Office(Pod):
    """An agent that works until it may end, and one that hears of what expired."""

    def __init__(self) -> None:
        super().__init__("office", limits=QUICK)
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.done: list[str] = []
        self.notices: list[TooLate] = []

        @self.agent(limits=Limits(timeout=8.0, ack_wait=2.0))
        async def slow(brief: Brief | Book, _: Conversation) -> None:
            self.began.set()
            await self.may_end.wait()
            self.done.append(brief.call_id)

        @self.agent
        async def desk(notice: TooLate, _: Conversation) -> None:
            self.notices.append(notice)


@asynccontextmanager
async def services(bus: Bus) -> AsyncIterator[None]:
    """The dead-letter service and the accountant, as the process ``audit`` runs them."""
    stop = asyncio.Event()
    letters = asyncio.create_task(DeadLetters(bus, every=0.1).work())
    accounts = asyncio.create_task(accountant.run(bus, stop))
    try:
        yield
    finally:
        stop.set()
        letters.cancel()
        await asyncio.wait([letters, accounts])
        await accounts


async def advised(bus: Bus) -> bool:
    """An advisory came, and the service has dealt with all there are."""
    found = await bus.connection.api("CONSUMER.LIST.ADVISORY")
    mine = [info for info in found.get("consumers") or [] if info["name"] == deadletters.DURABLE]
    return bool(mine and mine[0]["ack_floor"]["stream_seq"] and not mine[0]["num_pending"] + mine[0]["num_ack_pending"])


async def outcomes(bus: Bus, agent: str) -> list[str]:
    facts = [json.loads(one.payload) for one in await stored(bus, "call.audit.*")]
    return [
        fact.get("outcome", fact["fact"]) for fact in facts if fact.get("by") == agent and fact["fact"] != "published"
    ]


async def test_a_handler_that_outlives_the_ttl_is_done_and_leaves_no_letter(nats_server: Server) -> None:
    pod = Office()
    async with at_work(pod, settings(nats_server.url, audit=True)) as office, services(office.bus):
        bus = office.bus
        await bus.publish(Brief(call_id="c1"))
        await eventually(pod.began.is_set, what="the handler to begin")
        await eventually(lambda: advised(bus), what="the advisory to be dealt with")
        assert await stored_message(bus.connection, "CALL_INTENT", 1) is None
        pod.may_end.set()

        async def done() -> bool:
            return "done" in await outcomes(bus, "slow")

        await eventually(done, what="the fact that it is done")
        assert (pod.done, pod.notices) == (["c1"], [])
        assert await dead_letters(bus) == []


async def test_a_process_that_died_over_an_expired_message_leaves_a_notice_and_no_letter(nats_server: Server) -> None:
    pod = Office()
    async with at_work(pod, settings(nats_server.url, audit=True), "desk") as office, services(office.bus):
        bus = office.bus
        await bus.publish(Brief(call_id="c1"))
        await taken(bus, "slow")  # by a process that is never heard of again
        await eventually(lambda: advised(bus), what="the advisory to be dealt with")
        await eventually(lambda: pod.notices, what="the notice")
        assert [notice.call_id for notice in pod.notices] == ["c1"]

        async def expired() -> bool:
            return "expired" in await outcomes(bus, "slow")

        await eventually(expired, what="the fact that it expired")
        assert await dead_letters(bus) == []


async def test_a_message_of_ours_that_a_foreign_client_terminates_is_a_dead_letter(nats_server: Server) -> None:
    pod = Office()
    async with at_work(pod, settings(nats_server.url, audit=True), "desk") as office, services(office.bus):
        bus = office.bus
        await bus.publish(Book(call_id="c1"))
        delivery = await taken(bus, "slow")
        await bus.connection.send(delivery._reply, b"+TERM")  # noqa: SLF001 - what a client with a bug would do
        [letter] = await eventually(lambda: dead_letters(bus), what="the dead letter")
        assert letter.subject == "DLQ.slow.terminated.call.intent.book"
        assert (letter.told["subject"], letter.told["stream"], letter.told["seq"]) == (
            "call.intent.book",
            "CALL_INTENT",
            1,
        )
        assert json.loads(letter.payload)["callId"] == "c1"


async def test_a_long_history_of_advisories_is_dealt_with_without_reading_dlq_for_each(nats_server: Server) -> None:
    """Each of these may have been buried before. DLQ is read once: a feed for each would be a consumer for each."""
    pod = Office()
    count = 200
    async with at_work(pod, settings(nats_server.url), "desk") as office:
        bus = office.bus
        for number in range(count):
            await bus.publish(Book(call_id=f"c{number}"))
            told = {"stream": "CALL_INTENT", "consumer": "slow", "stream_seq": number + 1, "deliveries": 1}
            advisory = json.dumps(told | {"timestamp": "2026-01-01T00:00:00Z", "reason": "no"}).encode()
            await bus.connection.request("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.CALL_INTENT.slow", advisory)
        working = asyncio.create_task(DeadLetters(bus).work())
        await eventually(lambda: advised(bus), what="all advisories to be dealt with")
        assert len(await dead_letters(bus)) == count
        await bus.connection.api(f"CONSUMER.DELETE.ADVISORY.{deadletters.DURABLE}")  # forgets what it acknowledged
        await eventually(lambda: advised(bus), what="all advisories to be dealt with once more", within=60)
        assert len(await dead_letters(bus)) == count
        working.cancel()
        await asyncio.wait([working])


async def taken(bus: Bus, agent: str) -> Delivery:
    consumer = PullConsumer(bus.connection, "CALL_INTENT", agent)
    [delivery] = await consumer.fetch(1)
    await consumer.close()
    return delivery
