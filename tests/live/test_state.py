"""A conversation's state: shared by agents and processes, written by compare-and-set, counted once."""

import asyncio
import json
import threading

import natsio
import pytest
from pydantic import BaseModel
from support.messages import Book, Look
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import BadPayload, Conflict, Conversation, Limits, Pod, connect
from tieline.runtime import state
from tieline.testing import Server, eventually


class Basket(BaseModel):
    count: int = 0
    seen: list[str] = []


def counted(before: Basket | None) -> Basket:
    return Basket(count=(before or Basket()).count + 1)


async def test_updates_of_two_processes_are_all_counted(nats_server: Server) -> None:
    """Fifty messages of one conversation, on two connections, all at once."""
    pod = Pod("office", limits=Limits(concurrency=25, first_retry=0.05, longest_retry=0.2))
    became: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        became.append((await call.state(Basket).update(counted)).count)

    async with at_work(pod, nats_server.url) as office, at_work(pod, nats_server.url):
        await asyncio.gather(*(office.bus.publish(Book(call_id="c1")) for _ in range(50)))
        await eventually(lambda: len(became) == 50, what="fifty updates", within=20.0)
        [kept] = await stored(office.bus, "state.c1")
    assert json.loads(kept.payload)["value"] == {"count": 50, "seen": []}
    assert sorted(became) == list(range(1, 51))


async def test_a_second_run_does_not_count_again_and_sees_what_the_first_one_made(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[tuple[int, int, int]] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        basket = call.state(Basket)
        first, second = await basket.update(counted), await basket.update(counted)
        now = await basket.get()
        assert now is not None
        told.append((first.count, second.count, now.count))
        if call.attempt == 1:
            raise ValueError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(told) == 2, what="two runs")
    assert told == [(1, 2, 2), (1, 2, 2)]


async def test_a_write_without_its_record_is_not_written_again(nats_server: Server) -> None:
    """Between the state and the step's record there may be a crash; the state knows its last writes by name."""
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()

        def one_more(before: dict[str, int] | None) -> dict[str, int]:
            return {"count": (before or {"count": 0})["count"] + 1}

        for _ in range(2):
            await state.update(bus, "c1", one_more, "step.booking.c1.state.a", None)
        became = await state.update(bus, "c1", one_more, "step.booking.c1.state.b", None)
    assert became == {"count": 2}


async def test_a_write_without_its_record_is_remembered_through_hundreds_of_others(nats_server: Server) -> None:
    """Its process died before it recorded the step; others wrote 300 times before the message came again."""

    def one_more(before: dict[str, int] | None) -> dict[str, int]:
        return {"count": (before or {"count": 0})["count"] + 1}

    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await state.update(bus, "c1", one_more, "step.booking.c1.state.crashed", None)
        for number in range(300):
            step = f"step.booking.c1.state.update-{number}"
            await state.update(bus, "c1", one_more, step, None)
            await bus.journal.write(step, {"ok": True})
        became = await state.update(bus, "c1", one_more, "step.booking.c1.state.crashed", None)
        remembered = (await state.read(bus, "c1")).writes
    assert became == {"count": 301}
    assert "step.booking.c1.state.crashed" in remembered
    assert len(remembered) < 200  # those on record are forgotten


async def test_a_state_goes_when_its_time_is_over(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    told: list[Basket | None] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.state(Basket).update(counted, ttl=1.0)

    @pod.agent
    async def looking(_: Look, call: Conversation) -> None:
        told.append(await call.state(Basket).get())

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: stored(office.bus, "state.c1"), what="the state")

        async def gone() -> bool:
            return not await stored(office.bus, "state.c1")

        await eventually(gone, what="its end")
        await office.bus.publish(Look(call_id="c1"))
        await eventually(lambda: told, what="a look")
    assert told == [None]


async def test_an_ended_conversation_has_no_state_and_may_begin_anew(nats_server: Server) -> None:
    """A second run of the one that ended it takes nothing away that began meanwhile."""
    pod = Pod("office", limits=QUICK)
    told: list[object] = []
    begun_anew = asyncio.Event()

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        basket = call.state(Basket)
        await basket.update(lambda _: Basket(count=7))
        await call.end()
        if call.attempt == 1:
            told.append(await basket.get())
            raise ValueError("once more")
        await begun_anew.wait()
        told.append(await basket.get())

    @pod.agent
    async def looking(_: Look, call: Conversation) -> None:
        await call.state(Basket).update(counted)
        begun_anew.set()

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: told, what="the first run")
        await office.bus.publish(Look(call_id="c1"))
        await eventually(lambda: len(told) == 2, what="the second run")
    assert told == [None, Basket(count=1)]


async def test_a_state_of_another_shape_is_an_error(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(attempts=1))

    class Other(BaseModel):
        name: str

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        await call.state(Basket).update(counted)
        with pytest.raises(BadPayload, match="name"):
            await call.state(Other).get()
        await call.state(Other).update(lambda other: Other(name=other.name if other else ""))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert letter.told["error"] == "BadPayload"


async def test_an_update_that_others_always_overtake_is_a_conflict(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_TRIES", 4)
    pod = Pod("office", limits=QUICK)
    caught: list[Conflict] = []
    overtaken: list[int] = []

    async def overtake() -> None:
        async with await natsio.connect(nats_server.url) as client:
            await client.request("state.c1", json.dumps({"value": {"count": len(overtaken)}}).encode())

    def slowly(before: Basket | None) -> Basket:
        overtaken.append(0)
        other = threading.Thread(target=lambda: asyncio.run(overtake()))
        other.start()
        other.join()
        return counted(before)

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        try:
            await call.state(Basket).update(slowly)
        except Conflict as error:
            caught.append(error)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: caught, what="the conflict")
        [kept] = await stored(office.bus, "state.c1")
    assert "c1" in str(caught[0])
    assert json.loads(kept.payload) == {"value": {"count": 4}}
    assert len(overtaken) == 4
