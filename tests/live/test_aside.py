"""What is put aside is looked at once more: neither a stale read nor a lost word leaves it there."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from approvals import Sale, approvals
from support.office import Office, at_work, consumer_info, dead_letters, stored

from tieline import subjects
from tieline.runtime import aside, cancelled
from tieline.services import questions
from tieline.services.cancelling import cancel
from tieline.services.questions import open_questions
from tieline.testing import Server, eventually
from tieline.wire.connection import Received
from tieline.wire.journal import Journal, Record


class Hold:
    """Holds a message back in the moment before its park record is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        write = Journal.write

        async def held(journal: Journal, subject: str, record: Record, *others: Any) -> bool:
            if subject.split(".")[3:4] == ["park"]:
                self.reached.set()
                await self.go.wait()
            return await write(journal, subject, record, *others)

        monkeypatch.setattr(Journal, "write", held)
        monkeypatch.setattr(aside, "_AGE", 1.0)
        monkeypatch.setattr(aside, "_EVERY", 0.1)
        monkeypatch.setattr(cancelled, "_EVERY", 0.2)


async def test_an_answer_that_a_replica_did_not_have_yet_is_found(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold(monkeypatch)
    async with at_work(approvals(), nats_server.url) as office:
        await office.bus.publish(Sale(call_id="c1"))
        await hold.reached.wait()
        [[question]] = (await open_questions(office.bus.connection, "c1")).questions.values()
        await questions.answer(office.bus, question, {"ok": True, "value": True})
        await eventually(lambda: heard_by_the_waker(office), what="the waker to find nobody parked")
        read = Journal.glance

        async def lagging(journal: Journal, wanted: Iterable[str]) -> dict[str, Record]:
            wanted = list(wanted)
            return {} if wanted == [question.step] else await read(journal, wanted)

        monkeypatch.setattr(Journal, "glance", lagging)
        hold.go.set()
        await eventually(lambda: is_parked(office), what="the message to be parked, its answer unseen")
        monkeypatch.setattr(Journal, "read", read)
        await eventually(lambda: stored(office.bus, "call.intent.sold"), what="the sale")


async def heard_by_the_waker(office: Office) -> bool:
    """It had the question and the answer, and looked for a park record of each."""
    info = await consumer_info(office.bus, "STEP", "selling-waker")
    return bool(not info["num_pending"] and not info["num_ack_pending"])


async def is_parked(office: Office) -> bool:
    """Its park record is there, and its delivery acknowledged."""
    parked = await office.bus.journal.subjects(subjects.step_filter("selling", "park"))
    stream = office.bus.pod.stream_of("call.intent.sale").name
    return bool(parked and not (await consumer_info(office.bus, stream, "selling"))["num_ack_pending"])


async def test_what_parks_while_its_conversation_is_cancelled_is_refused(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word of it is lost, and what looks for cancellations looked a moment before."""
    hold = Hold(monkeypatch)

    def lost(_: cancelled.Cancellations, __: Received) -> None:
        return

    monkeypatch.setattr(cancelled.Cancellations, "_heard", lost)
    monkeypatch.setattr("tieline.runtime.recorder.Recorder.stop", lambda _: None)  # it settles: there is nothing to end
    async with at_work(approvals(), nats_server.url) as office:
        await office.bus.publish(Sale(call_id="c1"))
        await hold.reached.wait()
        _, woken = await cancel(office.bus, "c1", "enough")
        assert woken == 0
        hold.go.set()
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert letter.told["cause"] == "cancelled"
