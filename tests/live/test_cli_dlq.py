"""`tieline dlq`: what people see of dead letters, and what they do about them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import natsio
import pytest
from command_line import Ended, started, tieline
from support.messages import Book
from support.office import DeadLetter, Office, at_work, dead_letters, settings, stored
from test_dlq import found, planted

from tieline import Bus, Conversation, Pod
from tieline.testing import Server, eventually

_POD = """
from tieline import Conversation, Message, Pod

pod = Pod("shop")

class Book(Message, subject="call.intent.book", redact=("phone",)):
    call_id: str
    phone: str = ""

@pod.agent
async def booking(_: Book, __: Conversation) -> None: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(_POD)
    return tmp_path


@pytest.fixture
async def office(nats_server: Server) -> AsyncIterator[Office]:
    """An agent that breaks on every message without a phone, and one such message."""
    pod = Pod("office")

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> None: ...

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await office.bus.connection.request("call.intent.book", b'{"callId":"c1","phone":1206}')
        await found(office.bus)
        yield office


@pytest.mark.usefixtures("office")
async def test_what_is_dead_is_listed_and_shown(folder: Path, nats_url: str) -> None:
    table = await tieline("dlq", "ls", cwd=folder, url=nats_url)
    assert table.code == 0
    title, columns, group, *_ = table.out.splitlines()
    assert (title.strip(), columns.split()) == ("dead letters by cause", ["count", "cause", "agent", "subjects"])
    assert group.split() == ["1", "invalid", "booking", "call.intent.book"]
    assert table.out.splitlines()[-1].split()[0] == "1"
    one = (
        await tieline("dlq", "ls", "--cause", "invalid", "--conversation", "c1", "--json", cwd=folder, url=nats_url)
    ).json
    assert (one["total"], one["letters"][0]["id"], one["letters"][0]["agent"]) == (1, 1, "booking")
    none = await tieline("dlq", "ls", "--until", "1h", cwd=folder, url=nats_url)
    assert (none.code, none.out) == (0, "no dead letters\n")

    shown = await tieline("dlq", "show", "1", "--pod", "shop", cwd=folder, url=nats_url)
    assert shown.code == 0
    assert "booking" in shown.out
    assert '"phone": "(redacted)"' in shown.out
    assert "1206" not in shown.out
    told = (await tieline("dlq", "show", "1", "--json", cwd=folder, url=nats_url)).json
    assert (told["cause"], told["stream"], told["payload"]) == (
        "invalid",
        "CALL_INTENT",
        {"callId": "c1", "phone": 1206},
    )
    missing = await tieline("dlq", "show", "7", cwd=folder, url=nats_url)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("error: there is no dead letter 7 (any more)")


async def test_a_letter_is_edited_and_sent_again(office: Office, folder: Path, nats_url: str) -> None:
    async def edit(*options: str) -> Ended:
        return await tieline("dlq", "edit", "1", "--pod", "shop", *options, cwd=folder, url=nats_url)

    wrong = await edit("--set", "phone=7")
    assert wrong.code == 1
    assert wrong.err.startswith("error: Book: phone: ")
    strange = await edit("--set", 'phone="7"', "--set", "fone=8")
    assert (strange.code, "no such field: fone" in strange.err) == (1, True)
    assert [letter.payload for letter in await dead_letters(office.bus)] == [b'{"callId":"c1","phone":1206}']
    edited = await edit("--set", 'phone="7"', "--reason", "a typo", "--json")
    assert edited.json == {"id": 2, "replaces": 1, "changed": ["phone"]}

    would = await tieline("dlq", "redrive", "2", "--dry-run", cwd=folder, url=nats_url)
    assert (would.code, would.out.splitlines()[0].strip()) == (0, "would be redriven")
    assert would.out.splitlines()[2].split() == ["1", "invalid", "booking", "redrive.call_intent.booking"]
    done = (await tieline("dlq", "redrive", "--all", "--reason", "edited", "--json", cwd=folder, url=nats_url)).json
    assert (done["done"], done["again"], done["held"], done["missing"]) == (1, 0, [], [])
    assert await dead_letters(office.bus) == []
    gone = await tieline("dlq", "redrive", "2", cwd=folder, url=nats_url)
    assert (gone.code, "there is no dead letter 2" in gone.err) == (1, True)


async def test_an_editor_does_too(office: Office, folder: Path, nats_url: str) -> None:
    (folder / "editor").write_text('#!/bin/sh\nsed -i s/1206/\\"1206\\"/ "$2"\n')
    (folder / "editor").chmod(0o755)
    async with started(
        "dlq", "edit", "1", cwd=folder, url=nats_url, VISUAL="", EDITOR=f"{folder}/editor -w"
    ) as program:
        ended = await program.ended()
    assert (ended.code, ended.out) == (0, "letter 1 is now letter 2; changed: phone\n")
    [letter] = await dead_letters(office.bus)
    assert json.loads(letter.payload) == {"callId": "c1", "phone": "1206"}


