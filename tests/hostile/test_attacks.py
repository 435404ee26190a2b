"""A hostile agent with good credentials of its own, in the same account: what it tries, and what becomes of it.

What permissions alone refuse is in tests/live/test_permissions.py; rubbish of every kind is in test_garbage.py.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.office import QUICK
from support.tenants import bus_of, served

from tieline import Bus, Conversation, Host, Message, Pod, Settings, connect
from tieline import headers as names
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits
from tieline.deploy.keys import Keys
from tieline.errors import BadSettings
from tieline.services.letters.editing import edit
from tieline.services.letters.reading import Letter, Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.settings import ConnectionSettings
from tieline.testing import eventually
from tieline.wire.credentials import read_credentials
from tieline.wire.signing import Signer, signature_in


class Ask(Message, subject="call.intent.ask"):
    call_id: str


class Gossip(Message, subject="call.intent.gossip"):
    call_id: str


class Lead(Message, subject="call.intent.lead"):
    call_id: str


@dataclass
class Scene:
    """The bus of everybody, and what the honest agents did."""

    operator: Bus
    desk: Bus
    mallory: Bus
    handled: list[str]
    effects: list[str]
    keys: Keys
    host: Host

    def signer(self, user: str) -> Signer:
        return Signer(read_credentials(self.keys.folder / f"acme-{user}-.creds"))

    async def died(self, count: int = 1) -> list[Letter]:
        async def enough() -> list[Letter] | None:
            found = [letter async for letter in letters(self.operator.connection, Selection())]
            return found if len(found) >= count else None

        return await eventually(enough, what=f"{count} dead letters")

    async def why(self) -> str:
        """Why the one message that was refused was."""
        [letter] = await self.died()
        assert letter.cause == "untrusted"
        return letter.reason

    async def works(self) -> None:
        """The honest agents go on."""
        await self.operator.publish(Ask(call_id="honest"))
        await eventually(lambda: "honest" in self.handled, what="honest work")


@asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """``desk`` takes what the operator asks and calls ``crm``; ``mallory`` may gossip, call ``crm`` and delay."""
    pod = Pod("office", limits=replace(QUICK, ack_wait=2.0))
    handled, effects = list[str](), list[str]()

    @pod.tool(effect="once")
    async def crm(note: str) -> str:
        effects.append(note)
        return note

    @pod.agent(publishes=(Lead,), calls=(crm,))
    async def desk(ask: Ask, call: Conversation) -> None:
        if ask.call_id == "fails":
            raise LookupError("no house")
        await call.tool(crm, ask.call_id)
        await call.publish(Lead(call_id=ask.call_id))
        handled.append(ask.call_id)

    @pod.agent(publishes=(Gossip,), calls=(crm,), uses=("delays",))
    async def mallory(_: Gossip, __: Conversation) -> None: ...

    keys = Keys(tmp_path / "keys")
    tenants.create(keys, "acme", Limits())
    async with (
        served(keys, tmp_path) as server,
        bus_of(server, keys, "acme", pod, "operator", signatures="require") as operator,
        bus_of(server, keys, "acme", pod, "desk", signatures="require") as at_desk,
        bus_of(server, keys, "acme", pod, "tools", signatures="require") as at_tools,
        bus_of(server, keys, "acme", pod, "mallory") as hostile,
    ):
        await operator.apply()
        hosts = [Host(at_desk, ["desk"]), Host(at_tools, ["tools"])]
        work = [asyncio.create_task(host.run()) for host in hosts]
        yield Scene(operator, at_desk, hostile, handled, effects, keys, hosts[0])
        for host in hosts:
            host.stop()
        await asyncio.gather(*work)


async def test_what_is_signed_is_handled_and_survives_retries_delays_and_redrives(tmp_path: Path) -> None:
    async with scene(tmp_path) as there:
        await there.operator.publish(Ask(call_id="c1"))
        await there.operator.publish(Ask(call_id="later"), after=0.3)
        await eventually(lambda: sorted(there.handled) == ["c1", "later"], what="both")
        await there.operator.publish(Ask(call_id="fails"))
        [letter] = await there.died()
        assert (letter.cause, signature_in(letter.headers) is not None) == ("raised", True)
        await redrive(there.operator, _one(letter), Order(by="ada"))
        [again] = await eventually(lambda: _deaths(there, 2), what="its second death")
        assert again.cause == "raised"
        await edit(there.operator, again, b'{"callId":"mended"}', ["callId"], by="ada", reason="a test")
        [edited] = await there.died()
        await redrive(there.operator, _one(edited), Order(by="ada"))
        await eventually(lambda: "mended" in there.handled, what="the edited one")
    assert sorted(there.effects) == ["c1", "later", "mended"]


async def _one(letter: Letter) -> AsyncIterator[Letter]:
    yield letter


async def _deaths(there: Scene, deaths: int) -> list[Letter]:
    return [letter for letter in await there.died(0) if letter.deaths == deaths]


async def test_what_is_not_signed_is_refused(tmp_path: Path) -> None:
    """The operator's own credentials, and no signature: a foreign client, or somebody who found a way to publish."""
    async with scene(tmp_path) as there:
        await there.operator.connection.request("call.intent.ask", b'{"callId":"c1"}')
        assert await there.why() == "it is not signed"
        await there.works()
    assert there.handled == ["honest"]


