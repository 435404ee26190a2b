"""Upgrades with work in flight, as docs/operations/upgrades.md has them: stream settings, replicas, message models."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from pydantic import AliasChoices, Field
from support.office import QUICK, Office, at_work, consumer_info, settings

from tieline import Bus, Conversation, Message, Pod, Settings, Stream, connect
from tieline.services import accountant
from tieline.services.letters.editing import edit
from tieline.services.letters.reading import Letter, Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.testing import Cluster, Server, eventually
from tieline.wire.topology import plan, stream_infos

JOBS = Stream(name="JOBS", subjects=("jobs.*",), max_age=3600.0, max_bytes=8 * 1024 * 1024, replicas=1)


class Job(Message, subject="jobs.work"):
    call_id: str


@dataclass
class Works:
    """A pod that works on ``jobs``, whatever its stream looks like."""

    jobs: Stream
    version: str = "1"
    done: list[str] = field(default_factory=list)

    def pod(self) -> Pod:
        pod = Pod("office", version=self.version, streams=(self.jobs,), limits=replace(QUICK, ack_wait=1.0))

        @pod.agent
        async def worker(job: Job, _: Conversation) -> None:
            self.done.append(job.call_id)

        return pod


@asynccontextmanager
async def at_full_work(works: Works, at: Settings) -> AsyncIterator[Office]:
    """Jobs come all the time; at the end everything accepted is done, and the sum holds."""
    async with at_work(works.pod(), at) as office:
        accepted: list[str] = []

        async def publish() -> None:
            while True:
                call = f"c{len(accepted)}"
                await office.bus.publish(Job(call_id=call), id=call)
                accepted.append(call)

        load = asyncio.create_task(publish())
        await eventually(lambda: len(works.done) > 20, what="some work")
        yield office
        before = len(accepted)
        await eventually(lambda: len(accepted) > before + 20 or load.done(), what="more work", within=30)
        load.cancel()
        await asyncio.wait([load])
        assert load.cancelled(), load.exception()
        await eventually(lambda: set(accepted) <= set(works.done), what="everything accepted", within=30)
        await eventually(lambda: holds(office.bus), what="the sum", within=30)


async def holds(bus: Bus) -> bool:
    return all(row.holds and not row.pending for row in await accountant.take(bus))


async def applied(at: Settings, works: Works, *, force: bool = False) -> set[tuple[str, str]]:
    async with connect(works.pod(), settings=at) as bus:
        return {(change.action, change.field) for change in await bus.apply(force=force) if change.name == "JOBS"}


async def config_of(bus: Bus, stream: str) -> dict[str, object]:
    config: dict[str, object] = (await stream_infos(bus.connection))[stream]["config"]
    return config


async def test_limits_change_under_work_and_only_shrinking_asks(nats_server: Server) -> None:
    at, works = settings(nats_server.url, audit=True), Works(JOBS)
    async with at_full_work(works, at) as office:
        larger = replace(JOBS, max_age=7200.0, max_bytes=64 * 1024 * 1024, duplicates=300.0)
        wanted = {("update", name) for name in ("max_age", "max_bytes", "duplicate_window", "metadata")}
        assert await applied(at, Works(larger, "2")) == wanted
        assert (await config_of(office.bus, "JOBS"))["max_age"] == 7200 * 10**9

        smaller = replace(larger, max_age=3600.0)
        assert await applied(at, Works(smaller, "3")) == {("refuse", "max_age"), ("update", "metadata")}
        assert (await config_of(office.bus, "JOBS"))["max_age"] == 7200 * 10**9
        assert await applied(at, Works(smaller, "3"), force=True) == {("update", "max_age")}
        assert ("keep", "max_bytes") in await applied(at, Works(JOBS, "2")), "an older version undoes nothing"


async def test_one_replica_becomes_three_under_work(nats_cluster: Cluster) -> None:
    found = settings(nats_cluster.urls[0], audit=True, patience=30.0)
    at = replace(found, connection=replace(found.connection, servers=nats_cluster.urls))
    works = Works(JOBS)
    async with at_full_work(works, at) as office:
        assert ("update", "num_replicas") in await applied(at, Works(replace(JOBS, replicas=None), "2"))
        await eventually(lambda: in_sync(office.bus), what="three copies", within=30)


async def in_sync(bus: Bus) -> bool:
    cluster = (await bus.connection.api("STREAM.INFO.JOBS"))["cluster"]
    replicas = cluster.get("replicas") or ()
    return len(replicas) == 2 and "desired" not in cluster and all(one["current"] for one in replicas)


async def test_an_agent_that_takes_another_message_gets_what_is_published_from_then_on(nats_server: Server) -> None:
    class Extra(Message, subject="jobs.extra"):
        call_id: str

    works = Works(JOBS)
    async with at_work(works.pod(), nats_server.url) as office:
        await office.bus.publish(Extra(call_id="before"))
        await office.bus.publish(Job(call_id="c1"))
        await eventually(lambda: works.done == ["c1"], what="the work of the first version")
    newer, done = Works(JOBS, "2"), list[str]()
    pod = newer.pod()

    @pod.agents["worker"].also
    async def extra(message: Extra, _: Conversation) -> None:
        done.append(message.call_id)

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Job(call_id="c3"))
        await office.bus.publish(Extra(call_id="new"))
        await eventually(lambda: newer.done == ["c3"] and "new" in done, what="new work")
        assert (await consumer_info(office.bus, "JOBS", "worker"))["num_pending"] == 0
    assert done == ["new"], "its position in the stream stays: what it had passed over does not come"


class WithMore(Message, subject="call.intent.viewing"):
    call_id: str
    home: str
    floor: str = "unknown"


class WithLess(Message, subject="call.intent.viewing"):
    call_id: str


class Renamed(Message, subject="call.intent.viewing"):
    call_id: str
    house: str


class RenamedWithBoth(Message, subject="call.intent.viewing"):
    call_id: str
    house: str = Field(validation_alias=AliasChoices("house", "home"))


def taking(model: type[Message], seen: list[Message]) -> Pod:
    pod = Pod("shop", version="2", limits=QUICK)

    async def booking(viewing: Message, _: Conversation) -> None:
        seen.append(viewing)

    booking.__annotations__["viewing"] = model
    pod.agent(booking)
    return pod


async def publish_old(bus: Bus) -> None:
    payload = json.dumps({"callId": "c1", "home": "1103", "phone": "555"}).encode()
    await bus.publisher.publish("call.intent.viewing", payload, {"Nats-Msg-Id": "c1"})


@pytest.mark.parametrize("model", [WithMore, WithLess, RenamedWithBoth])
async def test_old_messages_fit_a_new_model(model: type[Message], nats_server: Server) -> None:
    seen: list[Message] = []
    async with at_work(taking(model, seen), nats_server.url) as office:
        await publish_old(office.bus)
        await eventually(lambda: seen, what="the old message, handled")
    assert isinstance(seen[0], model)
    shown = seen[0].model_dump()
    assert [shown.get(name, "1103") for name in ("home", "house")] == ["1103", "1103"]


async def test_a_renamed_field_makes_old_messages_dead_letters_that_can_be_mended(nats_server: Server) -> None:
    seen: list[Message] = []
    async with at_work(taking(Renamed, seen), nats_server.url) as office:
        await publish_old(office.bus)
        [letter] = await eventually(lambda: found(office.bus), what="the dead letter")
        assert (letter.cause, letter.reason) == ("invalid", "Renamed: house: Field required")
        mended = b'{"callId": "c1", "house": "1103"}'
        seq = await edit(office.bus, letter, mended, ["house"], by="ada", reason="renamed in version 2")
        sent = await redrive(office.bus, letters(office.bus.connection, Selection()), Order(by="ada", reason="renamed"))
        assert (sent.done, letter.seq < seq) == (1, True)
        await eventually(lambda: seen, what="the old message, handled")
        await eventually(lambda: holds(office.bus), what="the sum")
    assert isinstance(seen[0], Renamed)


async def found(bus: Bus) -> list[Letter]:
    return [letter async for letter in letters(bus.connection, Selection())]


async def test_a_model_is_no_topology(nats_server: Server) -> None:
    async with connect(taking(WithMore, []), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        assert await plan(bus.connection, taking(Renamed, [])) == [], "only versions of agents tell models apart"
