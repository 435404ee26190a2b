"""Guests: programs with an account of their own, whose messages come through the gateway and no other way."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import natsio
import pytest
from command_line import alive, started, tieline
from support.office import QUICK, stored
from support.tenants import bus_of, served

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Rate, Stream
from tieline.deploy import jwt, tenants
from tieline.deploy.keys import Keys
from tieline.errors import BadSettings
from tieline.services import gateway
from tieline.services.supervisor import processes_of
from tieline.testing import Server, eventually


class Lead(Message, subject="call.intent.lead", ttl="1h"):
    call_id: str
    phone: str = ""


class Turn(Message, subject="call.turn.{call_id}"):
    call_id: str


class Inside(Message, subject="call.intent.inside"):
    call_id: str


TURNS = (Stream(name="CALL_TURN", subjects=("call.turn.*", "redrive.call_turn.*")),)


class Desk(Pod):
    """A pod that is open to leads and turns, and to nothing else."""

    def __init__(self, rate: Rate = Rate(1000, burst=100)) -> None:  # noqa: B008 - frozen
        super().__init__("desk", limits=QUICK, streams=TURNS)
        self.open_to_guests(Lead, Turn, rate=rate)
        self.taken: list[tuple[str, str, str | None]] = []

        @self.agent(limits=Limits(concurrency=4))
        async def clerk(message: Lead | Turn | Inside, call: Conversation) -> None:
            self.taken.append((type(message).__name__, call.id, call.guest))


@pytest.fixture
async def keys(tmp_path: Path) -> Keys:
    store = Keys(tmp_path / "keys")
    for name in ("acme", "beta"):
        tenants.create(store, name, jwt.Limits())
    invite(store)
    return store


def invite(keys: Keys, *, payload: int = 4096) -> Path:
    text = tenants.invite(
        keys, "crawler", "acme", ["call.intent.lead", "call.turn.*"], jwt.Limits(connections=3, payload=payload)
    )
    path = keys.folder / "crawler.creds"
    keys.write_credentials(path, text)
    return path


@asynccontextmanager
async def desk(server: Server, keys: Keys, pod: Desk) -> AsyncIterator[Bus]:
    """The pod at work for acme, with a gateway; the bus is an operator's."""
    async with (
        bus_of(server, keys, "acme", pod, "operator") as bus,
        bus_of(server, keys, "acme", pod, "clerk") as own,
    ):
        await bus.apply()
        host = Host(own, ["clerk"])
        working = asyncio.create_task(host.run())
        try:
            yield bus
        finally:
            host.stop()
            await working


@asynccontextmanager
async def door(server: Server, keys: Keys, pod: Pod) -> AsyncIterator[None]:
    """The gateway, with the credentials that it is given."""
    stop = asyncio.Event()
    async with bus_of(server, keys, "acme", pod, "gateway") as bus:
        working = asyncio.create_task(gateway.run(bus, stop))
        await asyncio.sleep(0)
        await bus.connection.flush()
        yield
        stop.set()
        await working


async def connected(url: str, credentials: Path) -> natsio.Client:
    return await natsio.connect(url, credentials=str(credentials), inbox_prefix="_INBOX_crawler")


@asynccontextmanager
async def guest(server: Server, keys: Keys) -> AsyncIterator[natsio.Client]:
    client = await connected(server.url, keys.folder / "crawler.creds")
    try:
        yield client
    finally:
        await client.close()


async def sent(client: natsio.Client, subject: str, payload: object, **headers: str) -> dict[str, Any]:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.request(subject, body, headers=named or None, timeout=10)
    found: dict[str, Any] = json.loads(answer.payload)
    return found


async def test_a_guests_message_is_handled_as_a_guests(keys: Keys, tmp_path: Path) -> None:
    pod = Desk()
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        async with guest(server, keys) as client:
            ack = await sent(client, "call.intent.lead", {"callId": "c1"}, Nats_Msg_Id="m1")
            assert ack == {"stream": "CALL_INTENT", "seq": 1}
            again = await sent(client, "call.intent.lead", {"callId": "c1"}, Nats_Msg_Id="m1")
            assert again == {"stream": "CALL_INTENT", "seq": 1, "duplicate": True}
            assert (await sent(client, "call.turn.c2", {"callId": "c2"}))["stream"] == "CALL_TURN"
        await bus.publish(Lead(call_id="c3"), id="m1")  # the guest's id takes nobody else's
        await eventually(lambda: len(pod.taken) == 3, what="three messages")
        [found, _] = await stored(bus, "call.intent.lead")
    assert sorted(pod.taken) == [("Lead", "c1", "crawler"), ("Lead", "c3", None), ("Turn", "c2", "crawler")]
    assert found.headers["Nats-TTL"] == "3600"  # what the message declares holds for guests too


