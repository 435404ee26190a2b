"""Where a conversation stands, through every way that its messages can take, on a real server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.office import Office, at_work, consumer_info, dead_letters, settings
from support.old_deployment import OLD_CONVERSATIONS, old_deployment

from tieline import Bus, Conversation, Limits, Message, NoReply, Pod, Refuse, Retry, connect
from tieline.services.cancelling import cancel
from tieline.services.conversations import Summary, conversations, list_conversations
from tieline.services.letters.editing import edit
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, drop, redrive
from tieline.services.questions import answer, open_questions
from tieline.services.timeline import Entry, timeline
from tieline.testing import Server, eventually
from tieline.wire.backwards import newest_from, read_backwards
from tieline.wire.batches import store_together
from tieline.wire.consumer import PullConsumer

ADA = Order(by="ada", reason="checked")


class Job(Message, subject="call.intent.job"):
    call_id: str
    kind: str = "done"


class Brief(Message, subject="call.intent.brief", ttl="1s"):
    call_id: str


class Inquiry(Message, subject="call.intent.inquiry"):
    call_id: str


async def note_in_crm(note: str) -> str:
    return note


class Shop:
    """A pod whose handlers do what the message says, and fail while ``broken``."""

    def __init__(self) -> None:
        self.pod = Pod("shop", limits=Limits(first_retry=0.05, longest_retry=0.5, attempts=2, drain=0.2))
        self.broken = False
        self.holding = asyncio.Event()
        self.crm = self.pod.tool(note_in_crm)
        self.pod.agent(self.worker)
        self.pod.agent(self.later)
        self.pod.agent(self.slow)

    async def worker(self, job: Job, call: Conversation) -> Refuse | Retry | None:
        if self.broken:
            raise LookupError(f"no house for {job.call_id}")
        match job.kind:
            case "running":
                await self.holding.wait()
            case "retrying":
                return Retry("busy", after=50)
            case "later":
                return Retry("closed", after=120)
            case "time":
                await call.sleep(120)
            case "agent":
                await call.ask(Inquiry(call_id=job.call_id), expects=Job, within=300)
            case "tool":  # nobody runs the tools
                await call.tool(self.crm, note=job.call_id)
            case "person":
                try:
                    await call.ask_human("Sell it?", expects=bool, within=300)
                except NoReply:
                    return Refuse("nobody knows")
            case "delayed":
                await call.publish(Job(call_id=job.call_id), after=300)
            case "soon":
                await call.publish(Job(call_id=job.call_id), after=1)
            case "ends":
                await call.end()
        return None

    async def later(self, _: Brief, call: Conversation) -> None: ...

    async def slow(self, _: Inquiry, call: Conversation) -> None:
        await call.sleep(300)


@asynccontextmanager
async def open_shop(server: Server, *names: str) -> AsyncIterator[tuple[Shop, Office]]:
    shop = Shop()
    async with at_work(shop.pod, settings(server.url, audit=True), *(names or ("worker", "slow"))) as office:
        yield shop, office


async def summary_of(bus: Bus, conversation: str) -> Summary | None:
    listed = {summary.id: summary for summary in await conversations(bus.connection)}
    shown = await timeline(bus.connection, conversation)
    found = listed.get(conversation)
    if found is None or shown is None or shown.summary.state != found.state:
        return None  # until both have read the same
    return found


async def in_state(bus: Bus, conversation: str, state: str) -> Summary:
    async def look() -> Summary | None:
        found = await summary_of(bus, conversation)
        return found if found is not None and found.state == state else None

    return await eventually(look, what=f"{conversation} to be {state}")


async def entries(bus: Bus, conversation: str, kind: str) -> list[Entry]:
    found = await timeline(bus.connection, conversation)
    return [] if found is None else [entry for entry in found.entries if entry.kind == kind]


KINDS = {
    "done": "done",
    "ends": "done",
    "running": "running",
    "retrying": "running",
    "later": "parked",
    "time": "parked",
    "delayed": "parked",
    "tool": "parked",
    "agent": "parked",
    "person": "waiting",
}


async def test_work_that_nobody_interferes_with(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        for kind in KINDS:
            await office.bus.publish(Job(call_id=kind, kind=kind))
        await office.bus.publish(Brief(call_id="expired"))
        for conversation, state in {**KINDS, "expired": "expired"}.items():
            found = await in_state(office.bus, conversation, state)
            assert found.ended == (conversation == "ends")
        assert {one.id for one in await conversations(office.bus.connection, waiting=True)} == {"person"}
        shop.holding.set()
        await in_state(office.bus, "running", "done")
        await office.bus.publish(Job(call_id="soon", kind="soon"))
        await in_state(office.bus, "soon", "parked")
        await in_state(office.bus, "soon", "done")


async def test_a_question_that_is_answered_or_refused(nats_server: Server) -> None:
    async with open_shop(nats_server) as (_, office):
        for conversation in ("yes", "no"):
            await office.bus.publish(Job(call_id=conversation, kind="person"))
            await in_state(office.bus, conversation, "waiting")
        outcomes: dict[str, dict[str, Any]] = {"yes": {"ok": True, "value": True}, "no": {"ok": False}}
        for conversation, outcome in outcomes.items():
            [question] = (await open_questions(office.bus.connection, conversation)).questions[conversation]
            await answer(office.bus, question, outcome)
        await in_state(office.bus, "yes", "done")
        await in_state(office.bus, "no", "dead")


async def died(shop: Shop, bus: Bus, conversation: str) -> None:
    shop.broken = True
    await bus.publish(Job(call_id=conversation))
    await in_state(bus, conversation, "dead")
    shop.broken = False


async def test_a_letter_that_is_redriven_and_done(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        bus = office.bus
        await died(shop, bus, "c1")
        assert (await redrive(bus, letters(bus.connection, Selection()), ADA)).done == 1
        found = await in_state(bus, "c1", "done")
        assert found.dead == 1
        assert await dead_letters(bus) == []
        [letter] = await entries(bus, "c1", "dead letter")
        assert "raised: LookupError: no house for c1" in letter.what
        assert "in worker" in letter.told["traceback"]
        [redriven] = await entries(bus, "c1", "redriven")
        assert redriven.by == "ada"
        assert letter.at < redriven.at


@pytest.mark.parametrize("anew", [False, True])
async def test_a_letter_that_is_redriven_and_dies_again(nats_server: Server, anew: bool) -> None:
    async with open_shop(nats_server) as (shop, office):
        bus = office.bus
        await died(shop, bus, "c1")
        order = Order(by="ada", anew=anew)
        for deaths in (2, 3):
            shop.broken = True
            await redrive(bus, letters(bus.connection, Selection()), order)
            await eventually(lambda: _dead(bus, "c1", deaths), what="the next death")  # noqa: B023
            await in_state(bus, "c1", "dead")
            assert len(await entries(bus, "c1", "dead letter")) == deaths
            begun = [
                entry.told["attempt" if "attempt" in entry.told else "n"]
                for entry in await entries(bus, "c1", "started")
            ]
            assert len(begun) == len(set(begun)), "each attempt is shown once"
        shop.broken = False
        assert (await redrive(bus, letters(bus.connection, Selection()), Order(by="ada", anew=anew, force=True))).done
        assert (await in_state(bus, "c1", "done")).dead == 3


async def _dead(bus: Bus, conversation: str, deaths: int) -> bool:
    found = await timeline(bus.connection, conversation)
    return found is not None and found.summary.dead == deaths


async def test_a_letter_that_is_redriven_and_waits_runs_or_parks(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        bus = office.bus
        for kind in ("running", "person", "time"):
            shop.broken = True
            await bus.publish(Job(call_id=kind, kind=kind))
            await in_state(bus, kind, "dead")
            shop.broken = False
            await redrive(bus, letters(bus.connection, Selection()), ADA)
            await in_state(bus, kind, {"running": "running", "person": "waiting", "time": "parked"}[kind])


async def test_a_letter_that_is_redriven_while_nobody_is_there(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        await died(shop, office.bus, "c1")
    async with connect(shop.pod, settings=settings(nats_server.url, audit=True)) as bus:
        await redrive(bus, letters(bus.connection, Selection()), ADA)
        await in_state(bus, "c1", "running")


async def test_a_letter_that_is_edited_and_redriven(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        bus = office.bus
        await died(shop, bus, "c1")
        [letter] = [one async for one in letters(bus.connection, Selection())]
        payload = json.dumps({"callId": "c1", "kind": "done"}).encode()
        await edit(bus, letter, payload, ["kind"], by="ada", reason="typo")
        await in_state(bus, "c1", "dead")
        assert len(await entries(bus, "c1", "edited")) == 1
        await redrive(bus, letters(bus.connection, Selection()), ADA)
        await in_state(bus, "c1", "done")
        assert len(await entries(bus, "c1", "dead letter")) == 1


async def test_a_letter_that_is_dropped(nats_server: Server) -> None:
    async with open_shop(nats_server) as (shop, office):
        bus = office.bus
        await died(shop, bus, "c1")
        await drop(bus, letters(bus.connection, Selection()), ADA, lambda _: None)
        await in_state(bus, "c1", "dead")
        [letter] = await entries(bus, "c1", "dead letter")
        assert "in worker" in letter.told["traceback"]
        assert len(await entries(bus, "c1", "dropped")) == 1


async def test_cancelled_while_it_runs_parks_and_waits(nats_server: Server) -> None:
    async with open_shop(nats_server) as (_, office):
        for kind in ("running", "time", "person", "agent", "tool"):
            await office.bus.publish(Job(call_id=kind, kind=kind))
            await in_state(office.bus, kind, KINDS[kind])
        for kind in ("running", "time", "person", "agent", "tool"):
            await cancel(office.bus, kind)
            assert (await in_state(office.bus, kind, "cancelled")).questions == ()
        assert await conversations(office.bus.connection, waiting=True) == []


async def test_the_last_fact_is_lost_with_its_process(nats_server: Server) -> None:
    """The process that handles the answer tells no facts: what the journal says decides."""
    async with open_shop(nats_server) as (shop, office):
        await office.bus.publish(Job(call_id="c1", kind="person"))
        await in_state(office.bus, "c1", "waiting")
    async with at_work(shop.pod, settings(nats_server.url, audit=False), "worker") as office:
        [question] = (await open_questions(office.bus.connection, "c1")).questions["c1"]
        await answer(office.bus, question, {"ok": True, "value": True})
        await in_state(office.bus, "c1", "done")


async def test_a_message_that_a_stranger_acknowledges_is_not_done(nats_server: Server) -> None:
    shop = Shop()
    async with connect(shop.pod, settings=settings(nats_server.url, audit=True)) as bus:
        await bus.apply()
        await bus.publish(Job(call_id="c1"))
        await in_state(bus, "c1", "running")
        stranger = PullConsumer(bus.connection, "CALL_INTENT", "worker")
        [delivery] = await stranger.fetch(1)
        await delivery.ack_kept()
        await stranger.close()
        await in_state(bus, "c1", "unaccounted")


async def test_the_timer_of_an_answered_wait_is_no_second_end(nats_server: Server) -> None:
    pod = Pod("shop", limits=Limits(drain=0.2))

    @pod.agent
    async def worker(_: Job, call: Conversation) -> None:
        await call.ask_human("Sell it?", expects=bool, within=3)

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await office.bus.publish(Job(call_id="c1"))
        await in_state(office.bus, "c1", "waiting")
        [question] = (await open_questions(office.bus.connection, "c1")).questions["c1"]

        async def is_parked() -> bool:
            return bool((await office.bus.connection.api("STREAM.INFO.SCHEDULE"))["state"]["messages"])

        await eventually(is_parked, what="the timer to be set")
        await answer(office.bus, question, {"ok": True, "value": True})
        before = await in_state(office.bus, "c1", "done")
        stale = await eventually(lambda: entries(office.bus, "c1", "superseded"), what="the timer")
        after = await in_state(office.bus, "c1", "done")
        ends = [one for one in await entries(office.bus, "c1", "settled") if one.told["outcome"] == "done"]
    assert len(ends) == 1
    assert stale[0].at > after.last, "a stale copy is no activity"
    assert after.last == pytest.approx(before.last, abs=0.001)


async def test_a_consumer_that_begins_later_owes_nothing_older(nats_server: Server) -> None:
    shop = Shop()
    async with connect(shop.pod, settings=settings(nats_server.url, audit=True)) as bus:
        await bus.apply()
        await bus.publish(Job(call_id="c1"))
        config = (await consumer_info(bus, "CALL_INTENT", "worker"))["config"]
        late = {**config, "name": "late", "durable_name": "late", "deliver_policy": "new"}
        await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.late", {"stream_name": "CALL_INTENT", "config": late})
        async with at_work(shop.pod, settings(nats_server.url, audit=True), "worker"):
            await in_state(bus, "c1", "done")


OLD = {
    "done": {"done"},
    "dead": {"dead"},
    "redriven": {"done"},
    "redrive-waits": {"running"},
    "parked": {"parked", "waiting", "running"},  # running: the agent that was asked has its message
    "cancelled": {"cancelled"},
    "over": {"parked"},
    "held": {"running"},
    "waiting": {"running"},
    "expired": {"expired"},
}


async def test_conversations_of_an_old_deployment(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(Pod("reader"), settings=settings(server.url)) as bus:
        listed = {summary.id: summary.state for summary in await conversations(bus.connection, limit=500)}
        wrong = {}
        for old in OLD_CONVERSATIONS:
            shown = await timeline(bus.connection, old.id)
            states = {listed.get(old.id), None if shown is None else shown.summary.state}
            if old.kind in ("delay", "delay-over"):  # their delayed message waits, or comes now
                states -= {"parked", "done"}
            elif len(states) == 1:
                states -= OLD[old.state]
            if states:
                wrong[old.id] = (old.state, states)
        assert wrong == {}


async def test_a_list_reads_what_it_shows_however_long_the_history_is(nats_server: Server) -> None:
    shop = Shop()
    async with connect(shop.pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for start in range(0, 20_000, 1_000):
            await store_together(bus.connection, [_old_fact(number) for number in range(start, start + 1_000)])
        before = await _api_calls(bus)
        listing = await list_conversations(bus.connection, limit=3)
        cost = await _api_calls(bus) - before
        assert [summary.id for summary in listing.summaries] == ["old-19999", "old-19998", "old-19997"]
        assert listing.since is None
        assert cost < 120, "eight conversations are read side by side, and the newest facts name them"
        early = datetime.fromtimestamp(time.time() - 60)
        assert (await list_conversations(bus.connection, limit=3, since=early)).summaries == listing.summaries


async def _api_calls(bus: Bus) -> int:
    return int((await bus.connection.api("INFO"))["api"]["total"])


def _old_fact(number: int) -> tuple[str, bytes, dict[str, str]]:
    fact = {
        "fact": "settled",
        "at": time.time(),
        "callId": f"old-{number}",
        "by": "worker",
        "subject": "call.intent.job",
        "stream": "CALL_INTENT",
        "seq": number + 1,
        "origin": f"CALL_INTENT-{number + 1}-19",
        "attempt": 1,
        "outcome": "done",
        "reason": "",
        "took": 0.1,
    }
    return f"call.audit.old-{number}", json.dumps(fact).encode(), {}


async def test_the_newest_messages_are_read_first_and_it_is_said_where_that_ends(nats_server: Server) -> None:
    shop = Shop()
    async with connect(shop.pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for start in range(0, 10_000, 1_000):
            await store_together(bus.connection, [_old_fact(number) for number in range(start, start + 1_000)])
        pages = [page async for page in read_backwards(bus.connection, "CALL_AUDIT", "call.audit.*", 4_000)]
        seen = [delivery.seq for page in pages for delivery in page.newest_first]
        assert seen == sorted(seen, reverse=True)
        assert 4_000 <= len(seen) < 10_000
        assert pages[-1].left_at == pytest.approx(time.time(), abs=300)
        start = await newest_from(bus.connection, "CALL_AUDIT", "call.audit.*", 100)
        assert 10_000 - 800 < start <= 10_000 - 99
        assert await newest_from(bus.connection, "CALL_AUDIT", "call.audit.*", 10_000) == 1
