"""Dead letters: complete from every cause, found, and sent again once, to whom they belong."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from support.messages import Book, Booked
from support.office import QUICK, Office, at_work, dead_letters, settings, stored

from tieline import Bus, Conversation, Limits, Pod, Refuse, connect
from tieline.errors import Unconfirmed
from tieline.outcomes import Outcome
from tieline.services import cancelling
from tieline.services.accountant import take
from tieline.services.letters import editing, redriving
from tieline.services.letters.reading import Letter, Selection, letters, listed, numbered
from tieline.services.letters.redriving import Order, Tally, drop, redrive
from tieline.testing import Server, eventually

ORDER = Order(by="ada@desk", reason="the house is back")
EVERYTHING = Selection()


async def sent_again(bus: Bus, order: Order = ORDER, selection: Selection = EVERYTHING) -> Tally:
    """Redrive what is selected."""
    return await redrive(bus, letters(bus.connection, selection), order)


async def found(bus: Bus, count: int = 1) -> list[Letter]:
    """The letters, once there are so many."""

    async def enough() -> list[Letter] | None:
        there = [letter async for letter in letters(bus.connection, EVERYTHING)]
        return there if len(there) >= count else None

    return await eventually(enough, what=f"{count} dead letters")


async def facts(bus: Bus, kind: str) -> list[dict[str, object]]:
    """The facts of one kind."""
    told = [json.loads(delivery.payload) for delivery in await stored(bus, "call.audit.*")]
    return [fact for fact in told if fact["fact"] == kind]


async def planted(bus: Bus, count: int, agent: str = "booking", **told: object) -> None:
    """Dead letters as an agent writes them, many at once."""

    async def one(number: int) -> None:
        said: dict[str, object] = {"cause": "raised", "reason": "no", "agent": agent, "subject": "call.intent.book"}
        said |= {
            "stream": "CALL_INTENT",
            "seq": number,
            "origin": f"CALL_INTENT-{number}-{number:x}",
            "attempt": 5,
            **told,
        }
        payload = json.dumps({"callId": f"c{number}"}).encode()
        headers = {
            "Nats-Msg-Id": f"{agent}{number}",
            "Tieline-Dead": json.dumps(said),
            "Tieline-Conversation": f"c{number}",
        }
        await bus.publisher.publish(f"DLQ.{agent}.{said['cause']}.call.intent.book", payload, headers)

    await asyncio.gather(*(one(number) for number in range(1, count + 1)))


async def test_a_letter_is_complete_whatever_it_died_of(nats_server: Server) -> None:
    pod = Pod("office", version="7")

    @pod.agent(limits=Limits(attempts=2, first_retry=0.02))
    async def booking(intent: Book, _: Conversation) -> Outcome | None:
        if intent.phone == "raised":
            raise LookupError("no such house")
        if intent.phone == "refused":
            return Refuse("we sell no castles")
        await asyncio.Event().wait()
        return None

    async with at_work(pod, nats_server.url) as office:
        bus = office.bus
        for how in ("raised", "refused", "cancelled"):
            await bus.publish(Book(call_id=how, phone=how))
        await bus.publish(Book(call_id="deadline"), deadline=0.2)
        await bus.connection.request("call.intent.book", b"\xff no envelope", {"X-Mine": "kept"})
        await cancelling.cancel(bus, "cancelled", "enough")
        there = {letter.cause: letter for letter in await found(bus, 5)}
    assert sorted(there) == ["cancelled", "deadline", "invalid", "raised", "refused"]
    for cause, letter in there.items():
        told = letter.told
        assert (told["cause"], told["agent"], told["version"], told["stream"]) == (cause, "booking", "7", "CALL_INTENT")
        assert (letter.agent, letter.subject, told["subject"]) == ("booking", "call.intent.book", "call.intent.book")
        assert told["origin"].startswith(f"CALL_INTENT-{told['seq']}-")
        assert told["reason"]
        assert [entry["n"] for entry in told["attempts"]] == list(range(1, told["attempt"] + 1))
        assert all(entry["by"] == bus.replica and time.time() - entry["at"] < 60 for entry in told["attempts"])
    assert "raise LookupError" in there["raised"].told["traceback"]
    assert [entry["end"] for entry in there["raised"].told["attempts"]] == ["raised", "raised"]
    assert (there["invalid"].payload, there["invalid"].headers["X-Mine"]) == (b"\xff no envelope", "kept")
    assert there["cancelled"].conversation == "cancelled"


async def test_only_the_agent_that_failed_gets_it_and_finds_its_steps(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    ran: list[tuple[str, int]] = []
    looked: list[str] = []
    broken = True

    @pod.tool
    async def look(house: str) -> str:
        looked.append(house)
        return "nice"

    @pod.agent(limits=Limits(attempts=2, first_retry=0.02))
    async def booking(_: Book, call: Conversation) -> None:
        ran.append(("booking", call.attempt))
        await call.tool(look, house="1103")
        await call.publish(Booked(call_id="c1"))
        if broken:
            raise LookupError("no such house")

    @pod.agent
    async def telling(_: Book, call: Conversation) -> None:
        ran.append(("telling", call.attempt))

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await found(office.bus)
        broken = False
        ran.clear()
        tally = await sent_again(office.bus)
        assert (tally.done, tally.again, tally.held) == (1, 0, {})
        await eventually(lambda: ran, what="the redriven run")
        assert await dead_letters(office.bus) == []
        [told] = await eventually(lambda: facts(office.bus, "letterredriven"), what="the fact")
        assert (told["by"], told["reason"], told["letter"], told["callId"]) == (
            "ada@desk",
            "the house is back",
            letter.seq,
            "c1",
        )
        redriven = await stored(office.bus, "redrive.call_intent.booking")
        assert [d.origin for d in redriven] == [letter.origin]
        assert len(await stored(office.bus, "call.intent.booked")) == 1

        async def sums_up() -> bool:
            rows = {row.agent: row for row in await take(office.bus) if row.stream == "CALL_INTENT"}
            return all(row.holds for row in rows.values()) and (rows["booking"].done, rows["booking"].dead) == (1, 0)

        await eventually(sums_up, what="the sum to hold, without the dead letter")
    assert ran == [("booking", 3)]
    assert looked == ["1103"]


@pytest.mark.parametrize("at_once", [True, False], ids=["remembered", "forgotten"])
@pytest.mark.parametrize("working", [True, False], ids=["handled", "waiting"])
async def test_what_was_cut_off_is_sent_once(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch, *, working: bool, at_once: bool
) -> None:
    """The command dies after the messages went out and before their letters are removed; then it is run again."""
    pod = Pod("office")
    ran: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        ran.append(intent.call_id)

    async with at_work(pod, settings(nats_server.url, audit=True, patience=3.0), "booking") as office:
        bus = office.bus
        if not working:
            office.host.stop()
            await office.work
        await planted(bus, 20)
        with monkeypatch.context() as patch:
            patch.setattr(redriving, "remove", cut_off)
            with pytest.raises(Unconfirmed):
                await sent_again(bus)
        assert len(await dead_letters(bus)) == 20
        if working:
            await eventually(lambda: len(ran) == 20, what="the first redrive")
        if not at_once:
            await forget_ids(bus)
            monkeypatch.setattr(redriving, "_REMEMBERED", -1.0)
            if working:  # the journal alone knows
                await bus.connection.api("STREAM.PURGE.CALL_INTENT")
        tally = await sent_again(bus)
        assert (tally.done, tally.again) == (20, 20)
        assert await dead_letters(bus) == []
        copies = await stored(bus, "redrive.call_intent.booking")
        assert len(copies) == (0 if working and not at_once else 20)
    assert len(ran) == (20 if working else 0)


async def cut_off(*_: object) -> None:
    """In place of the removal of letters: the command dies there."""
    raise Unconfirmed("cut off", subject="DLQ")


async def forget_ids(bus: Bus) -> None:
    """The server forgets the ids of CALL_INTENT, as it does after ten minutes."""
    config = (await bus.connection.api("STREAM.INFO.CALL_INTENT"))["config"]
    windows = count(100_000_000, 1_000_000)

    async def forgotten() -> bool:
        # A server under load may go on with the timer of the old window: each change of it sets another.
        await bus.connection.api("STREAM.UPDATE.CALL_INTENT", config | {"duplicate_window": next(windows)})
        headers = {"Nats-Msg-Id": "probe"}
        return not (await bus.publisher.publish("call.intent.probe", b"{}", headers)).duplicate

    await forgotten()
    await asyncio.sleep(0.2)
    await eventually(forgotten, what="the ids to be forgotten", every=0.3)


async def test_the_third_death_needs_a_person_who_insists(nats_server: Server) -> None:
    pod = Pod("office")
    ran: list[int] = []

    @pod.agent(limits=Limits(attempts=2, first_retry=0.02))
    async def booking(_: Book, call: Conversation) -> None:
        ran.append(call.attempt)
        raise LookupError("no such house")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        for death in (1, 2):
            [letter] = await found(office.bus)
            assert letter.deaths == death
            assert (await sent_again(office.bus)).done == 1
        [letter] = await found(office.bus)
        assert (letter.deaths, len(letter.told["attempts"])) == (3, 6)
        tally = await sent_again(office.bus)
        assert (tally.done, list(tally.held.values())) == (0, [1])
        assert (await sent_again(office.bus, Order(by="ada", force=True))).done == 1
        [letter] = await found(office.bus)
        assert letter.deaths == 4
    assert ran == list(range(1, 9))


async def test_an_edited_letter_is_handled_as_edited(nats_server: Server) -> None:
    pod = Pod("office")
    phones: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        phones.append(intent.phone)

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        bus = office.bus
        await bus.connection.request("call.intent.book", b'{"callId":"c1","phone":7}')
        [letter] = await found(bus)
        new = await editing.edit(bus, letter, b'{"callId":"c1","phone":"7"}', ["phone"], by="ada", reason="a typo")
        [edited] = await found(bus)
        assert (edited.seq, edited.origin, edited.deaths) == (new, letter.origin, 1)
        assert edited.told["edits"][0]["by"] == "ada"
        await sent_again(bus)
        await eventually(lambda: phones == ["7"], what="the edited message")
        [fact] = await eventually(lambda: facts(bus, "letteredited"), what="the fact")
        assert (fact["letter"], fact["replacedBy"], fact["changed"], fact["reason"]) == (
            letter.seq,
            new,
            ["phone"],
            "a typo",
        )


async def test_dropped_letters_are_gone_and_the_audit_says_why(nats_server: Server) -> None:
    async with at_work(office_of_one(), settings(nats_server.url, audit=True)) as office:
        bus = office.bus
        await planted(bus, 3)
        tally = await drop(
            bus, letters(bus.connection, EVERYTHING), Order(by="ada", reason="test calls"), lambda _: None
        )
        assert tally.done == 3
        assert await dead_letters(bus) == []
        told = await eventually(lambda: facts(bus, "letterdropped"), what="the facts")
    assert sorted(str(fact["callId"]) for fact in told) == ["c1", "c2", "c3"]
    assert {(fact["by"], fact["reason"]) for fact in told} == {("ada", "test calls")}


def office_of_one() -> Pod:
    """A pod whose agent does nothing."""
    pod = Pod("office")

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    return pod


@pytest.fixture
async def full(nats_server: Server) -> AsyncIterator[Office]:
    """Letters of three kinds, a moment between the first two and the third."""
    async with at_work(office_of_one(), nats_server.url) as office:
        await planted(office.bus, 30)
        await planted(office.bus, 5, agent="telling", cause="timeout")
        await asyncio.sleep(0.05)
        await planted(office.bus, 3, agent="late")
        yield office


async def test_letters_are_counted_by_the_server_and_the_newest_shown(full: Office) -> None:
    connection = full.bus.connection
    everything = await listed(connection, EVERYTHING, 10)
    assert [(g.cause, g.agent, g.count) for g in everything.groups] == [
        ("raised", "booking", 30),
        ("timeout", "telling", 5),
        ("raised", "late", 3),
    ]
    assert [letter.seq for letter in everything.newest] == list(range(38, 28, -1))
    assert everything.newest[0].payload == b""
    raised = await listed(connection, Selection(cause="raised", agent="booking", subject="call.intent.*"), 50)
    assert (raised.total, len(raised.newest)) == (30, 30)
    assert (await listed(connection, Selection(subject="call.intent.other"), 50)).total == 0

    [first_late] = await numbered(connection, [36])
    moment = datetime.fromtimestamp(first_late.stored - 0.02, UTC)
    since = await listed(connection, Selection(since=moment), 50)
    assert [(g.agent, g.count) for g in since.groups] == [("late", 3)]
    assert [letter.seq for letter in since.newest] == [38, 37, 36]
    until = await listed(connection, Selection(until=moment), 2)
    assert (until.total, [letter.seq for letter in until.newest]) == (35, [35, 34])
    nothing = await listed(connection, Selection(since=moment, until=moment - timedelta(seconds=1)), 2)
    assert nothing.total == 0

    one = await listed(connection, Selection(conversation="c2"), 50)
    assert sorted((g.agent, g.count) for g in one.groups) == [("booking", 1), ("late", 1), ("telling", 1)]
    assert {letter.conversation for letter in one.newest} == {"c2"}


async def test_a_limit_and_a_dry_run(full: Office) -> None:
    bus = full.bus
    booking = Selection(agent="booking")
    would = await sent_again(bus, Order(by="ada", dry_run=True, limit=7), booking)
    assert (would.done, would.groups) == (7, {("raised", "booking", "redrive.call_intent.booking"): 7})
    assert len(await dead_letters(bus)) == 38
    assert (await sent_again(bus, Order(by="ada", limit=7), booking)).done == 7
    assert (await listed(bus.connection, EVERYTHING, 0)).total == 31
    held = await sent_again(bus, Order(by="ada"), Selection(agent="telling"))
    assert (held.done, held.held) == (
        0,
        {"stream CALL_INTENT has no consumer telling; `tieline apply` makes those of a pod": 5},
    )


async def test_time_to_live_and_deadline_begin_anew_and_steps_may(nats_server: Server) -> None:
    async with at_work(office_of_one(), nats_server.url) as office:
        bus = office.bus
        office.host.stop()
        await office.work
        await planted(bus, 1, ttl="60")
        [letter] = await found(bus)
        due = datetime.fromtimestamp(0.001 + 30, UTC).isoformat()  # thirty seconds after it was stored, by its origin
        await bus.publisher.publish(
            letter.stored_as, letter.payload, {**letter.headers, "Tieline-Deadline": due, "Nats-Msg-Id": "other"}
        )
        await bus.connection.api("STREAM.MSG.DELETE.DLQ", {"seq": letter.seq})
        await sent_again(bus, Order(by="ada", anew=True))
        [copy] = await stored(bus, "redrive.call_intent.booking")
    assert copy.headers["Nats-TTL"] == "60"
    left = datetime.fromisoformat(copy.headers["Tieline-Deadline"]).timestamp() - time.time()
    assert 0 < left <= 30
    assert copy.headers["Tieline-Run"]
    assert "Tieline-Dead" not in copy.headers


async def test_an_edit_survives_a_redrive_that_was_cut_off_before_it(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut-off redrive has sent the old payload, and left the letter; then a person edits it."""
    pod = Pod("office", limits=QUICK)
    handled: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> Outcome | None:
        handled.append(intent.phone)
        return None if intent.phone == "right" else Refuse("we know no such number")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1", phone="wrong"))
        await found(office.bus)

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        with monkeypatch.context() as patch:
            patch.setattr(redriving, "remove", cut_off)
            with pytest.raises(Unconfirmed):
                await sent_again(bus)
        [letter] = await found(bus)
        payload = json.dumps({"callId": "c1", "phone": "right"}).encode()
        await editing.edit(bus, letter, payload, ["phone"], by="ada", reason="a typo")
        tally = await sent_again(bus)
        assert (tally.done, tally.again) == (1, 0)
    async with at_work(pod, nats_server.url):
        await eventually(lambda: "right" in handled, what="the edited payload")


async def test_an_edit_survives_also_when_the_old_payload_has_died_again_meanwhile(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redriving, "_REMEMBERED", -1.0)  # as if all of it were long ago
    pod = Pod("office", limits=QUICK)
    handled: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> Outcome | None:
        handled.append(intent.phone)
        return None if intent.phone == "right" else Refuse("we know no such number")

    async with at_work(pod, nats_server.url) as office:
        bus = office.bus
        await bus.publish(Book(call_id="c1", phone="wrong"))
        [first] = await found(bus)
        with monkeypatch.context() as patch:
            patch.setattr(redriving, "remove", cut_off)
            with pytest.raises(Unconfirmed):
                await sent_again(bus)
        await found(bus, 2)
        payload = json.dumps({"callId": "c1", "phone": "right"}).encode()
        edited = await editing.edit(bus, first, payload, ["phone"], by="ada", reason="a typo")
        await sent_again(bus, selection=Selection(), order=ORDER) if edited else None
        await eventually(lambda: "right" in handled, what="the edited payload")
