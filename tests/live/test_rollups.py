"""Delete markers switch on rollup headers, with which a publisher can empty a stream. Every subject that an agent may
publish to is attacked with them, under a tenant's credentials."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.office import QUICK, at_work, settings
from support.old_deployment import old_deployment
from support.old_deployment_pod import old_pod
from support.tenants import bus_of, served

from tieline import Bus, Conversation, Message, Pod, Rate, connect, subjects
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import client_grants, grants_of
from tieline.services import aged_out
from tieline.services.cancelling import cancel
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.connection import NoAnswer
from tieline.wire.credentials import read_credentials

SEEDS = 3


class Ask(Message, subject="call.intent.ask"):
    call_id: str


class Told(Message, subject="call.intent.told"):
    call_id: str


def office() -> Pod:
    """A pod that declares everything there is to declare."""
    pod = Pod("office", version="2", limits=QUICK)

    @pod.tool(effect="once", rate=Rate(1000))
    async def crm(text: str) -> str:
        return text

    @pod.agent(publishes=(Told,), calls=(crm,), uses=("delays", "large", "models", "state"))
    async def front_desk(_: Ask, __: Conversation) -> None: ...

    @pod.agent(publishes=(Ask,), calls=(crm,), uses=("delays", "large", "state"))
    async def other(_: Told, __: Conversation) -> None: ...

    pod.open_to_guests(Ask)
    return pod


def concrete(pattern: str, own: str) -> str:
    """A subject that a grant covers; keys are the user's own."""
    parts = [own if part == "*" and pattern.startswith("key.") else part for part in pattern.split(".")]
    return ".".join({"*": "x", ">": "x.y.z"}.get(part, part) for part in parts)


async def count(bus: Bus, stream: str) -> int:
    return int((await bus.connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def seed(bus: Bus, stream: str) -> None:
    """Messages of others."""
    for pattern in bus.pod.streams[stream].subjects:
        for number in range(SEEDS):
            subject = pattern.replace("*", f"s{number}").replace(">", f"s{number}.x.y")
            with suppress(NoAnswer):
                await bus.connection.request(subject, b"{}", {"Nats-Msg-Id": f"{stream} {subject} {number}"})


async def test_every_subject_that_an_agent_may_publish_to_is_attacked(tmp_path: Path) -> None:
    pod = office()
    keys = Keys(tmp_path / "keys")
    tenants.create(keys, "acme", Limits())
    emptied: set[str] = set()
    attacked: set[str] = set()
    async with served(keys, tmp_path) as server, bus_of(server, keys, "acme", pod, "operator") as operator:
        await operator.apply()
        for stream in pod.streams:
            await seed(operator, stream)
        for name in (*pod.agents, "tools", "gateway"):
            async with bus_of(server, keys, "acme", pod, name) as bus:
                own = read_credentials(keys.folder / f"acme-{name}-.creds").user
                for grant in grants_of(pod, [name]):
                    if grant.verb != "publish" or grant.subject.startswith("$JS."):
                        continue
                    subject = concrete(grant.subject, own)
                    named = (await operator.connection.api("STREAM.NAMES", {"subject": subject})).get("streams") or []
                    for stream in named:
                        attacked.add(stream)
                        for how in ("all", "sub"):
                            before = await count(operator, stream)
                            headers = {"Nats-Rollup": how, "Nats-Msg-Id": f"{name} {subject} {how}"}
                            with suppress(NoAnswer):
                                await bus.connection.request(subject, b"x", headers)
                            if await count(operator, stream) < before:
                                emptied.add(stream)
                                await seed(operator, stream)
    assert attacked >= {"CALL_INTENT", "TOOL_CALL", "STEP", "TOOL_RESULT", "CALL_AUDIT", "STATE", "KEYS", "RATE", "DLQ"}
    # The server forces rollup headers on where messages are scheduled; see docs/decisions/0035.
    assert emptied <= {"SCHEDULE"}
    assert not attacked & {name for name, stream in pod.streams.items() if stream.markers is not None}


def test_no_grant_reaches_a_stream_with_markers() -> None:
    pod = office()
    grants = [
        *grants_of(pod, [*pod.agents, "tools", "gateway", "metrics"]),
        *client_grants(pod, "web", ["call.intent.ask"]),
    ]
    marked = [stream for stream in pod.streams.values() if stream.markers is not None]
    assert [stream.name for stream in marked] == ["CANCELLED"]
    for stream in marked:
        for grant in grants:
            assert grant.verb != "publish" or not any(subjects.overlaps(grant.subject, own) for own in stream.subjects)


async def test_a_cancellation_that_ages_out_is_reported_and_forgotten(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pod = Pod("office", limits=QUICK)
    # A mark has the age of its stream's messages: long enough for the look of every process, each 5 s.
    pod.streams["CANCELLED"] = replace(pod.streams["CANCELLED"], max_age=7.0, markers=60.0, duplicates=1.0)
    handled: list[str] = []

    @pod.agent
    async def worker(_: Ask, call: Conversation) -> None:
        handled.append(call.id)

    async with at_work(pod, settings(nats_server.url)) as work:
        stop = asyncio.Event()
        reporting = asyncio.create_task(aged_out.run(work.bus, stop))
        await cancel(work.bus, "c1")
        await work.bus.publish(Ask(call_id="c1"), id="before")
        await eventually(lambda: letters(work.bus, 1), what="a message that is refused")

        def reported() -> bool:
            return any("the cancellation of conversation c1 has aged out" in r.getMessage() for r in caplog.records)

        await eventually(reported, what="the report")
        stop.set()
        await reporting

        async def is_handled() -> bool:
            await work.bus.publish(Ask(call_id="c1"))
            return "c1" in handled

        await eventually(is_handled, what="a message that is handled again", every=0.5)


async def letters(bus: Bus, wanted: int) -> bool:
    return await count(bus, "DLQ") == wanted


async def test_an_old_deployment_gets_markers(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        await topology.apply(bus.connection, old_pod)
        config: dict[str, Any] = (await bus.connection.api("STREAM.INFO.CANCELLED"))["config"]
        assert config["subject_delete_marker_ttl"] == 86_400 * 10**9
        assert await topology.plan(bus.connection, old_pod) == []