async def test_no_header_of_a_guest_gets_further(keys: Keys, tmp_path: Path) -> None:
    pod = Desk()
    hostile = {
        "Nats-Rollup": "all",
        "Nats-TTL": "1",
        "Nats-Expected-Last-Sequence": "99",
        "Nats-Schedule": "@every 1s",
        "Nats-Schedule-Target": "call.intent.inside",
        "Tieline-Conversation": "someone-elses",
        "Tieline-Origin": "CALL_INTENT-1",
        "Tieline-Guest": "nobody",
        "Tieline-Object": "obj.1",
        "X-Own": "1",
    }
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        await bus.publish(Lead(call_id="before"))
        async with guest(server, keys) as client:
            answer = await client.request("call.intent.lead", b'{"callId": "c1"}', headers=hostile, timeout=10)
            assert json.loads(answer.payload) == {"stream": "CALL_INTENT", "seq": 2}
        before, found = await stored(bus, "call.intent.lead")
    assert before.headers["Tieline-Conversation"] == "before"  # no rollup
    assert (found.headers["Tieline-Conversation"], found.headers["Tieline-Guest"]) == ("c1", "crawler")
    assert {name for name in found.headers if name in hostile and found.headers[name] == hostile[name]} == set()
    assert "X-Own" not in found.headers


@pytest.mark.parametrize(
    ("subject", "payload", "code", "words"),
    [
        ("call.intent.lead", b"not json", 400, "Invalid JSON"),
        ("call.intent.lead", {"phone": "1"}, 400, "callId"),
        ("call.intent.lead", b"[" * 3000, 400, ""),
        ("call.turn.c1", {"callId": "c2"}, 400, "call.turn.c1 is not where this Turn belongs"),
        ("call.turn.c1", b"", 400, ""),
    ],
)
async def test_what_is_not_in_order_is_refused(
    keys: Keys, tmp_path: Path, subject: str, payload: object, code: int, words: str
) -> None:
    pod = Desk()
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        async with guest(server, keys) as client:
            answer = await sent(client, subject, payload)
        assert answer["error"]["code"] == code
        assert words in answer["error"]["description"]
        assert await stored(bus, "call.intent.*") == []


async def test_what_the_pod_closed_since_is_refused(keys: Keys, tmp_path: Path) -> None:
    """The guest's account still leads there; the gateway goes by the pod as it is now."""
    pod, closed = Desk(), Pod("desk", streams=TURNS)
    closed.open_to_guests(Turn)
    async with (
        served(keys, tmp_path) as server,
        desk(server, keys, pod),
        door(server, keys, closed),
        guest(server, keys) as client,
    ):
        answer = await sent(client, "call.intent.lead", {"callId": "c1"})
    assert answer["error"] == {"code": 403, "err_code": 0, "description": "call.intent.lead is not open to guests"}


async def test_a_guest_reaches_nothing_else(keys: Keys, tmp_path: Path) -> None:
    pod = Desk()
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        async with guest(server, keys) as client:
            for subject in ("call.intent.inside", "$JS.API.INFO", "ingress.crawler.call.intent.lead", "call.audit.c1"):
                with pytest.raises(natsio.NATSError):
                    await client.request(subject, b'{"callId": "c1"}', timeout=1)
            heard: list[object] = []
            client.subscribe("call.>", cb=heard.append)
            client.subscribe("_R_.>", cb=heard.append)
            await sent(client, "call.intent.lead", {"callId": "c1"})
            # A reply's subject is the guest's own, in its own account.
            await client.publish("call.intent.lead", b'{"callId": "c2"}', reply="call.intent.inside")
            await eventually(lambda: len(pod.taken) == 2, what="the leads")
            assert not heard
        async with bus_of(server, keys, "beta", pod, "operator") as other:  # another tenant is no guest
            await other.connection.send("ingress.crawler.call.intent.lead", b'{"callId": "c9"}')
            await other.connection.flush()
        assert await stored(bus, "call.intent.inside") == []
        assert "c9" not in {lead.headers["Tieline-Conversation"] for lead in await stored(bus, "call.intent.lead")}


async def test_a_flood_is_refused_and_others_work_on(keys: Keys, tmp_path: Path) -> None:
    pod = Desk(Rate(1, burst=5))
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        async with guest(server, keys) as client:
            flood = [sent(client, "call.intent.lead", {"callId": f"g{number}"}) for number in range(300)]
            answers = await asyncio.gather(*flood)
            await bus.publish(Lead(call_id="ours"))
        refused = [one["error"]["code"] for one in answers if "error" in one]
        assert set(refused) == {429}
        assert 5 <= len(answers) - len(refused) < 60  # a burst, and one a second
        await eventually(lambda: ("Lead", "ours", None) in pod.taken, what="ours")