async def test_dropping_says_why_and_what(office: Office, folder: Path, nats_url: str) -> None:
    for wrong, why in (
        (("--reason", "x"), "say which letters"),
        (("1", "--all", "--reason", "x"), "not both"),
        (("1", "--reason", " "), "--reason says why"),
        (("1",), "--reason"),
    ):
        refused = await tieline("dlq", "drop", *wrong, cwd=folder, url=nats_url)
        assert (refused.code, why in refused.err) == (2, True), refused
    dropped = await tieline("dlq", "drop", "1", "--reason", "a test call", cwd=folder, url=nats_url)
    assert (dropped.code, dropped.out.splitlines()[0].strip()) == (0, "dropped")
    assert await dead_letters(office.bus) == []
    told = [json.loads(fact.payload) for fact in await stored(office.bus, "call.audit.c1")]
    assert [fact["reason"] for fact in told if fact["fact"] == "letterdropped"] == ["a test call"]
    shown = await tieline("calls", "show", "c1", cwd=folder, url=nats_url)
    assert "letter 1 of booking dropped: a test call" in shown.out


async def test_a_redrive_that_is_killed_is_finished_by_the_next(office: Office, folder: Path, nats_url: str) -> None:
    bus = office.bus
    await planted(bus, 600)
    arguments = ("dlq", "redrive", "--cause", "raised")
    async with started(*arguments, "--rate", "500", cwd=folder, url=nats_url) as program:

        async def under_way() -> bool:
            state = (await bus.connection.api("STREAM.INFO.CALL_INTENT"))["state"]
            return bool(state["messages"] > 100)

        await eventually(under_way, what="some to be sent")
        program.process.kill()
        await program.process.wait()
    left = len(await dead_letters(bus))
    assert 1 < left < 601
    finished = await tieline(*arguments, cwd=folder, url=nats_url)
    assert finished.code == 0
    assert [letter.told["cause"] for letter in await dead_letters(bus)] == ["invalid"]
    sent = [delivery.origin for delivery in await stored(bus, "redrive.call_intent.booking")]
    assert len(sent) == len(set(sent)) == 600


# -- the letters of one original subject -------------------------------------------------------------------------------


async def test_a_plain_client_receives_the_letters_of_one_subject_by_the_filter_that_ls_offers(
    office: Office, folder: Path, nats_url: str
) -> None:
    await office.bus.publisher.publish("DLQ.tool-crm.raised.tool.call.crm", b"{}", {})
    listed = await tieline("dlq", "ls", "--subject", "call.intent.>", cwd=folder, url=nats_url)
    offered = listed.out.splitlines()[-1].split()[-1]
    assert offered == "DLQ.*.*.call.intent.>"
    told = (await tieline("dlq", "ls", "--subject", "call.intent.>", "--json", cwd=folder, url=nats_url)).json
    assert (told["filter"], told["total"]) == (offered, 1)

    client = await natsio.connect(nats_url)
    try:
        heard: list[natsio.Msg] = []
        client.subscribe(offered, cb=heard.append)
        await client.flush()
        for agent in ("booking", "somebody-else"):  # whoever gives it up, and for whatever cause
            for subject in ("call.intent.book", "tool.call.crm"):
                await office.bus.publisher.publish(f"DLQ.{agent}.raised.{subject}", b"{}", {})
        await eventually(lambda: len(heard) >= 2, what="the letters of that subject")
        assert [message.subject for message in heard] == [
            "DLQ.booking.raised.call.intent.book",
            "DLQ.somebody-else.raised.call.intent.book",
        ]

        config = {"ack_policy": "none", "filter_subject": offered, "name": "plain"}
        body = json.dumps({"stream_name": "DLQ", "config": config}).encode()
        made = json.loads((await client.request("$JS.API.CONSUMER.CREATE.DLQ.plain", body)).payload)
        assert made["num_pending"] == 3
    finally:
        await client.close()


@pytest.mark.parametrize("to", ["DLQ.call.intent.{{wildcard(3)}}", "DLQ.>", "DLQ.original.{{wildcard(3)}}"])
async def test_why_the_name_differs_from_the_articles_a_stream_cannot_republish_into_itself(
    nats_url: str, to: str
) -> None:
    """Decision 31. Should a server ever allow it, this test says so, and the article's name can be offered as well."""
    client = await natsio.connect(nats_url)
    try:
        config = {
            "name": "DLQ",
            "subjects": ["DLQ.>"],
            "republish": {"src": "DLQ.*.*.call.intent.*" if "wildcard" in to else "DLQ.*.*.>", "dest": to},
        }
        answer = await client.request("$JS.API.STREAM.CREATE.DLQ", json.dumps(config).encode())
        error = json.loads(answer.payload)["error"]
    finally:
        await client.close()
    assert "cycle" in error["description"]


# -- editing many ------------------------------------------------------------------------------------------------------

_RENAMED = """
from pydantic import AliasChoices, Field

class Viewing(Message, subject="call.intent.viewing"):
    call_id: str
    house: str = Field(validation_alias=AliasChoices("house", "home"))

@pod.agent
async def viewing(_: Viewing, __: Conversation) -> None: ...
"""