async def test_a_reply_subject_makes_the_server_publish_and_that_is_refused(tmp_path: Path) -> None:
    """Permissions do not cover where a reply goes: the server's acknowledgement lands in somebody's stream."""
    async with scene(tmp_path) as there:
        await there.mallory.connection.send("call.intent.gossip", b"{}", {"Nats-Msg-Id": "g"}, reply="call.intent.ask")
        assert await there.why() == "it is not signed"
        await there.works()
    assert there.handled == ["honest"]


async def test_a_schedule_reaches_any_subject_and_that_is_refused(tmp_path: Path) -> None:
    """Headers are not checked by permissions: who may delay may aim anywhere."""
    async with scene(tmp_path) as there:
        payload, headers = b'{"callId":"aimed"}', {"Nats-Msg-Id": "s1"}
        signed = there.signer("mallory").sign("call.intent.ask", payload, headers, time.time(), delayed=True)
        due = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        aimed = {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": "due.call.intent.ask"}
        await _announce(there)
        await there.mallory.connection.request("schedule.s1", payload, {**headers, **aimed, names.SIGNATURE: signed})
        assert await there.why() == "mallory signed it and may not publish to call.intent.ask"
        await there.works()
    assert there.handled == ["honest"]


async def test_a_result_into_anothers_journal_is_refused(tmp_path: Path) -> None:
    """The executor writes where a call says. Only where its sender may write itself."""
    async with scene(tmp_path) as there:
        await _announce(there)
        step = "step.desk.c1.tool.forged-1-x"
        payload, headers = b'{"callId":"c1","args":{"note":"mallory"}}', {"Nats-Msg-Id": "t1", names.STEP: step}
        signed = there.signer("mallory").sign("tool.call.crm", payload, headers, time.time(), delayed=False)
        await there.mallory.connection.request("tool.call.crm", payload, {**headers, names.SIGNATURE: signed})
        assert await there.why() == f"mallory signed it and may not publish to {step}"
        assert await there.operator.journal.subjects("step.desk.c1.*.*") == []
        await there.works()
    assert there.effects == ["honest"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("payload", "altered: it is not what operator signed"),
        ("conversation", "altered: it is not what operator signed"),
        ("id", "replayed: it carries another id than the one that was signed"),
        ("old", "replayed, or a clock is off"),
        ("new", "replayed, or a clock is off"),
        ("stranger", "whom nobody that we trust vouches for"),
        ("rubbish", "it is not signed"),
    ],
)
async def test_a_copy_of_somebodys_message_is_refused(tmp_path: Path, change: str, why: str) -> None:
    async with scene(tmp_path) as there:
        await there.works()
        signer = there.signer("operator")
        payload, headers = b'{"callId":"c1"}', {"Nats-Msg-Id": "m1", names.CONVERSATION: "c1"}
        at = time.time() + {"old": -1000, "new": 1000}.get(change, 0)
        headers[names.SIGNATURE] = signer.sign("call.intent.ask", payload, headers, at, delayed=False)
        match change:
            case "payload":
                payload = b'{"callId":"c2"}'
            case "conversation":
                headers[names.CONVERSATION] = "c2"
            case "id":
                headers["Nats-Msg-Id"] = "m2"
            case "stranger":
                headers[names.SIGNATURE] = headers[names.SIGNATURE].replace(signer.user, "U" + "A" * 55)
            case "rubbish":
                headers[names.SIGNATURE] = "1 x y z"
        await there.operator.connection.request("call.intent.ask", payload, headers)
        assert why in await there.why()
    assert there.handled == ["honest"]


