"""Conversations on a real server: their timelines, their end, and the sum of what waits."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from approvals import Sale, approvals
from pydantic import BaseModel
from support.messages import Book, Look
from support.office import QUICK, Office, at_work, dead_letters, settings, stored

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Refuse, connect, subjects
from tieline.runtime.cancelled import Cancelled
from tieline.services import accountant, questions
from tieline.services.accounting import readers
from tieline.services.accounting.asking import ask
from tieline.services.cancelling import cancel
from tieline.services.conversations import Summary, conversations
from tieline.services.ledger import Row
from tieline.services.questions import Question, open_questions
from tieline.services.timeline import Entry, timeline
from tieline.testing import Server, eventually
from tieline.wire.connection import NoAnswer
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed

ODD = ("plain", "with space & / ü", "b_looks-encoded", "x" * 300, "a.b.*.>")


async def question(bus: Bus, conversation: str) -> Question:
    async def look() -> Question | None:
        found = (await open_questions(bus.connection, conversation)).questions
        return found[subjects.token(conversation)][0] if found else None

    return await eventually(look, what=f"a question in {conversation}")


async def row_of(bus: Bus, agent: str) -> Row:
    return next(row for row in await accountant.take(bus) if row.agent == agent)


async def summary_of(bus: Bus, conversation: str) -> Summary | None:
    found = await conversations(bus.connection)
    return next((summary for summary in found if summary.id == conversation), None)


async def in_state(bus: Bus, conversation: str, state: str) -> Summary:
    async def look() -> Summary | None:
        found = await summary_of(bus, conversation)
        return found if found is not None and found.state == state else None

    return await eventually(look, what=f"{conversation} to be {state}")


async def entries(bus: Bus, conversation: str) -> list[Entry]:
    found = await timeline(bus.connection, conversation)
    return [] if found is None else list(found.entries)


@asynccontextmanager
async def asking(server: Server, *conversations: str) -> AsyncIterator[Office]:
    """The pod of `approvals` at work, each conversation waiting for its person."""
    async with at_work(approvals(), settings(server.url, audit=True)) as office:
        for conversation in conversations:
            await office.bus.publish(Sale(call_id=conversation), conversation=conversation)
            await eventually(lambda: parked(office.bus, conversation), what=f"{conversation} to be parked")  # noqa: B023
            await in_state(office.bus, conversation, "waiting")
        yield office


async def parked(bus: Bus, conversation: str) -> bool:
    return any(entry.told.get("outcome") == "parked" for entry in await entries(bus, conversation))


# -- looking


@pytest.mark.parametrize("conversation", ODD, ids=range(len(ODD)))
async def test_a_timeline_has_everything_in_its_order(nats_server: Server, conversation: str) -> None:
    async with asking(nats_server, conversation) as office:
        _, mine = await questions.answer(
            office.bus, await question(office.bus, conversation), {"ok": True, "value": True}
        )
        assert mine
        found = await in_state(office.bus, conversation, "done")
        told = await entries(office.bus, conversation)

    assert (found.id, found.published, found.agents) == (conversation, 2, ("ledger", "selling", "tool-lookup"))
    assert found.ended
    kinds = [entry.kind for entry in told if entry.by != "tool-lookup"]
    assert kinds.index("published") < kinds.index("settled") < kinds.index("answered") < kinds.index("woken")
    assert [entry.kind for entry in told if entry.kind in ("asked", "answered", "woken")] == [
        "asked",
        "answered",
        "woken",
    ]
    [aside] = [entry for entry in told if entry.told.get("outcome") == "parked"]
    assert (aside.by, aside.told["attempt"]) == ("selling", 1)
    steps = [(e.told["name"], e.told["found"], e.told.get("value")) for e in told if "found" in e.told]
    looked_up = {"phone": "(redacted)", "owner": "Ada"}
    assert steps == [
        ("lookup", False, looked_up),
        ("lookup", True, looked_up),
        ("question", True, True),
        ("end", False, None),
    ]
    [sold] = [entry for entry in told if entry.told.get("subject") == "call.intent.sold" and entry.kind == "published"]
    assert sold.what.endswith("because of call.intent.sale")
    assert all("+1206" not in json.dumps(dict(entry.told)) for entry in told)


async def test_a_timeline_without_facts_is_told_by_the_journal(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Refuse:
        async def lead() -> str:
            return "L1"

        await call.step("lead", lead)
        if call.attempt == 1:
            raise ValueError("no luck")
        return Refuse("never")

    async with at_work(pod, nats_server.url) as office:  # its audit is off
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        told = await entries(office.bus, "c1")
        assert await timeline(office.bus.connection, "c2") is None
    assert [(entry.kind, entry.by) for entry in told] == [
        ("step", office.bus.replica),
        ("settled", "booking"),
        ("started", "booking"),
        ("dead letter", "booking"),
    ]
    assert told[0].what == 'step lead-1 recorded → "L1"'
    assert told[1].what == "attempt 1 retry: ValueError: no luck"
    assert told[3].told["cause"] == "refused"


async def test_states_limits_and_filters(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=1))
    holding = asyncio.Event()

    class Never(Message, subject="call.intent.never", ttl="1s"):
        call_id: str

    @pod.agent
    async def booking(book: Book, call: Conversation) -> None:
        if book.call_id == "slow":
            await holding.wait()
        if book.call_id == "bad":
            raise ValueError("no luck")
        if book.call_id == "sleepy":
            await call.sleep(100)

    @pod.agent
    async def unheard(_: Never, call: Conversation) -> None: ...

    async with at_work(pod, settings(nats_server.url, audit=True), "booking") as office:
        bus = office.bus
        for conversation in ("good", "bad", "sleepy", "slow"):
            await bus.publish(Book(call_id=conversation))
        await bus.publish(Never(call_id="late"))
        for conversation, state in {"good": "done", "bad": "dead", "sleepy": "parked", "slow": "running"}.items():
            await in_state(bus, conversation, state)
        assert (await in_state(bus, "late", "expired")).agents == ()
        found = await conversations(bus.connection)
        assert {summary.id for summary in found} == {"good", "bad", "sleepy", "slow", "late"}
        assert [summary.last for summary in found] == sorted((s.last for s in found), reverse=True)
        assert await conversations(bus.connection, limit=2) == found[:2]
        assert await conversations(bus.connection, waiting=True) == []
        assert [s.id for s in await conversations(bus.connection, names=frozenset({"unheard"}))] == ["late"]
        holding.set()
        await in_state(bus, "slow", "done")


# -- cancelling


async def test_a_cancelled_conversation_is_stopped_where_it_runs_and_its_neighbour_is_not(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []
    ended: list[str] = []
    go = asyncio.Event()

    @pod.agent
    async def booking(book: Book, _call: Conversation) -> None:
        ran.append(book.call_id)
        try:
            await asyncio.gather(go.wait(), go.wait())
        finally:
            ended.append(book.call_id)

    async with at_work(pod, nats_server.url) as office:
        for conversation in ("c1", "c2"):
            await office.bus.publish(Book(call_id=conversation))
        await eventually(lambda: sorted(ran) == ["c1", "c2"], what="both to run")
        record, woken = await cancel(office.bus, "c1", "enough")
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert ended == ["c1"]
        assert (record["reason"], woken) == ("enough", 0)
        assert letter.told["cause"] == "cancelled"
        assert letter.told["reason"].endswith(": enough")

        await office.bus.publish(Book(call_id="c1", phone="again"))
        await eventually(lambda: later(office, 2), what="what comes later to be refused")
        go.set()
        await eventually(lambda: ended == ["c1", "c2"], what="the neighbour")
        again, _ = await cancel(office.bus, "c1", "once more")
        assert again == record, "the first cancellation stands"
        row = await eventually(lambda: settled_row(office.bus, "booking"), what="the sum")
    assert (row.published, row.done, row.dead) == (3, 1, 2)
    assert sorted(ran) == ["c1", "c2"]


async def later(office: Office, count: int) -> bool:
    return len(await dead_letters(office.bus)) == count


async def settled_row(bus: Bus, agent: str) -> Row | None:
    row = await row_of(bus, agent)
    return row if row.holds and not row.pending else None


async def test_what_is_parked_is_brought_back_to_be_refused(nats_server: Server) -> None:
    async with asking(nats_server, "c1", "odd / id") as office:
        for conversation in ("c1", "odd / id"):
            _, woken = await cancel(office.bus, conversation)
            assert woken == 1
            assert (await in_state(office.bus, conversation, "cancelled")).questions == ()
        await eventually(lambda: later(office, 2), what="both dead letters")
        assert await cancel(office.bus, "c1") == (await cancel(office.bus, "c1"))
        assert (await cancel(office.bus, "c1"))[1] == 0, "it is not brought back twice"
        row = await eventually(lambda: settled_row(office.bus, "selling"), what="the sum")
        assert (row.published, row.dead, row.parked) == (2, 2, 0)

        async def told() -> bool:
            kinds = [entry.kind for entry in await entries(office.bus, "c1")]
            return kinds[-3:] == ["woken", "dead letter", "settled"]

        await eventually(told, what="the end of the timeline")


async def test_a_process_that_starts_later_knows_what_was_cancelled(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []

    @pod.agent
    async def booking(book: Book, _call: Conversation) -> None:
        ran.append(book.call_id)

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for number in range(600):  # more than one page
            await bus.journal.write(subjects.cancelled_copy(f"old-{number}"), {"by": "somebody"})
        await cancel(bus, "c1")
        for conversation in ("c1", "c2"):
            await bus.publish(Book(call_id=conversation))
    async with at_work(pod, nats_server.url) as office:
        await eventually(lambda: ran, what="the other conversation")
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert ran == ["c2"]
    assert json.loads(letter.payload)["callId"] == "c1"


async def test_a_tool_call_of_a_cancelled_conversation_is_refused_and_its_caller_told(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[str] = []

    @pod.tool
    async def crm(note: str) -> None:
        ran.append(note)

    async with at_work(pod, nats_server.url) as office:
        await cancel(office.bus, "c1")
        await eventually(lambda: "conversation c1 is cancelled" in caplog.text, what="the word at the executor")
        payload = json.dumps({"callId": "c1", "args": {"note": "x"}}).encode()
        await office.bus.connection.request("tool.call.crm", payload)
        [result] = await eventually(lambda: stored(office.bus, "tool.result.c1"), what="the result")
    assert (json.loads(result.payload)["cause"], ran) == ("cancelled", [])


async def test_a_handler_that_will_not_stop_has_its_way_and_one_that_fails_instead_is_refused(
    nats_server: Server,
) -> None:
    pod = Pod("office", limits=QUICK)
    running: list[str] = []
    done: list[str] = []

    @pod.agent
    async def booking(book: Book, _call: Conversation) -> None:
        running.append("booking")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            done.append(book.call_id)

    @pod.agent
    async def looking(_: Look, _call: Conversation) -> None:
        running.append("looking")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("no luck") from None

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await office.bus.publish(Look(call_id="c1"))
        await eventually(lambda: len(running) == 2, what="both to run")
        await cancel(office.bus, "c1")
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await eventually(lambda: settled_row(office.bus, "booking"), what="the one that finished")
    assert (done, letter.told["agent"], letter.told["cause"]) == (["c1"], "looking", "cancelled")


async def test_messages_pay_nothing_while_nothing_is_cancelled(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = Pod("office", limits=QUICK)
    done: list[str] = []

    @pod.agent
    async def booking(book: Book, _call: Conversation) -> None:
        done.append(book.call_id)

    def asked(*_: object) -> None:
        raise AssertionError("nothing is cancelled, and a message was looked up")

    monkeypatch.setattr(Cancelled, "refusal", asked)
    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: done, what="the message")


# -- the end of a conversation


async def test_a_state_goes_when_its_conversation_was_idle_for_long(nats_server: Server) -> None:
    class Basket(BaseModel):
        count: int

    for idle_end, ttl in ((None, None), ("12h", "43200"), (1.5, "2")):
        pod = Pod("office", limits=QUICK, idle_end=idle_end)

        @pod.agent
        async def booking(_: Book, call: Conversation) -> None:
            await call.state(Basket).update(lambda _: Basket(count=1))

        async with at_work(pod, nats_server.url) as office:
            await office.bus.publish(Book(call_id=f"c-{ttl}"))
            [state] = await eventually(lambda: stored(office.bus, f"state.c-{ttl}"), what="the state")  # noqa: B023
            assert state.headers.get("Nats-TTL") == ttl
            if ttl == "2":
                await eventually(lambda: gone(office, "state.c-2"), what="the state to go", within=60, every=1.0)


async def gone(office: Office, subject: str) -> bool:
    # Under load the server was seen to forget the timer of a stream's only TTL until something else is stored there.
    await office.bus.publish(Book(call_id=f"other-{os.urandom(4).hex()}"))
    return not await stored(office.bus, subject)


# -- the sum


async def test_the_sum_holds_while_messages_park_wake_and_crash(nats_server: Server, tmp_path: Path) -> None:
    pod = approvals()
    async with connect(pod, settings=settings(nats_server.url, audit=True)) as bus:
        await bus.apply()
        script = Path(__file__).with_name("approvals.py")
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(sys.executable, script, nats_server.url, stderr=log)
        try:
            await bus.publish(Sale(call_id="c1"))
            await bus.publish(Sale(call_id="c2"))
            asked = [await question(bus, conversation) for conversation in ("c1", "c2")]
            row = await eventually(lambda: parked_row(bus, 2), what="both to be parked")
            assert (row.published, row.pending, row.owed, row.at_server, row.holds) == (2, 2, 0, 0, True)
            await questions.answer(bus, asked[0], {"ok": True, "value": True})
            async with asyncio.timeout(10):
                assert await process.wait() == 13, "it dies of the answer"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        row = await row_of(bus, "selling")
        assert (row.published, row.done, row.pending, row.parked, row.owed) == (2, 0, 2, 1, 1)
        assert row.holds, "the copy is at the server, and is no message of its own"
    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        row = await eventually(lambda: done_row(office.bus, 1), what="the answered one to be done")
        assert (row.pending, row.parked, row.unaccounted, row.holds) == (1, 1, 0, True)
        await questions.answer(office.bus, asked[1], {"ok": False, "cause": "refused", "reason": "no"})
        row = await eventually(lambda: done_row(office.bus, 2), what="both to be done")
        assert (row.published, row.pending, row.holds) == (2, 0, True)
        [vanished] = [entry for entry in await entries(office.bus, "c1") if entry.kind == "vanished"]
        assert "attempt 2" in vanished.what


async def parked_row(bus: Bus, count: int) -> Row | None:
    row = await row_of(bus, "selling")
    # They are acknowledged a moment after their records are stored. None: messages move.
    return row if row.parked == count and row.at_server == row.owed else None


async def done_row(bus: Bus, count: int) -> Row | None:
    row = await row_of(bus, "selling")
    return row if row.done == count and row.holds else None


async def test_the_sum_of_what_waits_needs_no_facts(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(first_retry=90.0, longest_retry=90.0))

    @pod.agent
    async def asker(_: Book, call: Conversation) -> None:
        await call.ask_human("Shall we?")

    @pod.agent
    async def sleeper(_: Book, call: Conversation) -> None:
        await call.sleep(100)

    @pod.agent
    async def failing(_: Book, _call: Conversation) -> None:
        raise ValueError("no luck")

    async with at_work(pod, nats_server.url) as office:  # no facts
        await office.bus.publish(Book(call_id="c1"))

        async def all_parked() -> list[Row] | None:
            rows = await accountant.take(office.bus)
            return rows if all(row.at_server == 0 and row.holds for row in rows) else None

        rows = await eventually(all_parked, what="all to be put aside")
        assert {row.agent for row in rows} == {"asker", "sleeper", "failing"}
        assert {(row.pending, row.parked, row.done) for row in rows} == {(1, 1, 0)}
        asked = await question(office.bus, "c1")
        await questions.answer(office.bus, asked, {"ok": True, "value": "yes"})

        async def answered() -> Row | None:
            row = await row_of(office.bus, "asker")
            return row if row.done and row.holds else None

        row = await eventually(answered, what="the answered one to be done")
        assert (row.published, row.done, row.unaccounted) == (1, 1, 0)


async def test_a_retry_that_waits_long_is_told_as_parked_and_done_when_it_is(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(first_retry=90.0, longest_retry=90.0))

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        if call.attempt == 1:
            raise ValueError("no luck")

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await office.bus.publish(Book(call_id="c1"))
        await in_state(office.bus, "c1", "parked")
        row = await row_of(office.bus, "booking")
        assert (row.pending, row.parked, row.holds) == (1, 1, True)
        [waiting] = await stored(office.bus, "schedule.*")
        early = {name: value for name, value in waiting.headers.items() if not name.startswith("Nats-")}
        await office.bus.publisher.publish(
            subjects.redrive("CALL_INTENT", "booking"), waiting.payload, early | {"Nats-Msg-Id": "its time"}
        )
        await in_state(office.bus, "c1", "done")
        row = await eventually(lambda: settled_row(office.bus, "booking"), what="the sum")
        assert (row.published, row.done, row.unaccounted) == (1, 1, 0)


async def test_a_host_that_is_stopped_before_it_knows_what_is_cancelled_ends(nats_server: Server) -> None:
    pod = approvals()
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        host = Host(bus, ["selling"])
        work = asyncio.create_task(host.run())
        await asyncio.sleep(0)
        host.stop()
        async with asyncio.timeout(5):
            await work


async def test_an_accountant_that_lags_says_so(
    nats_server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = asyncio.Event()

    class Halting(Feed):
        async def __aiter__(self) -> AsyncIterator[Delivery]:
            async for delivery in super().__aiter__():
                yield delivery
                await going_on.wait()

    monkeypatch.setattr(accountant, "_LAG_EVERY", 0.02)
    monkeypatch.setattr(accountant, "_LAGS", 10)
    monkeypatch.setattr(readers, "Feed", Halting)
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for number in range(20):
            await bus.publish(Book(call_id=f"c{number}"))
        stop = asyncio.Event()
        running = asyncio.create_task(accountant.run(bus, stop))
        await eventually(lambda: "lags: 19 messages of CALL_INTENT" in caplog.text, what="the word")
        with pytest.raises(NoAnswer):  # it does not answer with what it has not read yet
            await ask(bus.connection, "office", wait=1.0)
        going_on.set()
        await eventually(lambda: "caught up with CALL_INTENT" in caplog.text, what="the end of it")
        [row] = await ask(bus.connection, "office")
        assert (row.published, row.behind) == (20, 0)
        stop.set()
        await running