async def viewings(bus: Bus, count: int, **fields: object) -> None:
    """Dead letters of version 1, whose field was called ``home``."""

    async def one(number: int) -> None:
        told = {"cause": "invalid", "reason": "Viewing: house: Field required", "stream": "CALL_INTENT", "seq": number}
        told |= {"agent": "viewing", "subject": "call.intent.viewing", "origin": f"CALL_INTENT-{number}-{number:x}"}
        payload = {"callId": f"c{number}", "home": f"{number}", **fields}
        headers = {"Tieline-Dead": json.dumps(told), "Tieline-Conversation": f"c{number}"}
        await bus.publisher.publish("DLQ.viewing.invalid.call.intent.viewing", json.dumps(payload).encode(), headers)

    await asyncio.gather(*(one(number) for number in range(1, count + 1)))


def payloads(found: list[DeadLetter], agent: str = "viewing") -> list[dict[str, object]]:
    """What the letters of an agent hold, in the order of their conversations."""
    those = [json.loads(letter.payload) for letter in found if letter.subject.split(".")[1] == agent]
    return sorted(those, key=lambda one: int(str(one["callId"])[1:]))


@pytest.mark.parametrize("aliased", [True, False])
async def test_the_rename_that_upgrades_describes_is_accepted(
    office: Office, folder: Path, nats_url: str, aliased: bool
) -> None:
    declaration = _RENAMED if aliased else _RENAMED.replace('AliasChoices("house", "home")', '"house"')
    with (folder / "shop.py").open("a") as pod:
        pod.write(declaration)
    await viewings(office.bus, 1)

    async def edit(*options: str) -> Ended:
        return await tieline("dlq", "edit", "2", "--pod", "shop", *options, cwd=folder, url=nats_url)

    typo = await edit("--set", 'hous="7"', "--set", 'house="7"')
    assert (typo.code, "no such field: hous" in typo.err) == (1, True), typo
    done = await edit("--set", 'house="1103"', "--reason", "renamed in version 2")
    assert done.code == 0, done
    assert payloads(await dead_letters(office.bus)) == [{"callId": "c1", "home": "1", "house": "1103"}]


async def test_many_letters_are_edited_by_filter_and_what_does_not_fit_is_held(
    office: Office, folder: Path, nats_url: str
) -> None:
    with (folder / "shop.py").open("a") as pod:
        pod.write(_RENAMED.replace('AliasChoices("house", "home")', '"house"'))
    await viewings(office.bus, 40)
    for payload in (b'{"callId":"c41","home":41}', b"not JSON"):
        died = {"Tieline-Dead": '{"cause":"invalid"}'}
        await office.bus.publisher.publish("DLQ.viewing.invalid.call.intent.viewing", payload, died)
    before = await dead_letters(office.bus)

    async def edit(*options: str) -> Ended:
        return await tieline("dlq", "edit", *options, "--json", cwd=folder, url=nats_url)

    change = ("--agent", "viewing", "--since", "1h", "--rename", "home=house", "--pod", "shop")
    for wrong in (("--rename", "home=house"), ("--agent", "viewing"), ("1", "--agent", "viewing", "--set", "a=1")):
        assert (await edit(*wrong)).code == 2
    would = await edit(*change, "--dry-run")
    assert (would.code, would.json["done"], would.json["dryRun"]) == (1, 40, True)
    assert [letter.payload for letter in await dead_letters(office.bus)] == [letter.payload for letter in before]

    done = await edit(*change, "--reason", "renamed in version 2")
    assert (done.code, done.json["done"], done.json["unchanged"]) == (1, 40, 0)
    assert done.json["groups"] == [{"cause": "invalid", "agent": "viewing", "changed": ["home", "house"], "count": 40}]
    assert {(held["reason"], held["count"]) for held in done.json["held"]} == {
        ("Viewing: house: Input should be a valid string", 1),
        ("the payload is not JSON", 1),
    }
    left = await dead_letters(office.bus)
    assert len(left) == 43
    edited = [letter for letter in left if b'"house"' in letter.payload]
    assert payloads(edited) == [{"callId": f"c{number}", "house": f"{number}"} for number in range(1, 41)]
    assert {letter.told["edits"][0]["reason"] for letter in edited} == {"renamed in version 2"}
    again = await edit(*change)
    assert (again.json["done"], again.json["unchanged"]) == (0, 40)


async def test_an_edit_of_many_that_is_killed_is_finished_by_the_next(
    office: Office, folder: Path, nats_url: str
) -> None:
    await viewings(office.bus, 400)
    arguments = ("dlq", "edit", "--agent", "viewing", "--rename", "home=house")

    async def edited() -> int:
        return sum(b'"house"' in letter.payload for letter in await dead_letters(office.bus))

    async with started(*arguments, cwd=folder, url=nats_url) as program:
        await eventually(edited, what="some to be edited", every=0.01)
        program.process.kill()
        await program.process.wait()
    assert await edited() < 400, "it was killed in the middle"
    finished = await tieline(*arguments, "--json", cwd=folder, url=nats_url)
    assert finished.code == 0
    assert payloads(await dead_letters(office.bus)) == [
        {"callId": f"c{number}", "house": f"{number}"} for number in range(1, 401)
    ]
