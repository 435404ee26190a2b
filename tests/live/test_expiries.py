"""A message whose TTL ends before it is handled: told once, to whoever its class names. The sum knows it too."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import natsio
import pytest
from support.office import QUICK, at_work, settings, stored

from tieline import BadDeclaration, Bus, Conversation, Expiry, Limits, Message, Pod, connect
from tieline.services import accountant
from tieline.services.conversations import conversations
from tieline.services.ledger import Row
from tieline.testing import Server, eventually


class Late(Expiry, subject="call.intent.late"):
    pass


class Viewing(Message, subject="call.intent.viewing", ttl="1s", on_expired=Late):
    call_id: str


class Errand(Message, subject="call.intent.errand", ttl="1s"):
    call_id: str


class Office(Pod):
    """A pod that notes what it was told."""

    def __init__(self) -> None:
        super().__init__("office", limits=QUICK)
        self.told: list[Late] = []
        self.viewed: list[str] = []
        self.may_end = asyncio.Event()
        self.may_end.set()

        @self.agent
        async def desk(late: Late, call: Conversation) -> None:
            assert call.id == late.call_id
            self.told.append(late)

        @self.agent(limits=Limits(timeout=2.0, ack_wait=1.0, attempts=2, first_retry=0.05))
        async def viewings(viewing: Viewing | Errand, _: Conversation) -> None:
            self.viewed.append(viewing.call_id)
            await self.may_end.wait()


@asynccontextmanager
async def counting(bus: Bus) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(accountant.run(bus, stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def facts(bus: Bus) -> list[dict[str, Any]]:
    found = [json.loads(one.payload) for one in await stored(bus, "call.audit.*")]
    return [fact for fact in found if fact["fact"] == "expired"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountant, "_EVERY", 0.1)


async def test_who_asked_is_told_once_and_the_sum_holds(nats_server: Server) -> None:
    """The accountant is stopped and started again in the middle, and two of them run at once."""
    pod = Office()
    async with at_work(pod, settings(nats_server.url, audit=True), "desk") as office:
        bus = office.bus
        async with counting(bus):
            await bus.publish(Viewing(call_id="c1"))
            await bus.publish(Errand(call_id="c1"))
        async with counting(bus), counting(bus):
            await eventually(lambda: pod.told, what="the notice")
            told = await eventually(lambda: _all(facts(bus), 2), what="both facts")
        async with counting(bus):
            row = await eventually(lambda: viewings_row(bus), what="the sum")
            await asyncio.sleep(0.3)  # several looks, which must not tell again
        assert len(pod.told) == len(await stored(bus, "call.intent.late")) == 1
        assert len(await facts(bus)) == 2
        await eventually(lambda: _is_expired(bus), what="the conversation's state")
    assert (pod.told[0].agent, pod.told[0].subject) == ("viewings", "call.intent.viewing")
    assert pod.told[0].shown == {"callId": "c1"}
    assert {(fact["by"], fact["callId"], fact["subject"]) for fact in told} == {
        ("viewings", "c1", "call.intent.viewing"),
        ("viewings", "c1", "call.intent.errand"),
    }
    assert (row.published, row.expired, row.pending) == (2, 2, 0)


async def _is_expired(bus: Bus) -> bool:
    [summary] = await conversations(bus.connection)
    return summary.state == "expired"


async def viewings_row(bus: Bus) -> Row | None:
    return next((row for row in await accountant.take(bus) if row.agent == "viewings" and row.holds), None)


async def _all(found: Any, count: int) -> Any:
    have = await found
    return have if len(have) == count else None


async def test_another_clients_message_counts_in_its_own_conversation(nats_server: Server) -> None:
    pod = Office()
    async with at_work(pod, nats_server.url, "desk") as office, counting(office.bus):
        client = await natsio.connect(nats_server.url)
        try:
            await client.request("call.intent.viewing", b'{"callId": "c9"}', headers={"Nats-TTL": "1"})
        finally:
            await client.close()
        await eventually(lambda: pod.told, what="the notice")
    assert [late.call_id for late in pod.told] == ["c9"]


async def test_what_was_gone_before_anybody_looked_is_counted_as_unseen(nats_server: Server) -> None:
    """Another client tells no facts, and no accountant was there."""
    pod = Office()
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        client = await natsio.connect(nats_server.url)
        try:
            for ttl in ("60", "1", "1", "60"):
                await client.request("call.intent.errand", b'{"callId": "c9"}', headers={"Nats-TTL": ttl})
        finally:
            await client.close()
        await eventually(lambda: _left(bus, 2), what="two to be gone")
        rows = {row.agent: row for row in await accountant.take(bus)}
        assert (rows["viewings"].published, rows["viewings"].pending) == (2, 2)
        unseen = rows["(unseen)"]
        assert (unseen.published, unseen.expired, unseen.unaccounted, unseen.upto) == (2, 0, 2, 4)


async def _left(bus: Bus, count: int) -> bool:
    return len(await stored(bus, "call.intent.errand")) == count


async def test_what_runs_when_its_time_ends_is_not_told_of(nats_server: Server) -> None:
    pod = Office()
    pod.may_end.clear()
    async with at_work(pod, nats_server.url) as office, counting(office.bus):
        await office.bus.publish(Viewing(call_id="c1"))
        await eventually(lambda: pod.viewed, what="the run")
        await eventually(lambda: _gone(office.bus), what="the end of its time", every=0.5)
        await asyncio.sleep(0.3)  # several looks at a message that is under way
        assert not pod.told
        pod.may_end.set()
        later = Late(call_id="end", subject="", stream="", seq=0, agent="", expired=datetime.now(UTC))
        await office.bus.publish(later)
        await eventually(lambda: pod.told, what="a later message")
    assert [late.call_id for late in pod.told] == ["end"]


async def _gone(bus: Bus) -> bool:
    # Under load the server was seen to forget the timer of a stream's only TTL until something else is stored there.
    await bus.connection.request("call.intent.unheard", b"{}")
    return not await stored(bus, "call.intent.viewing")


async def test_a_server_that_dies_meanwhile_delays_the_word(nats_server: Server) -> None:
    pod = Office()
    async with at_work(pod, settings(nats_server.url, audit=True), "desk") as office, counting(office.bus):
        await office.bus.publish(Viewing(call_id="c1"))
        await nats_server.restart()
        await eventually(lambda: pod.told, what="the notice")
    assert [late.call_id for late in pod.told] == ["c1"]


def test_a_notice_that_nobody_could_make_is_refused() -> None:
    class Odd(Expiry, subject="call.intent.odd"):
        price: int

    with pytest.raises(BadDeclaration, match="wants price"):

        class Sale(Message, subject="call.intent.sale", ttl="1s", on_expired=Odd):
            call_id: str

    with pytest.raises(BadDeclaration, match="is no Expiry"):

        class Other(Message, subject="call.intent.other", ttl="1s", on_expired=Errand):
            call_id: str

    with pytest.raises(BadDeclaration, match="has no subject"):

        class Third(Message, subject="call.intent.third", ttl="1s", on_expired=Expiry):
            call_id: str

    with pytest.raises(BadDeclaration, match="give it a ttl"):

        class Fourth(Message, subject="call.intent.fourth", on_expired=Late):
            call_id: str
