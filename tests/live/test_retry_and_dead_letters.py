"""Failing is not lost, and not in the way: retries, and what will not be delivered again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from support.messages import Book, Booked, Brief
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings, stored

from tieline import Conversation, Limits, Message, Pod, Refuse, Retry, subjects
from tieline.errors import NotAccepted
from tieline.outcomes import Outcome
from tieline.testing import Server, eventually

CANARY = "555-0142-canary"


async def quiet(office: Office, durable: str) -> bool:
    info = await consumer_info(office.bus, "CALL_INTENT", durable)
    return bool(info["num_pending"] == info["num_ack_pending"] == 0)


async def test_retries_wait_longer_and_longer_and_then_the_letter_is_dead(nats_server: Server) -> None:
    pod = Pod("office", version="7")
    runs: list[tuple[float, int]] = []
    loop = asyncio.get_running_loop()

    @pod.agent(limits=Limits(attempts=4, first_retry=0.05, longest_retry=10.0))
    async def booking(_: Book, call: Conversation) -> None:
        runs.append((loop.time(), call.attempt))
        raise LookupError(f"no such house {call.attempt}")

    async with at_work(pod, nats_server.url) as office:
        msg_id = await office.bus.publish(Book(call_id="c1", phone="1"), conversation="a b")
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await eventually(lambda: quiet(office, "booking"), what="its acknowledgement")
        info = await consumer_info(office.bus, "CALL_INTENT", "booking")
        assert info["ack_floor"]["stream_seq"] == 1

    assert [attempt for _, attempt in runs] == [1, 2, 3, 4]
    waits = [later - earlier for (earlier, _), (later, _) in pairwise(runs)]
    assert [wait >= least for wait, least in zip(waits, (0.0375, 0.15, 0.6), strict=True)] == [True] * 3

    assert letter.subject == "DLQ.booking.raised.call.intent.book"
    assert json.loads(letter.payload) == {"callId": "c1", "phone": "1"}
    assert letter.headers["Tieline-Conversation"] == subjects.token("a b")
    assert letter.headers["Tieline-Origin"] == letter.told["origin"]
    assert letter.headers["Nats-Msg-Id"] != msg_id
    told = letter.told
    assert (told["cause"], told["error"], told["reason"]) == (
        "raised",
        "LookupError",
        "LookupError: no such house 4",
    )
    assert "raise LookupError" in told["traceback"]
    assert (told["agent"], told["version"], told["subject"]) == ("booking", "7", "call.intent.book")
    assert (told["stream"], told["seq"]) == ("CALL_INTENT", 1)
    assert [(a["end"], a["n"], a["reason"]) for a in told["attempts"]] == [
        ("raised", n, f"LookupError: no such house {n}") for n in (1, 2, 3, 4)
    ]


async def test_a_waiting_retry_holds_no_slot(nats_server: Server) -> None:
    pod = Pod("office")
    got: list[str] = []

    @pod.agent(limits=Limits(concurrency=1, first_retry=60.0))
    async def booking(intent: Book, _: Conversation) -> None:
        got.append(intent.call_id)
        if intent.call_id == "bad":
            raise ValueError

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="bad"))
        await eventually(lambda: got == ["bad"], what="the failing one")
        for n in range(5):
            await office.bus.publish(Book(call_id=f"c{n}"))
        await eventually(lambda: len(got) == 6, what="the others")


async def test_a_retry_that_succeeds_leaves_no_letter(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    attempts: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Outcome | None:
        attempts.append(call.attempt)
        return Retry("busy", after=0.02) if call.attempt < 3 else None

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: len(attempts) == 3, what="three runs")
        await eventually(lambda: quiet(office, "booking"), what="its acknowledgement")
        assert await dead_letters(office.bus) == []
    assert attempts == [1, 2, 3]


async def test_a_payload_that_does_not_fit_is_dead_at_once_and_once(nats_server: Server) -> None:
    pod = Pod("office", limits=Limits(first_retry=60.0, longest_retry=60.0))
    ran: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None:
        ran.append(intent.call_id)

    payload = json.dumps({"callId": [CANARY], "phone": {CANARY: CANARY}}).encode()
    async with at_work(pod, nats_server.url) as office:
        await office.bus.connection.request("call.intent.book", payload, {"X-Mine": "kept", "Nats-Msg-Id": "i"})
        await office.bus.publish(Book(call_id="good"))
        await eventually(lambda: ran == ["good"], what="the good one")
        await eventually(lambda: quiet(office, "booking"), what="both acknowledged")
        [letter] = await dead_letters(office.bus)
    assert letter.payload == payload
    assert letter.told["cause"] == "invalid"
    assert "callId" in letter.told["reason"]
    assert CANARY not in json.dumps(letter.told)
    assert letter.headers["X-Mine"] == "kept"
    [only] = letter.told["attempts"]
    assert (only["n"], only["end"], only["cause"], only["by"]) == (1, "dead", "invalid", letter.told["by"])


async def test_refuse_is_dead_at_once(nats_server: Server) -> None:
    pod = Pod("office")
    ran: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Outcome:
        ran.append(call.attempt)
        return Refuse("we sell no castles")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await eventually(lambda: quiet(office, "booking"), what="its acknowledgement")
    assert ran == [1]
    assert (letter.told["cause"], letter.told["reason"]) == ("refused", "we sell no castles")


async def test_a_ttl_that_ends_before_the_next_attempt_makes_a_dead_letter(nats_server: Server) -> None:
    pod = Pod("office")
    ran: list[int] = []

    @pod.agent(limits=Limits(first_retry=60.0))
    async def booking(_: Brief, call: Conversation) -> None:
        ran.append(call.attempt)
        raise LookupError("no line free")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Brief(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert "Nats-TTL" not in letter.headers  # the letter itself must not expire
    assert ran == [1]
    assert letter.told["cause"] == "expired"
    assert "no line free" in letter.told["reason"]


async def test_a_handler_that_hangs_is_retried_and_then_dead(nats_server: Server) -> None:
    pod = Pod("office")
    attempts: list[int] = []

    @pod.agent(limits=Limits(timeout=0.1, attempts=2, first_retry=0.02))
    async def booking(_: Book, call: Conversation) -> None:
        attempts.append(call.attempt)
        await asyncio.Event().wait()

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert attempts == [1, 2]
    assert letter.told["cause"] == "timeout"
    assert "0.1 s" in letter.told["reason"]


async def test_two_hosts_count_the_same_attempts(nats_server: Server) -> None:
    pod = Pod("office")
    attempts: list[int] = []

    @pod.agent(limits=Limits(attempts=5, first_retry=0.02, longest_retry=0.05))
    async def booking(_: Book, call: Conversation) -> None:
        attempts.append(call.attempt)
        raise ValueError

    async with at_work(pod, nats_server.url) as office, at_work(pod, nats_server.url):
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await eventually(lambda: quiet(office, "booking"), what="its acknowledgement")
        assert len(await dead_letters(office.bus)) == 1
    assert attempts == [1, 2, 3, 4, 5]


async def test_no_letter_is_released_before_the_dead_letter_stream_has_it(nats_server: Server) -> None:
    pod = Pod("office")
    ran: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Outcome:
        ran.append(call.attempt)
        return Refuse("we sell no castles")

    async with at_work(pod, settings(nats_server.url, patience=3.0)) as office:
        await office.bus.connection.api("STREAM.DELETE.DLQ")
        await office.bus.publish(Book(call_id="c1"))
        await eventually(lambda: ran, what="the run")
        # Nothing stores the letter: the message stays with the consumer and comes again, it is never acknowledged.
        await eventually(lambda: office.bus.publisher.retries > 2, what="several tries to store the letter")
        info = await consumer_info(office.bus, "CALL_INTENT", "booking")
        assert info["ack_floor"]["stream_seq"] == 0
        assert info["num_ack_pending"] == 1


async def test_a_bus_that_fails_is_no_attempt_of_the_message(nats_server: Server) -> None:
    pod = Pod("office")
    ran: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        ran.append(call.attempt)
        await call.publish(Booked(call_id="c1"))

    async with at_work(pod, settings(nats_server.url, patience=0.3)) as office:
        await office.bus.connection.api("STREAM.UPDATE.CALL_INTENT", await narrowed(office))
        await office.bus.publish(Book(call_id="c1"))
        ends = await eventually(lambda: stored(office.bus, "step.booking.*.attempt.*"), what="a record of the attempt")
    assert [json.loads(end.payload)["end"] for end in ends] == ["interrupted"]
    assert ran == [1]


async def narrowed(office: Office) -> dict[str, object]:
    """CALL_INTENT's configuration without the subject that the handler publishes to: nobody answers there."""
    config: dict[str, object] = (await office.bus.connection.api("STREAM.INFO.CALL_INTENT"))["config"]
    return config | {"subjects": ["call.intent.book", "redrive.call_intent.*"], "sources": []}


