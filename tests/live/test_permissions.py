"""What is derived from declarations is enough for everything that agents and executors do, and no wider."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support.guarded import address, guarded_server

from tieline import Conversation, Denied, Expiry, Host, Limits, Message, Pod, Rate, Settings, Stream, connect
from tieline.deploy.permissions import as_conf, client_grants, grants_of, inbox_of, permissions_of
from tieline.errors import BadDeclaration, ConsumerGone
from tieline.runtime.bus import Bus
from tieline.services import accountant, deadletters
from tieline.services.cancelling import cancel
from tieline.settings import ConnectionSettings, PublishSettings
from tieline.testing import eventually
from tieline.wire.connection import Forbidden
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed


class Late(Expiry, subject="call.late.ask"):
    pass


class Ask(Message, subject="call.intent.ask", ttl="5m", on_expired=Late):
    call_id: str


class Told(Message, subject="call.told.{call_id}"):
    call_id: str
    answer: str


class Price(Message, subject="call.intent.price"):
    call_id: str


class Priced(Message, subject="call.priced"):
    price: int


class Seen(BaseModel):
    times: int = 0


class Pointless(Message, subject="call.told.other"):
    call_id: str


pod = Pod(
    "desk",
    version="7",
    streams=(Stream(name="CALL_TOLD", subjects=("call.told.*", "call.priced", "call.late.*")),),
    limits=Limits(first_retry=0.05, ack_wait=1, attempts=3),
)


@pod.tool(effect="once", rate=Rate(1000))
async def count_words(text: str) -> str:
    return text * 2


@pod.agent(publishes=(Told, Price), calls=(count_words,), uses=("delays", "large", "state"))
async def front_desk(ask: Ask, call: Conversation) -> None:
    if ask.call_id == "broken":
        raise RuntimeError(ask.call_id)
    if ask.call_id == "undeclared":
        await call.publish(Pointless(call_id=ask.call_id))
    large = "x" * 4000
    words = await asyncio.gather(call.tool(count_words, text="one"), call.tool(count_words, text=large))
    await call.state(Seen).update(lambda seen: Seen(times=(seen or Seen()).times + 1))
    if ask.call_id == "again" and call.attempt == 1:
        raise RuntimeError(ask.call_id)
    priced = await call.ask(Price(call_id=ask.call_id), expects=Priced, within=60)
    await call.sleep(0.05)
    await call.publish(Told(call_id=ask.call_id, answer=f"{len(words)} {priced.price}"))
    await call.publish(Told(call_id=ask.call_id, answer="later"), after=0.1)
    if ask.call_id == "plain":
        await call.end()


@pod.agent(publishes=())
async def pricing(price: Price, call: Conversation) -> None:
    await call.reply(Priced(price=len(price.call_id)))


class Slow(Message, subject="call.intent.slow"):
    call_id: str


looked_up: list[str] = []


@pod.tool
async def look_up(text: str) -> str:
    await eventually(lambda: looked_up, what="leave to answer")
    return text


@pod.agent(publishes=(Told,), calls=(look_up,))
async def slow_desk(slow: Slow, call: Conversation) -> None:
    await call.publish(Told(call_id=slow.call_id, answer=await call.tool(look_up, text="slowly")))


USERS = ("operator", "reader", "front-desk", "pricing", "slow-desk", "tools", "audit", "web")


def users() -> str:
    said = []
    for name in USERS:
        grants = client_grants(pod, name, ["call.intent.ask"]) if name == "web" else grants_of(pod, [name])
        allowed = as_conf(permissions_of(grants, inbox_of(name)))
        said.append(f'{{ user: "{name}", password: "secret", {allowed} }}')
    return "\n".join(said)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """``host:port`` of a server on which everybody may do what is derived; every password is ``secret``."""
    with guarded_server(tmp_path / "nats", users()) as data:
        yield asyncio.run(eventually(lambda: address(data), what="the server's port"))


@asynccontextmanager
async def bus_as(user: str, where: str) -> AsyncIterator[Bus]:
    connection = ConnectionSettings(
        servers=(f"nats://{user}:secret@{where}",), inbox_prefix=inbox_of(user), request_timeout=2.0
    )
    settings = Settings(connection=connection, publish=PublishSettings(patience=300.0, ack_timeout=200.0), large=2048)
    async with connect(pod, settings=settings) as bus:
        yield bus


@asynccontextmanager
async def running(where: str, *names: str) -> AsyncIterator[None]:
    """The named agents (and tools), each with its own credentials."""
    async with asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        ready = [asyncio.Event() for _ in names]

        async def run(name: str, up: asyncio.Event) -> None:
            async with bus_as(name, where) as bus:
                host = Host(bus, [name])
                work = asyncio.create_task(host.run())
                up.set()
                await stop.wait()
                host.stop()
                await work

        for name, up in zip(names, ready, strict=True):
            group.create_task(run(name, up))
        for up in ready:
            await up.wait()
        try:
            yield
        finally:
            stop.set()


async def test_what_is_derived_is_enough(guarded: str, caplog: pytest.LogCaptureFixture) -> None:
    async with bus_as("operator", guarded) as operator, bus_as("reader", guarded) as reader:
        await operator.apply()
        async with running(guarded, "front-desk", "pricing", "tools"), bus_as("web", guarded) as web:
            for call_id in ("plain", "again", "broken"):
                await web.publish(Ask(call_id=call_id))
            told = await _first(reader.feed("call.told.*", start=1), 4)
            dead = await _first(reader.feed("DLQ.>", start=1), 1)
            await cancel(operator, "gone", "nobody wants it")
            await eventually(
                lambda: caplog.text.count("conversation gone is cancelled") == 3, what="the word everywhere"
            )
            await operator.publish(Ask(call_id="gone"))
            cancelled = await _first(reader.feed("DLQ.front-desk.cancelled.>", start=1), 1)
    assert sorted(delivery.subject for delivery in told) == ["call.told.again"] * 2 + ["call.told.plain"] * 2
    assert [delivery.subject for delivery in dead] == ["DLQ.front-desk.raised.call.intent.ask"]
    assert cancelled
    # A batched look into the journal would open every record: it is not allowed, and said once by each process.
    refused = [record.getMessage() for record in caplog.records if record.name == "tieline.connection"]
    assert all("publish to $JS.API.DIRECT.GET.STEP (" in line for line in refused)


async def test_a_tool_call_with_a_deadline_parks_without_leave_to_delay(guarded: str) -> None:
    """Nothing wakes it at its deadline, which the tool's own answer tells; its result brings it back."""
    looked_up.clear()
    async with bus_as("operator", guarded) as operator:
        await operator.apply()
        async with running(guarded, "slow-desk", "tools"):
            await operator.publish(Slow(call_id="c1"), deadline=60.0)
            await _first(operator.feed("step.slow-desk.*.park.*", start=1), 1)
            looked_up.append("now")
            [told] = await _first(operator.feed("call.told.*", start=1), 1)
            ends = [
                json.loads(d.payload) for d in await _first(operator.feed("step.slow-desk.*.attempt.*", start=1), 2)
            ]
    assert json.loads(told.payload)["answer"] == "slowly"
    assert [end.get("end") for end in ends] == ["parked", None]


