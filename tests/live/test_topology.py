"""Topology as data: what would change, and changing it without ever losing what holds messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.messages import Book, Look
from support.office import settings

from tieline import Bus, Conversation, Limits, NotApplied, Pod, Stream, connect
from tieline.testing import Server
from tieline.wire import topology
from tieline.wire.topology import Change


def office(
    version: str = "1", *, name: str = "office", ack_wait: float = 30.0, streams: tuple[Stream, ...] = ()
) -> Pod:
    pod = Pod(name, version=version, streams=streams, limits=Limits(ack_wait=ack_wait))

    @pod.agent
    async def booking(_: Book | Look, __: Conversation) -> None: ...

    @pod.tool
    async def crm() -> None: ...

    return pod


def mine(**fields: Any) -> Stream:
    return replace(Stream(name="MINE", subjects=("mine.*",), delays=False), **fields)


@asynccontextmanager
async def bus_of(server: Server) -> AsyncIterator[Bus]:
    async with connect(Pod("eyes"), settings=settings(server.url)) as bus:
        yield bus


async def config(bus: Bus, endpoint: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bus.connection.api(endpoint))["config"]
    return found


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.name, change.action, change.field) for change in changes]


async def test_on_an_empty_server_everything_is_made_and_then_nothing_is_left(nats_server: Server) -> None:
    pod = office()
    async with bus_of(nats_server) as bus:
        planned = await topology.plan(bus.connection, pod)
        done = await topology.apply(bus.connection, pod)
        assert told(planned) == told(done)
        assert {change.action for change in done} == {"create"}
        assert {change.name for change in done} == {
            *pod.streams,
            "CALL_INTENT/booking",
            "CALL_INTENT/booking-resume",
            "TOOL_CALL/tool-crm",
            "TOOL_CALL/tool-crm-resume",
            "STEP/booking-waker",
        }
        assert await topology.plan(bus.connection, pod) == []
        assert await topology.apply(bus.connection, pod) == []


async def test_the_consumers_are_what_the_design_says(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office(ack_wait=7))
        made = await config(bus, "CONSUMER.INFO.CALL_INTENT.booking")
        tool = await config(bus, "CONSUMER.INFO.TOOL_CALL.tool-crm")
        resumes = await config(bus, "CONSUMER.INFO.CALL_INTENT.booking-resume")
        tool_resumes = await config(bus, "CONSUMER.INFO.TOOL_CALL.tool-crm-resume")
        step = await config(bus, "STREAM.INFO.STEP")
    assert sorted(made["filter_subjects"]) == ["call.intent.book", "call.intent.look"]
    assert tool["filter_subjects"] == ["tool.call.crm"]
    assert resumes["filter_subjects"] == ["redrive.call_intent.booking"]
    assert tool_resumes["filter_subjects"] == ["redrive.tool_call.tool-crm"]
    assert (made["ack_policy"], made["deliver_policy"], made["ack_wait"]) == ("explicit", "all", 7_000_000_000)
    assert made["max_deliver"] >= 1000  # a far backstop: attempts are ours to count
    assert made["max_ack_pending"] >= 10_000
    assert (step["max_msgs_per_subject"], step["discard"], step["discard_new_per_subject"]) == (1, "new", True)
    assert not step.get("deny_delete")  # the operator removes the records of ended conversations
    assert not step.get("deny_purge")


async def test_eight_applies_at_once_agree(nats_server: Server) -> None:
    pod = office()
    async with bus_of(nats_server) as bus:
        await asyncio.gather(*(topology.apply(bus.connection, pod) for _ in range(8)))
        assert await topology.plan(bus.connection, pod) == []


async def test_two_versions_at_once_do_not_fight(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        older, newer = office("1.9", ack_wait=20), office("1.10", ack_wait=40)
        await asyncio.gather(
            *(topology.apply(bus.connection, pod) for pod in (older, newer, older, newer)),
        )
        await topology.apply(bus.connection, newer)
        kept = await topology.apply(bus.connection, older)
        assert (await config(bus, "CONSUMER.INFO.CALL_INTENT.booking"))["ack_wait"] == 40_000_000_000
        assert {change.action for change in kept} == {"keep"}
        assert "1.10" in kept[0].why
        forced = await topology.apply(bus.connection, older, force=True)
        assert ("CALL_INTENT/booking", "update", "ack_wait") in told(forced)
        assert (await config(bus, "CONSUMER.INFO.CALL_INTENT.booking"))["ack_wait"] == 20_000_000_000


async def test_what_may_change_is_changed_in_place(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office(streams=(mine(),)))
        await bus.connection.request("mine.a", b"kept")
        wider = office(streams=(mine(subjects=("mine.*", "ours.*"), max_age=2 * 86_400, duplicates=60),), ack_wait=60)
        planned = await topology.plan(bus.connection, wider)
        assert set(told(planned)) == {
            ("MINE", "update", "subjects"),
            ("MINE", "update", "max_age"),
            ("MINE", "update", "duplicate_window"),
            ("CALL_INTENT/booking", "update", "ack_wait"),
            ("CALL_INTENT/booking-resume", "update", "ack_wait"),
            ("TOOL_CALL/tool-crm", "update", "ack_wait"),
            ("TOOL_CALL/tool-crm-resume", "update", "ack_wait"),
            ("STEP/booking-waker", "update", "ack_wait"),
        }
        assert told(await topology.apply(bus.connection, wider)) == told(planned)
        assert await topology.plan(bus.connection, wider) == []
        assert (await bus.connection.api("STREAM.INFO.MINE"))["state"]["messages"] == 1


@pytest.mark.parametrize(
    ("had", "wants", "field"),
    [
        ({"max_age": 86_400}, {"max_age": 3_600}, "max_age"),
        ({"max_age": None}, {"max_age": 3_600}, "max_age"),
        ({"max_bytes": None}, {"max_bytes": 1024 * 1024}, "max_bytes"),
        ({"max_bytes": 64 * 1024 * 1024}, {"max_bytes": 1024 * 1024}, "max_bytes"),
    ],
)
async def test_what_would_delete_messages_needs_force(
    nats_server: Server, had: dict[str, Any], wants: dict[str, Any], field: str
) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office(streams=(mine(**had),)))
        smaller = office(streams=(mine(**wants),))
        before = await config(bus, "STREAM.INFO.MINE")
        left = await topology.apply(bus.connection, smaller)
        assert told(left) == [("MINE", "refuse", field)]
        assert "--force" in left[0].why
        assert await config(bus, "STREAM.INFO.MINE") == before
        assert told(await topology.apply(bus.connection, smaller, force=True)) == [("MINE", "update", field)]
        assert await topology.plan(bus.connection, smaller) == []


async def test_making_a_stream_write_once_needs_force_where_it_would_drop_messages(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office(streams=(mine(),)))
        for _ in range(3):
            await bus.connection.request("mine.a", b"kept")
        once = office(streams=(mine(write_once=True),))
        assert ("MINE", "refuse", "max_msgs_per_subject") in told(await topology.plan(bus.connection, once))
        with pytest.raises(NotApplied, match="max msgs per subject"):  # the rest of it is nothing without that
            await topology.apply(bus.connection, once)
        assert (await bus.connection.api("STREAM.INFO.MINE"))["state"]["messages"] == 3


@pytest.mark.parametrize(
    ("made", "field"),
    [
        ({"storage": "memory"}, "storage"),
        ({"retention": "workqueue"}, "retention"),
        ({"allow_msg_ttl": True}, "allow_msg_ttl"),
    ],
)
async def test_what_only_recreating_could_change_is_refused_and_said(
    nats_server: Server, made: dict[str, Any], field: str
) -> None:
    async with bus_of(nats_server) as bus:
        body = topology.stream_config(mine(ttls=False), 1, {}) | made
        await bus.connection.api("STREAM.CREATE.MINE", body)
        changes = await topology.apply(bus.connection, office(streams=(mine(ttls=False),)), force=True)
        refused = [change for change in changes if change.action == "refuse"]
        assert [(change.name, change.field) for change in refused] == [("MINE", field)]
        assert refused[0].why
        after = await config(bus, "STREAM.INFO.MINE")
        assert {name: after[name] for name in made} == made


async def test_fields_that_we_do_not_know_stay_as_they_are(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office())
        stream = await config(bus, "STREAM.INFO.CALL_INTENT")
        theirs = stream | {"max_msg_size": 4096, "metadata": stream["metadata"] | {"owner": "ops"}}
        await bus.connection.api("STREAM.UPDATE.CALL_INTENT", theirs)
        consumer = await config(bus, "CONSUMER.INFO.CALL_INTENT.booking")
        body = {
            "stream_name": "CALL_INTENT",
            "config": consumer | {"sample_freq": "50%", "metadata": consumer["metadata"] | {"owner": "ops"}},
            "action": "update",
        }
        await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.booking", body)
        assert await topology.plan(bus.connection, office()) == []
        await topology.apply(bus.connection, office("2", ack_wait=60))
        stream = await config(bus, "STREAM.INFO.CALL_INTENT")
        consumer = await config(bus, "CONSUMER.INFO.CALL_INTENT.booking")
    assert (stream["max_msg_size"], stream["metadata"]["owner"]) == (4096, "ops")
    assert (consumer["sample_freq"], consumer["metadata"]["owner"]) == ("50%", "ops")
    assert consumer["ack_wait"] == 60_000_000_000


async def test_a_consumer_of_another_pod_is_not_taken_over(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office())
        other = office(name="other", ack_wait=60, streams=(mine(),))
        with pytest.raises(NotApplied, match="'booking-resume' of stream CALL_INTENT belongs to pod 'office'"):
            await topology.apply(bus.connection, other)
        names = (await bus.connection.api("STREAM.NAMES"))["streams"]
        assert "MINE" not in names  # nothing was changed before it was refused
        assert (await config(bus, "CONSUMER.INFO.CALL_INTENT.booking"))["ack_wait"] == 30_000_000_000


async def test_two_pods_share_the_streams(nats_server: Server) -> None:
    second = Pod("second", version="5")

    @second.agent
    async def looking(_: Look, __: Conversation) -> None: ...

    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office())
        await topology.apply(bus.connection, second)
        assert await topology.plan(bus.connection, office()) == []
        assert await topology.plan(bus.connection, second) == []


async def test_an_agent_that_is_no_more_is_told(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        await topology.apply(bus.connection, office())
        left = await topology.plan(bus.connection, Pod("office", version="1"))
        assert sorted(told(left)) == [
            ("CALL_INTENT/booking", "extra", ""),
            ("CALL_INTENT/booking-resume", "extra", ""),
            ("STEP/booking-waker", "extra", ""),
            ("TOOL_CALL/tool-crm", "extra", ""),
            ("TOOL_CALL/tool-crm-resume", "extra", ""),
        ]
        assert (await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["name"] == "booking"


async def test_a_server_that_refuses_is_quoted(nats_server: Server) -> None:
    async with bus_of(nats_server) as bus:
        foreign = {"name": "THEIRS", "subjects": ["mine.a"], "storage": "memory"}
        await bus.connection.api("STREAM.CREATE.THEIRS", foreign)
        with pytest.raises(NotApplied, match=r"stream MINE cannot be made: .*overlap.*err_code 10065"):
            await topology.apply(bus.connection, office(streams=(mine(),)))