async def test_without_a_gateway_a_guest_knows_at_once(keys: Keys, tmp_path: Path) -> None:
    pod = Desk()
    async with served(keys, tmp_path) as server, desk(server, keys, pod), guest(server, keys) as client:
        with pytest.raises(natsio.NoRespondersError):
            await sent(client, "call.intent.lead", {"callId": "c1"})


async def test_a_server_that_dies_under_it_loses_and_repeats_nothing(keys: Keys, tmp_path: Path) -> None:
    """What the guest has no answer for it sends again, with the same id."""
    pod = Desk()
    async with served(keys, tmp_path) as server, desk(server, keys, pod) as bus, door(server, keys, pod):
        async with guest(server, keys) as client:

            async def insist(number: int) -> None:
                while True:
                    try:
                        lead = {"callId": f"c{number}"}
                        answer = await sent(client, "call.intent.lead", lead, Nats_Msg_Id=f"m{number}")
                    except (natsio.NATSError, OSError, TimeoutError):
                        answer = {"error": {"code": 0}}
                    if "error" not in answer:
                        return
                    await asyncio.sleep(0.1)

            async def killed() -> None:
                await asyncio.sleep(0.05)
                await server.restart()

            async with asyncio.timeout(60):
                await asyncio.gather(killed(), *(insist(number) for number in range(60)))
        found = await stored(bus, "call.intent.lead")
        assert sorted(one.headers["Tieline-Conversation"] for one in found) == sorted(f"c{n}" for n in range(60))


async def test_who_is_invited_by_hand(tmp_path: Path) -> None:
    """As an operator does it: on a running server, with the gateway as a process of `up`."""
    (tmp_path / "shop.py").write_text(
        "from tieline import Conversation, Message, Pod\n\n\n"
        'class Lead(Message, subject="call.intent.lead"):\n    call_id: str\n\n\n'
        'pod = Pod("shop")\npod.open_to_guests(Lead)\n\n\n'
        "@pod.agent\nasync def clerk(lead: Lead, call: Conversation) -> None:\n"
        '    open("done", "a").write(f"{call.id} {call.guest}\\n")\n'
    )
    options = ("up", "shop", "--tenant", "acme", "--port", "0", "--data", "data", "--json")
    async with started(*options, cwd=tmp_path, TIELINE_METRICS_PORT="off") as program:
        ready = await program.line(event="ready")
        assert [process["name"] for process in ready["processes"]] == ["clerk", "audit", "gateway"]
        url = ready["url"]
        asked = ("tenant", "invite", "crawler", "shop", "--of", "acme")
        wrong = await tieline(*asked, "--publishes", "call.x", cwd=tmp_path)
        assert (wrong.code, "pod shop does not open call.x to guests" in wrong.err) == (2, True)
        made = await tieline(*asked, cwd=tmp_path, url=url)
        assert (made.code, made.err) == (0, "")
        path = tmp_path / ".tieline/keys/creds/crawler/crawler.creds"
        client = await connected(url, path)
        assert await sent(client, "call.intent.lead", {"callId": "c1"}) == {"stream": "CALL_INTENT", "seq": 1}
        await eventually(lambda: (tmp_path / "done").exists(), what="the lead")
        assert (tmp_path / "done").read_text() == "c1 crawler\n"
        listed = await tieline("tenant", "ls", "--json", cwd=tmp_path)
        assert [(one["name"], one["guestOf"]) for one in listed.json] == [("acme", None), ("crawler", "acme")]
        revoked = await tieline("tenant", "revoke", "crawler", "crawler", cwd=tmp_path, url=url)
        assert revoked.code == 0
        with pytest.raises((natsio.NATSError, TimeoutError)):
            await sent(client, "call.intent.lead", {"callId": "c2"})
        await client.close()
        program.process.terminate()
        assert (await program.ended()).code == 0
    assert not [process for process in ready["processes"] if alive(process["pid"])]


def test_a_guest_is_one_tenants_alone(keys: Keys) -> None:
    with pytest.raises(BadSettings, match="crawler is no guest of beta"):
        tenants.invite(keys, "crawler", "beta", ["call.intent.lead"], jwt.Limits())
    with pytest.raises(BadSettings, match="beta is no guest of acme"):
        tenants.invite(keys, "beta", "acme", ["call.intent.lead"], jwt.Limits())
    with pytest.raises(BadSettings, match="crawler is a guest of acme"):
        tenants.create(keys, "crawler", jwt.Limits())
    with pytest.raises(BadSettings, match="use letters"):
        tenants.invite(keys, "a.b", "acme", ["call.intent.lead"], jwt.Limits())


def test_a_pod_that_opens_nothing_needs_no_gateway() -> None:
    assert [process.name for process in processes_of(Pod("closed"))] == ["audit"]
    pod = Pod("open")
    pod.open_to_guests(Lead)
    assert [process.name for process in processes_of(pod)] == ["audit", "gateway"]