async def test_a_key_that_its_owner_did_not_write_vouches_for_nobody(tmp_path: Path) -> None:
    """Mallory makes a JWT that allows everything, for a key of its own, and puts it where keys are."""
    async with scene(tmp_path) as there:
        from tieline.deploy.jwt import Key, new_key, user_jwt
        from tieline.deploy.permissions import Permissions

        own = Key.of(read_credentials(there.keys.folder / "acme-mallory-.creds").seed)
        account = read_credentials(there.keys.folder / "acme-mallory-.creds").account
        forged = user_jwt(own.public, "operator", account, new_key("account"), Permissions((">",), (">",)), None)
        await there.mallory.connection.request(f"key.{own.public}", forged.encode(), {"Nats-Msg-Id": "k"})
        payload, headers = b'{"callId":"c1"}', {"Nats-Msg-Id": "m1"}
        headers[names.SIGNATURE] = there.signer("mallory").sign(
            "call.intent.ask", payload, headers, time.time(), delayed=False
        )
        await there.operator.connection.request("call.intent.ask", payload, headers)
        assert "whom nobody that we trust vouches for" in await there.why()


async def test_a_rollup_does_not_empty_a_stream_of_messages(tmp_path: Path) -> None:
    async with scene(tmp_path) as there:
        await there.works()
        reply = await there.mallory.connection.request("call.intent.gossip", b"{}", {"Nats-Rollup": "all"})
        assert "rollup not permitted" in json.loads(reply.payload)["error"]["description"]
        stored = [one async for one in there.operator.feed("call.intent.ask", start=1, to_end=True)]
        assert len(stored) == 1


async def test_a_flood_and_what_is_too_large_leave_others_at_work(tmp_path: Path) -> None:
    async with scene(tmp_path) as there:
        for number in range(3_000):
            await there.mallory.connection.send("call.intent.gossip", b"x" * 200, {"Nats-Msg-Id": f"{number}"})
        await there.works()
        host, _, port = there.operator.settings.connection.servers[0].removeprefix("nats://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"CONNECT {}\r\nPUB call.intent.ask 900000000\r\n" + b"x" * 4096)
        assert b"-ERR" in (await reader.readline()) + (await reader.readline())
        writer.close()
        there.handled.clear()
        await there.operator.publish(Ask(call_id="still"))
        await eventually(lambda: there.handled == ["still"], what="work after it")


async def test_signing_wants_credentials(nats_url: str) -> None:
    settings = Settings(connection=ConnectionSettings(servers=(nats_url,)), signatures="sign")
    with pytest.raises(BadSettings, match="needs credentials to sign with"):
        async with connect(Pod("office"), settings=settings):
            pass


async def _announce(there: Scene) -> None:
    """Mallory lets others find who it is, as everybody may."""
    jwt = read_credentials(there.keys.folder / "acme-mallory-.creds")
    await there.mallory.connection.request(f"key.{jwt.user}", jwt.jwt.encode(), {"Nats-Msg-Id": "who"})