@pytest.mark.parametrize("size", [900_000, 1_048_574])
async def test_a_letter_too_large_to_carry_its_cause_is_told_all_the_same(nats_server: Server, size: int) -> None:
    pod = Pod("office")

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    async with at_work(pod, nats_server.url) as office:
        await office.bus.connection.request("call.intent.book", b'"' + b"x" * size + b'"')
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        await eventually(lambda: quiet(office, "booking"), what="its acknowledgement")
    assert letter.told["cause"] == "invalid"
    assert (letter.told["stream"], letter.told["seq"]) == ("CALL_INTENT", 1)
    assert len(letter.payload) == (size + 2 if size < 1_000_000 else 0)
    assert ("payload" in letter.told) == (size > 1_000_000)


async def test_an_error_of_a_megabyte_is_an_error_like_any(nats_server: Server) -> None:
    pod = Pod("office", limits=replace(QUICK, attempts=2))

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None:
        raise ValueError("\ud800" + "x" * 2_000_000)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert letter.told["reason"].startswith("ValueError: ?xxx")
    assert len(letter.told["attempts"]) == 2


@pytest.mark.parametrize(
    "junk",
    [
        Retry("soon", after="tomorrow"),  # type: ignore[arg-type]
        Retry("never", after=float("inf")),
        Retry("what", after=float("nan")),
        Retry(reason=object()),  # type: ignore[arg-type]
        Refuse(reason=object()),  # type: ignore[arg-type]
        Refuse(reason=b"bytes"),  # type: ignore[arg-type]
        Refuse("line\nbreak \ud800"),
    ],
)
async def test_a_nonsensical_outcome_ends_no_process(nats_server: Server, junk: Outcome) -> None:
    pod = Pod("office", limits=replace(QUICK, attempts=2))
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> Outcome | None:
        got.append(intent.call_id)
        return junk if intent.call_id == "bad" else None

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="bad"))
        await office.bus.publish(Book(call_id="good"))
        await eventually(lambda: "good" in got, what="the good one")
        await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert not office.work.done()


