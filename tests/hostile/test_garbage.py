"""Garbage on every subject: it ends as a dead letter, and the process lives."""

import asyncio
import json
from dataclasses import replace

import natsio
import pytest
from support.messages import Book, Turn
from support.office import QUICK, Office, at_work, consumer_info, dead_letters, settings, stored

from tieline import Conversation, Pod, Retry, Stream
from tieline.testing import Server, eventually

PAYLOADS = [
    b"",
    b"not json",
    b"\xff\xfe\x00",
    b"null",
    b"7",
    b"[]",
    b'"text"',
    b"{",
    b"{}",
    b'{"callId":null}',
    b'{"callId":{"a":1}}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"callId":' + b"9" * 10_000 + b"}",
    b'{"callId":"' + b"x" * 900_000,
    b'{"args":[]}',
    b'{"args":"x"}',
    b'{"args":{"name":[]}}',
    b'{"args":{"nobody":1}}',
    b'{"callId":"\\ud800","args":{}}',
]

HEADERS: list[dict[str, str]] = [
    {"Tieline-Conversation": ""},
    {"Tieline-Conversation": "a.b.*.>"},
    {"Tieline-Conversation": "b_"},
    {"Tieline-Conversation": "b_!!!"},
    {"Tieline-Conversation": "ä"},
    {"Tieline-Conversation": "x" * 5_000},
    {"Tieline-Conversation": "c1", "Tieline-Conversation-Name": "%ff%"},
    {"Tieline-Conversation": "a\nb"},
    {"Tieline-Origin": ""},
    {"Tieline-Origin": "*.>"},
    {"Tieline-Origin": "o\no"},
    {"Tieline-Origin": "x" * 100_000},
    {"Tieline-Run": "*.>"},
    {"Tieline-Cause": "a\nb"},
    {"Tieline-Dead": "{"},
    {"Tieline-Deadline": "yesterday"},
    {"traceparent": "nonsense"},
    {"Nats-Msg-Id": "*.> \t"},
    {"X": "a\nb", "Y": "\r"},
    {"X" * 1000: "y"},
]

STEPS = [
    "",
    "step",
    "step.a.b.c",
    "step.*.b.c.d",
    "step.a.b.c.>",
    "call.intent.book",
    "$JS.API.STREAM.DELETE.CALL_INTENT",
    "step.a b.c.d.e",
    "step.a.b.tool." + "x" * 5_000,
    "step.ä.b.tool.d",
    "step.a.b.tool.\x00",
    "step.a.b.tool.d\ne",
]


class Garbage:
    """Sends what no decent client would: header blocks are made here, unchecked."""

    def __init__(self, host: str, port: int) -> None:
        self._where = (host, port)

    async def send(self, messages: list[tuple[str | bytes, dict[str, str], bytes]]) -> None:
        reader, writer = await asyncio.open_connection(*self._where)
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        for subject, headers, payload in messages:
            block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
            data, where = block.encode(), subject if isinstance(subject, bytes) else subject.encode()
            writer.write(b"HPUB %b %d %d\r\n" % (where, len(data), len(data) + len(payload)) + data + payload + b"\r\n")
        writer.write(b"PING\r\n")
        while not (await reader.readline()).startswith(b"PONG"):
            pass
        writer.close()
        await writer.wait_closed()


def garbage(server: Server) -> Garbage:
    host, port = server.url.removeprefix("nats://").split(":")
    return Garbage(host, int(port))


async def quiet(office: Office, stream: str, durable: str) -> bool:
    info = await consumer_info(office.bus, stream, durable)
    return bool(info["num_pending"] == info["num_ack_pending"] == 0)


