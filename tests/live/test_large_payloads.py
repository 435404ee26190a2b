"""Large payloads and results travel through the object store, and nobody notices."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import natsio
import pytest
from natsio.objectstore import ObjectStoreConfig
from support import library
from support.office import QUICK, at_work, dead_letters, settings, stored

from tieline import BadPayload, Bus, Conversation, Message, ObjectGone, Pod, Settings, ToolFailed, connect
from tieline.runtime import executor
from tieline.testing import Server, eventually
from tieline.wire import objects
from tieline.wire.delivery import Delivery
from tieline.wire.objects import LARGEST

LONG = "0123456789abcdef" * 64 * 1024  # 1 MiB: more than the server takes in one message


class Letter(Message, subject="call.intent.letter", redact=("phone",)):
    call_id: str
    text: str = ""
    phone: str = ""


class Question(Message, subject="call.intent.question"):
    call_id: str
    text: str = ""


async def objects_of(bus: Bus) -> int:
    """How many objects the bucket has."""
    return len([meta async for meta in bus.feed("$O.TIELINE.M.>", start=1, to_end=True)])


async def test_a_large_message_arrives_whole_and_any_client_can_follow_it(nats_server: Server) -> None:
    pod, got, facts = Pod("office"), list[Letter](), list[Any]()

    @pod.agent
    async def reader(letter: Letter, _: Conversation) -> None:
        got.append(letter)

    async with at_work(pod, settings(nats_server.url, inbox_prefix="_INBOX_office")) as office:
        office.bus.observers.append(facts.append)
        await office.bus.publish(Letter(call_id="c1", text=LONG, phone="555"))
        await eventually(lambda: got, what="the letter")
        [wire] = await stored(office.bus, "call.intent.letter")
        typed = [letter async for letter in office.bus.messages(Letter, start=1, to_end=True)]
    assert got[0].text == typed[0].text == LONG
    body = json.loads(wire.payload)
    assert body == {"callId": "c1", "tielineObject": wire.headers["Tieline-Object"]}
    assert facts[0].payload == body  # a fact has no room for it, and shows no phone number

    bucket, _, name = wire.headers["Tieline-Object"].partition("/")
    async with await natsio.connect(nats_server.url) as client:
        store = await client.jetstream().object_store(bucket)
        content = await store.get_bytes(name)
    assert json.loads(content)["text"] == LONG


async def test_arguments_results_steps_and_replies_may_be_large(nats_server: Server) -> None:
    pod, got = Pod("office", limits=QUICK), list[tuple[int, str, str, str]]()
    runs: list[str] = []

    @pod.tool(effect="once")
    async def shout(text: str) -> str:
        runs.append("tool")
        return text.upper()

    @pod.agent
    async def echo(question: Question, call: Conversation) -> None:
        await call.reply(Letter(call_id=question.call_id, text=question.text[::-1]))

    @pod.agent
    async def reader(letter: Letter, call: Conversation) -> None:
        async def double(text: str) -> str:
            runs.append("step")
            return text + text

        shouted = await call.tool(shout, letter.text)
        doubled = await call.step("double", double, shouted)
        reply = await call.ask(Question(call_id=letter.call_id, text=letter.text), expects=Letter)
        got.append((call.attempt, shouted, doubled, reply.text))
        if call.attempt == 1:
            raise ConnectionError("after all of it")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Letter(call_id="c1", text=LONG))
        await eventually(lambda: len(got) == 2, what="both runs", within=20.0)
        [result] = await eventually(lambda: stored(office.bus, "tool.result.c1"), what="the result by conversation")
        [call] = await stored(office.bus, "tool.call.shout")
    assert [one[1:] for one in got] == [(LONG.upper(), LONG.upper() * 2, LONG[::-1])] * 2
    assert runs == ["tool", "step"]
    told = json.loads(result.payload)
    assert (told["ok"], told["tool"], told["callId"]) == (True, "shout", "c1")
    assert told["tielineObject"] == result.headers["Tieline-Object"]
    assert json.loads(call.payload)["tool"] == "shout"
    assert len(result.payload) + len(call.payload) < 2_000


async def test_the_same_content_is_stored_once_in_a_conversation(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        for conversation in ("c1", "c1", "c2"):
            await bus.publish(Letter(call_id="c", text=LONG), conversation=conversation)
        await asyncio.gather(*(bus.publish(Letter(call_id="c", text=LONG), conversation="c1") for _ in range(4)))
        assert await objects_of(bus) == 2


async def test_a_conversation_takes_its_objects_with_it(nats_server: Server) -> None:
    pod, runs = Pod("office", limits=QUICK), list[int]()

    @pod.agent
    async def reader(letter: Letter, call: Conversation) -> None:
        runs.append(len(letter.text))
        await call.end()
        if call.attempt == 1:
            raise ConnectionError("after the end of the conversation: the letter is still needed")

    async with at_work(pod, nats_server.url) as office:
        for conversation in ("c1", "c1.x", "c1 x"):
            await office.bus.publish(
                Letter(call_id=conversation, text=LONG), conversation=conversation, id=conversation
            )
        await eventually(lambda: nothing_left(office.bus), what="all objects to go", within=20.0)
        assert await dead_letters(office.bus) == []
    assert runs == [len(LONG)] * 6


async def test_an_acknowledgement_that_is_lost_finds_the_objects_gone_or_not_and_is_done(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, runs, left = Pod("office", limits=QUICK), list[int](), list[int]()
    acknowledge = Delivery.ack

    @pod.agent
    async def reader(letter: Letter, call: Conversation) -> None:
        runs.append(len(letter.text))
        await call.end()

    async with at_work(pod, nats_server.url) as office:

        async def lost(delivery: Delivery) -> None:
            """As if the process died here: nothing is acknowledged, and it comes again."""
            left.append(await objects_of(office.bus))
            monkeypatch.setattr(Delivery, "ack", acknowledge)
            await delivery.nak()

        monkeypatch.setattr(Delivery, "ack", lost)
        await office.bus.publish(Letter(call_id="c1", text=LONG))
        await eventually(lambda: idle(office.bus), what="both deliveries to be settled")
        assert await dead_letters(office.bus) == []
        assert await nothing_left(office.bus)
    assert (runs, left) == ([len(LONG)], [1])


async def idle(bus: Bus) -> bool:
    info = await bus.connection.api("CONSUMER.INFO.CALL_INTENT.reader")
    return int(info["ack_floor"]["stream_seq"]) == 1


async def nothing_left(bus: Bus) -> bool:
    info = await bus.connection.api("STREAM.INFO.OBJ_TIELINE")
    return int(info["state"]["messages"]) == 0


async def test_removing_one_conversation_leaves_the_others(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        references = [await bus.objects.put(name, LONG.encode()) for name in ("a", "a.b", "a b", "ab")]
        assert await bus.objects.remove("a") == 1
        assert await bus.objects.remove("a") == 0
        with pytest.raises(ObjectGone, match=r"object TIELINE/a\..* is gone"):
            await bus.objects.get(references[0])
        assert [await bus.objects.get(reference) for reference in references[1:]] == [LONG.encode()] * 3
        assert await bus.objects.get(await bus.objects.put("a", LONG.encode())) == LONG.encode()


async def test_an_object_that_is_gone_is_named_in_a_dead_letter(nats_server: Server) -> None:
    pod, failures = Pod("office", limits=QUICK), list[str]()

    @pod.agent
    async def reader(letter: Letter, call: Conversation) -> None:
        async def double(text: str) -> str:
            return text + text

        await call.step("double", double, letter.text)
        if call.attempt == 1:
            raise ConnectionError("so that it runs again")
        failures.append("the step was found")

    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await bus.publish(Letter(call_id="c1", text=LONG))
        await bus.objects.remove("c1")
        async with at_work(pod, nats_server.url):
            [letter] = await eventually(lambda: dead_letters(bus), what="the dead letter")
            await bus.publish(Letter(call_id="c2", text=LONG[:400_000]))
            record = await eventually(lambda: stored(bus, "step.reader.c2.step.*"), what="the step's record")
            await bus.objects.remove("c2")
            letters = await eventually(lambda: two(bus), what="the second dead letter")
    assert letter.told["cause"] == letters[1].told["cause"] == "invalid"
    assert letter.headers["Tieline-Object"] in letter.told["reason"]
    assert record[0].headers["Tieline-Object"] in letters[1].told["reason"]
    assert failures == []


async def two(bus: Bus) -> list[Any] | None:
    letters = await dead_letters(bus)
    return letters if len(letters) == 2 else None


@pytest.mark.parametrize("reference", ["nonsense", "../x/y", "NOBODYS/thing", "TIELINE/nothing", "a.b/c", ""])
async def test_a_reference_to_nothing_is_refused(nats_server: Server, reference: str) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def reader(_: Letter, __: Conversation) -> None:
        raise AssertionError("it has nothing to read")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.connection.request("call.intent.letter", b'{"callId":"c1"}', {"Tieline-Object": reference})
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    assert letter.told["cause"] == "invalid"


async def test_what_another_client_stored_is_followed(nats_server: Server) -> None:
    """A client in any language puts its object in a bucket of its own and sends the reference."""
    pod, got = Pod("office"), list[str]()

    @pod.agent
    async def reader(letter: Letter, _: Conversation) -> None:
        got.append(letter.text)

    async with at_work(pod, nats_server.url), await natsio.connect(nats_server.url) as client:
        store = await client.jetstream().create_object_store(ObjectStoreConfig(bucket="theirs"))
        await store.put("a letter", json.dumps({"callId": "c1", "text": LONG}).encode())
        await client.request("call.intent.letter", b"{}", headers={"Tieline-Object": "theirs/a letter"})
        await eventually(lambda: got, what="the letter")
    assert got == [LONG]


async def test_a_dead_letter_keeps_the_reference_and_may_be_sent_again(nats_server: Server) -> None:
    pod, got = Pod("office", limits=QUICK), list[str]()
    refusing = True

    @pod.agent
    async def reader(letter: Letter, _: Conversation) -> None:
        if refusing:
            raise BadPayload("not today")
        got.append(letter.text)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Letter(call_id="c1", text=LONG))
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter", within=20.0)
        refusing = False
        again = {name: value for name, value in letter.headers.items() if not name.startswith("Nats-")}
        again["Tieline-Subject"] = "call.intent.letter"
        again["Tieline-Run"] = "again"
        await office.bus.connection.request("redrive.call_intent.reader", letter.payload, again)
        await eventually(lambda: got, what="the letter, sent again")
    assert got == [LONG]


async def test_more_than_the_most_is_a_clear_error(nats_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        with pytest.raises(BadPayload, match="at most 67,108,864 are carried"):
            await bus.publish(Letter(call_id="c1", text="x" * LARGEST))
        assert await nothing_left(bus)

    monkeypatch.setattr(objects, "LARGEST", 2_000_000)  # sixty-four times as fast
    monkeypatch.setattr(executor, "LARGEST", 2_000_000)
    pod, errors = Pod("office", limits=QUICK), list[Exception]()

    @pod.tool
    async def write(pages: int) -> str:
        return LONG * pages

    @pod.tool
    async def read(text: str) -> int:
        return len(text)

    @pod.agent
    async def reader(_: Letter, call: Conversation) -> None:
        async def dream(pages: int) -> str:
            return LONG * pages

        for asked in (call.tool(write, 3), call.tool(read, LONG * 3), call.step("dream", dream, 3)):
            try:
                await asked
            except (ToolFailed, BadPayload) as error:
                errors.append(error)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Letter(call_id="c1"))
        await eventually(lambda: len(errors) == 3, what="three errors")
        assert await dead_letters(office.bus) == []
    assert [type(error) for error in errors] == [ToolFailed, BadPayload, BadPayload]
    assert all("at most 2,000,000 are carried" in str(error) for error in errors)


async def test_the_limit_is_a_setting(nats_server: Server) -> None:
    assert Settings.from_environment({"TIELINE_LARGE": "2048"}).large == 2048
    async with connect(
        Pod("office"), settings=Settings(large=2048, connection=settings(nats_server.url).connection)
    ) as bus:
        await bus.apply()
        await bus.publish(Letter(call_id="c1", text="x" * 1_000))
        assert await objects_of(bus) == 0
        await bus.publish(Letter(call_id="c1", text="x" * 3_000))
        assert await objects_of(bus) == 1


async def test_a_server_killed_while_an_object_is_stored(nats_server: Server) -> None:
    content = os.urandom(24 * 1024 * 1024)
    async with connect(Pod("office"), settings=settings(nats_server.url, patience=20.0)) as bus:
        await bus.apply()
        storing = asyncio.ensure_future(bus.objects.put("c1", content))
        await eventually(lambda: chunks(bus), what="the first parts")
        assert not storing.done()
        nats_server.kill()
        await nats_server.restart()
        reference = await storing
        assert await bus.objects.get(reference) == content


async def chunks(bus: Bus) -> int:
    info = await bus.connection.api("STREAM.INFO.OBJ_TIELINE")
    return int(info["state"]["messages"])


@asynccontextmanager
async def process(url: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tieline.services.process", "--server", url, "support.library:library", name),
        cwd=Path(__file__).parents[1],
        env={"TIELINE_AUDIT": "off", "PYTHONPATH": ":".join(sys.path)},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


async def test_killed_processes_and_a_killed_server_lose_no_byte(nats_server: Server, tmp_path: Path) -> None:
    notes, url = tmp_path / "notes", nats_server.url
    whole = hashlib.sha256(LONG.upper().encode()).hexdigest()
    async with connect(library.library, settings=settings(url)) as bus, process(url, "tools") as tools:
        await bus.apply()
        await bus.publish(library.Book(call_id="c1", notes=str(notes), text=LONG))
        async with process(url, "reader") as first:
            await eventually(lambda: notes.exists(), what="the first run's result", within=20.0)
            first.kill()
            tools.kill()
            await first.wait()
        nats_server.kill()
        await nats_server.restart()
        async with process(url, "reader"):
            await eventually(lambda: len(notes.read_text().splitlines()) == 2, what="the second run", within=20.0)
            await eventually(lambda: nothing_left(bus), what="the objects to go with the conversation")
    assert notes.read_text().split() == ["1", whole, "2", whole]