async def test_a_dead_letter_is_stored_once_though_it_is_sent_twice(nats_server: Server) -> None:
    pod = Pod("office")

    @pod.agent
    async def booking(_: Book, __: Conversation) -> Outcome:
        return Refuse("no")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        ack = await office.bus.publisher.publish(letter.subject, letter.payload, letter.headers)
        assert ack.duplicate
        with pytest.raises(NotAccepted):
            await office.bus.publisher.publish("DLQ.x", b"", letter.headers | {"Nats-Expected-Last-Sequence": "9"})


class Unstored(Message, subject="nowhere.at.all"):
    call_id: str


@pytest.mark.parametrize(
    ("mistake", "cause", "error"),
    [
        (lambda call: call.publish(Unstored(call_id="c1")), "raised", "BadDeclaration"),
        (lambda call: call.tool(Pod("elsewhere").tool(nobody_runs)), "invalid", "BadPayload"),
    ],
)
async def test_what_no_retry_can_help_is_a_dead_letter_after_one_run(
    nats_url: str, mistake: Callable[[Conversation], Awaitable[object]], cause: str, error: str
) -> None:
    pod = Pod("office")
    runs: list[int] = []

    @pod.agent(limits=QUICK)
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        await mistake(call)

    async with at_work(pod, nats_url) as office:
        await office.bus.publish(Book(call_id="c1", phone="1"))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert runs == [1]
    assert letter.subject == f"DLQ.booking.{cause}.call.intent.book"
    assert (letter.told["error"], len(letter.told["attempts"])) == (error, 1)
    assert "await mistake(call)" in letter.told["traceback"]


async def nobody_runs() -> int:
    return 1