async def test_the_audit_may_do_its_work(guarded: str) -> None:
    async with bus_as("operator", guarded) as operator:
        await operator.apply()
        async with running(guarded, "pricing"), bus_as("audit", guarded) as audit, asyncio.TaskGroup() as group:
            stop = asyncio.Event()
            group.create_task(accountant.run(audit, stop))
            group.create_task(deadletters.run(audit, stop))
            await operator.publish(Price(call_id="c1"))
            await operator.connection.request(
                "call.intent.ask", b'{"callId":"c2"}', {"Nats-Msg-Id": "late", "Nats-TTL": "1"}
            )
            expired = await _first(operator.feed("call.late.ask", start=1), 1)
            stop.set()
    assert json.loads(expired[0].payload)["callId"] == "c2"


ATTEMPTS = {
    "another's subject": ("call.intent.ask", b"{}"),
    "another's step": ("step.pricing.c1.tool.x", b"{}"),
    "another's dead letter": ("DLQ.pricing.raised.call.intent.price", b"{}"),
    "another's redrive": ("redrive.call_intent.pricing", b"{}"),
    "another's messages": ("$JS.API.CONSUMER.MSG.NEXT.CALL_INTENT.pricing", b"1"),
    "another's acknowledgement": ("$JS.ACK.CALL_INTENT.pricing.1.1.1.1.0", b"+ACK"),
    "everybody's steps": ("$JS.API.DIRECT.GET.STEP", b'{"multi_last":["step.>"]}'),
    "another's steps": ("$JS.API.DIRECT.GET.STEP.step.pricing.c1.tool.x", b""),
    "any message by sequence": ("$JS.API.STREAM.MSG.GET.CALL_INTENT", b'{"seq":1}'),
    "a consumer of its own": ("$JS.API.CONSUMER.CREATE.CALL_INTENT.spy", b"{}"),
    "a consumer's deletion": ("$JS.API.CONSUMER.DELETE.CALL_INTENT.pricing", b""),
    "a stream's deletion": ("$JS.API.STREAM.DELETE.CALL_INTENT", b""),
    "a stream's purge": ("$JS.API.STREAM.PURGE.CALL_INTENT", b""),
    "a record's deletion": ("$JS.API.STREAM.MSG.DELETE.STEP", b'{"seq":1}'),
    "the journal's purge": ("$JS.API.STREAM.PURGE.STEP", b""),
    "the journal's deletion": ("$JS.API.STREAM.DELETE.STEP", b""),
    "the journal's configuration": ("$JS.API.STREAM.UPDATE.STEP", b"{}"),
    "a forged advisory": ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CALL_INTENT.pricing", b"{}"),
    "another's reply": ("_INBOX_pricing.x.1", b"{}"),
    "a tool's result for another": ("tool.result.c1", b"{}"),
    "an undeclared tool": ("tool.call.other", b"{}"),
}