async def test_payloads_and_headers_of_every_kind(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.tool
    async def crm(name: str) -> str:
        return name

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        got.append(intent.call_id)
        await call.tool(crm, "x")

    good = b'{"callId":"good"}'
    tool = b'{"args":{"name":"x"}}'
    sent: list[tuple[str | bytes, dict[str, str], bytes]] = [("call.intent.book", {}, payload) for payload in PAYLOADS]
    sent += [("call.intent.book", headers, good) for headers in HEADERS]
    sent += [("call.intent.book", headers, b"bad") for headers in HEADERS]
    sent += [("tool.call.crm", {}, payload) for payload in PAYLOADS]
    sent += [("tool.call.crm", headers, tool) for headers in HEADERS]
    sent += [("tool.call.crm", {"Tieline-Step": step}, tool) for step in STEPS]
    sent += [("tool.call.crm", {"Tieline-Step": step}, b"bad") for step in STEPS]
    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await garbage(nats_server).send(sent)
        await office.bus.publish(Book(call_id="last"))
        await eventually(lambda: "last" in got, what="the decent one")
        await eventually(lambda: quiet(office, "CALL_INTENT", "booking"), what="all intents answered for", within=20)
        await eventually(lambda: quiet(office, "TOOL_CALL", "tool-crm"), what="all tool calls answered for", within=20)
        assert not office.work.done()
        letters = await dead_letters(office.bus)
        # One is refused for its headers of 100,000 bytes, and one of the ids comes twice.
        await eventually(lambda: settled_by(office, len(PAYLOADS) + 2 * len(HEADERS) - 2), what="a fact of each")
    bad_payloads = sum(letter.told["agent"] == "booking" for letter in letters)
    assert bad_payloads >= len(PAYLOADS) - 2 + len(HEADERS)
    assert {letter.told["cause"] for letter in letters} <= {"invalid", "raised"}


async def settled_by(office: Office, count: int) -> bool:
    facts = map(fact_of, await stored(office.bus, "call.audit.*"))
    return sum(fact["fact"] == "settled" and fact["by"] == "booking" for fact in facts) >= count


def fact_of(delivery: object) -> dict[str, object]:
    fact: dict[str, object] = json.loads(getattr(delivery, "payload", b"{}"))
    return fact


async def test_records_and_nudges_that_nobody_of_ours_wrote(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.tool
    async def crm() -> str:
        return "x"

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> None:
        await call.tool(crm)
        got.append(intent.call_id)

    client = await natsio.connect(nats_server.url)
    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Book(call_id="first"))
        await eventually(lambda: "first" in got, what="the first, so that its agent listens")
        for payload in PAYLOADS:
            await client.publish(
                "nudge.step.booking.c.tool.x", payload, headers={"Nats-Subject": "step.booking.c.tool.x"}
            )
            await client.publish("nudge.step.booking.c.tool.x", payload)
            await client.publish("step.booking.c.tool." + str(len(payload)), payload)
        await office.bus.publish(Book(call_id="last"))
        await eventually(lambda: "last" in got, what="the last")
        assert not office.work.done()
    await client.close()


async def test_ids_with_wildcards_and_dots_stay_one_token(nats_server: Server) -> None:
    pod = Pod("office", streams=(Stream(name="TALK", subjects=("talk.turn.*",)),))
    got: list[tuple[str, str]] = []

    @pod.agent
    async def talking(turn: Turn, call: Conversation) -> None:
        got.append((turn.call_id, call.id))

    names = ["*", ">", "a.b", "a b", "", "b_x", "é", "x" * 200, "\ud7ff", "a\r\nNats-Rollup: all"]
    async with at_work(pod, nats_server.url) as office:
        for name in names:
            await office.bus.publish(Turn(call_id=name, text="hi"))
        await eventually(lambda: len(got) == len(names), what="all turns")
    assert [said for said, _ in got] == names
    assert [conversation for name, conversation in got if name] == [name for name in names if name]


@pytest.mark.parametrize(
    "subject",
    [
        b"talk.turn." + b"x" * 3_900,
        b"talk.turn." + b"x" * 4_060,  # in a control line that is longer than the client library's default limit
        "talk.turn.é".encode(),
        b"talk.turn.\xff\xfe",
        b"talk.turn.a\x0bb",
    ],
)
@pytest.mark.parametrize("payload", [b'{"callId":"odd","text":"hi"}', b"bad"])
async def test_a_subject_that_the_client_library_cannot_read_harms_nobody(
    nats_server: Server, subject: bytes, payload: bytes
) -> None:
    pod = Pod("office", streams=(Stream(name="TALK", subjects=("talk.turn.*",)),))
    got: list[str] = []

    @pod.agent
    async def talking(turn: Turn, _: Conversation) -> None:
        got.append(turn.call_id)

    async with at_work(pod, nats_server.url) as office:
        await garbage(nats_server).send([(subject, {}, payload)])
        await office.bus.publish(Turn(call_id="good", text="hi"))
        await eventually(lambda: "good" in got, what="the good one", within=4)
        await eventually(lambda: quiet(office, "TALK", "talking"), what="both answered for", within=4)
        assert ("odd" in got) == (payload != b"bad")
        letters = await dead_letters(office.bus)
        assert [letter.told["cause"] for letter in letters] == (["invalid"] if payload == b"bad" else [])
        feed = office.bus.feed("talk.turn.*", start=1, to_end=True)
        assert len([delivery async for delivery in feed]) == 2


@pytest.mark.parametrize("tried", ["999999", "999999999", "9" * 5_000, "²", "-1"])
async def test_the_attempts_of_a_message_that_says_it_was_tried_often_are_counted(
    nats_server: Server, tried: str
) -> None:
    pod = Pod("office", limits=replace(QUICK, attempts=3))
    runs: list[int] = []

    @pod.agent
    async def booking(_: Book, call: Conversation) -> None:
        runs.append(call.attempt)
        raise RuntimeError("every time")

    async with at_work(pod, nats_server.url) as office:
        headers = {"Tieline-Origin": "CALL_INTENT-7-1a2b3c4d", "Tieline-Subject": "call.intent.book"}
        headers |= {"Tieline-Tried": tried, "Tieline-Conversation": "c"}
        await garbage(nats_server).send([("redrive.call_intent.booking", headers, b'{"callId":"c"}')])
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter", within=10)
        assert letter.told["cause"] == "raised"
    first = int(tried) if tried == "999999" else 0
    first = max(first, 1)  # it was delivered before
    assert runs == [first + 1, first + 2, first + 3]


async def test_waits_for_ever_end_no_process(nats_server: Server) -> None:
    """A handler may ask for a time that no date holds, and so may a record."""
    pod = Pod("office", limits=QUICK)
    got: list[str] = []

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> Retry | None:
        got.append(intent.call_id)
        match intent.call_id:
            case "retry":
                return Retry("later", after=1e15)
            case "sleep":
                await call.sleep(1e15)
            case "within":
                await call.ask_human("well?", within=1e15)
            case _:
                pass
        return None

    async with at_work(pod, nats_server.url) as office:
        for name in ("retry", "sleep", "within", "last"):
            await office.bus.publish(Book(call_id=name))
        await eventually(lambda: set(got) == {"retry", "sleep", "within", "last"}, what="all to run")
        await eventually(lambda: quiet(office, "CALL_INTENT", "booking"), what="all answered for", within=10)
        assert not office.work.done()
        assert await dead_letters(office.bus) == []


@pytest.mark.parametrize("lie", [b"ok", b"{}", b"", b"[" * 20_000, b'{"error":7}', b'{"seq":1e400,"stream":"S"}'])
async def test_facts_are_not_taken_for_stored_because_somebody_answers(nats_server: Server, lie: bytes) -> None:
    """A client that answers everything it hears: the pod waits until the stream is heard, and goes on."""
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(_: Book, __: Conversation) -> None: ...

    client = await natsio.connect(nats_server.url)
    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        stream = await office.bus.connection.api("STREAM.INFO.CALL_AUDIT")
        await office.bus.connection.api("STREAM.DELETE.CALL_AUDIT")
        heard = asyncio.Event()

        def answer(message: natsio.Msg) -> None:
            if message.reply:
                answering.append(asyncio.ensure_future(client.publish(message.reply, lie)))
            heard.set()

        answering: list[asyncio.Future[None]] = []
        subscription = client.subscribe("call.audit.*", cb=answer)
        await client.flush()
        await office.bus.publish(Book(call_id="c1"))
        await eventually(heard.is_set, what="the liar to be asked")
        await asyncio.gather(*answering)
        assert not await quiet(office, "CALL_INTENT", "booking")  # nothing is acknowledged without a stored fact
        await subscription.unsubscribe()
        await office.bus.connection.api("STREAM.CREATE.CALL_AUDIT", stream["config"])
        await eventually(lambda: quiet(office, "CALL_INTENT", "booking"), what="the acknowledgement", within=20)
        assert not office.work.done()
        facts = map(fact_of, await stored(office.bus, "call.audit.*"))
        assert any(fact.get("outcome") == "done" for fact in facts)
    await client.close()