@pytest.mark.parametrize("what", ATTEMPTS)
async def test_and_no_wider(guarded_once: str, what: str) -> None:
    subject, payload = ATTEMPTS[what]
    async with bus_as("front-desk", guarded_once) as agent:
        with pytest.raises(Forbidden, match="credentials"):
            await agent.connection.request(subject, payload, wait=30)


@pytest.fixture(scope="module")
def guarded_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with guarded_server(tmp_path_factory.mktemp("guarded") / "nats", users()) as data:
        yield asyncio.run(eventually(lambda: address(data), what="the server's port"))


async def test_nobody_hears_what_is_anothers(guarded_once: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    async with bus_as("front-desk", guarded_once) as agent, bus_as("operator", guarded_once) as operator:
        for subject in ("_INBOX.>", "_INBOX_pricing.>", ">", "nudge.step.pricing.>", "call.intent.*"):
            agent.connection.listen(subject, heard.append)
        await agent.connection.flush()
        for subject in ("_INBOX_pricing.x", "nudge.step.pricing.c.ask.x", "call.intent.ask"):
            await operator.connection.send(subject, b"secret")
        await operator.connection.flush()
        await agent.connection.flush()
        await eventually(
            lambda: len([r for r in caplog.records if "listen on" in r.getMessage()]) == 5, what="refusals"
        )
    assert heard == []


async def test_a_denied_publish_is_an_error_at_once(guarded_once: str) -> None:
    async with bus_as("front-desk", guarded_once) as agent:
        with pytest.raises(Denied, match=r"^call\.intent\.ask: the credentials .*publishes=.*tieline creds") as denied:
            await agent.publish(Ask(call_id="forged"))
    assert denied.value.subject == "call.intent.ask"


async def test_who_pulls_with_others_credentials_is_told(guarded: str) -> None:
    async with bus_as("operator", guarded) as operator:
        await operator.apply()
        async with bus_as("pricing", guarded) as wrong:
            with pytest.raises(ConsumerGone, match=r"'front-desk.*may not be pulled with the credentials"):
                await Host(wrong, ["front-desk"]).run()


async def test_what_an_agent_does_not_declare_is_refused_without_credentials_too(nats_url: str) -> None:
    async with connect(pod, settings=Settings(connection=ConnectionSettings(servers=(nats_url,)))) as bus:
        await bus.apply()
        host = Host(bus, ["front-desk"])
        work = asyncio.create_task(host.run())
        await bus.publish(Ask(call_id="undeclared"))
        [dead] = await _first(bus.feed("DLQ.>", start=1), 1)
        host.stop()
        await work
    assert "publishes=(Pointless,)" in json.loads(dead.headers["Tieline-Dead"])["reason"]


def test_a_name_that_is_not_there_is_named() -> None:
    with pytest.raises(BadDeclaration, match=r"has no nobody .*it has front-desk, pricing, slow-desk, tools, audit"):
        grants_of(pod, ["nobody"])


async def _first(feed: Feed, count: int) -> list[Delivery]:
    found: list[Delivery] = []
    async for delivery in feed:
        found.append(delivery)
        if len(found) == count:
            break
    return found
