"""`tieline doctor` on real servers: what it sees, what puts it right, and what it may not see."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import tieline
from support.guarded import address, guarded_server

from oneroof import pod as oneroof
from tieline import Settings
from tieline.services.doctor import Finding, examine, visit
from tieline.settings import ConnectionSettings
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.connection import Connection
from tieline.wire.consumer import PullConsumer

_SECOND = 1_000_000_000
_POD = """
from tieline import Conversation, Message, Pod, Stream

class Book(Message, subject="call.intent.book"):
    call_id: str

class Told(Message, subject="told.{{call_id}}"):
    call_id: str

pod = Pod("shop", version="{version}", streams=(Stream(name="TOLD", subjects=("told.*",), max_age={age}),))

@pod.agent
async def booking(intent: Book, call: Conversation) -> None: ...
"""


def settings(url: str) -> Settings:
    return Settings(connection=ConnectionSettings(servers=(url,), request_timeout=0.3))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(settings(url).connection, "test")
    try:
        yield connection
    finally:
        await connection.close()


async def looked(connection: Connection, url: str, **options: Any) -> list[Finding]:
    return examine(await visit(connection, settings(url), pause=0.05, **options))


def about(findings: list[Finding], thing: str) -> set[str]:
    return {finding.rule for finding in findings if finding.thing == thing}


async def add_stream(connection: Connection, name: str, **config: Any) -> None:
    healthy = {"max_age": 3600 * _SECOND, "max_bytes": 1_000_000, "discard": "new"}
    await connection.api(f"STREAM.CREATE.{name}", {"name": name, **healthy, **config})


async def add_consumer(connection: Connection, stream: str, name: str, **config: Any) -> None:
    made = {"durable_name": name, "name": name, "ack_policy": "explicit", "max_deliver": 5, **config}
    await connection.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": made})


@pytest.mark.nats(sync="always", monitor_port=0)
async def test_a_pod_as_tieline_makes_it_gets_notes_at_most(nats_server: Server) -> None:
    async with connected(nats_server.url) as connection:
        await topology.apply(connection, oneroof)
        findings = await looked(connection, nats_server.url, pod=oneroof, monitor=nats_server.monitor_url)
    assert [(f.severity, f.rule, f.thing) for f in findings] == [
        ("note", "rollup-on-shared-subject", "stream SCHEDULE")
    ]


async def test_the_remedies_put_it_right(nats_url: str) -> None:
    """What the findings give as JSON is sent as it stands, and the findings are gone."""
    async with connected(nats_url) as connection:
        await add_stream(
            connection, "EVT", subjects=["evt.*"], max_age=0, max_bytes=-1, discard="old", allow_rollup_hdrs=True,
            subject_delete_marker_ttl=5 * _SECOND, duplicate_window=5 * _SECOND,
        )  # fmt: skip
        await add_stream(connection, "COPY", sources=[{"name": "EVT"}])
        await add_consumer(connection, "EVT", "mail", filter_subject="evt.mail", max_deliver=-1)
        await connection.request("evt.mail", b"{}", {"Nats-TTL": "60s"})
        await eventually(lambda: stored(connection, "COPY"), what="the copy")

        findings = await looked(connection, nats_url)
        assert about(findings, "stream EVT") == {"no-limits", "rollup-on-shared-subject", "duplicate-window-short"}
        assert about(findings, "stream COPY") == {"ttl-not-allowed"}
        assert about(findings, "consumer EVT/mail") == {"unlimited-deliveries", "nobody-pulls"}

        for finding in findings:
            await follow(connection, finding)
        findings = await looked(connection, nats_url)
        assert about(findings, "stream EVT") == set()
        assert about(findings, "stream COPY") == set()
        assert about(findings, "consumer EVT/mail") == {"exhausted-unseen", "nobody-pulls"}  # now the tries run out


async def stored(connection: Connection, stream: str) -> bool:
    return bool((await connection.api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def follow(connection: Connection, finding: Finding) -> None:
    given = re.search(r"its configuration with (\".+?)(?: and \"action\": \"update\")? to \$JS\.API\.(\S+?)[;]?(?: |$)",
                      finding.remedy)  # fmt: skip
    if given is None:
        return
    fields, endpoint = json.loads("{" + given[1] + "}"), given[2]
    have = (await connection.api(endpoint.replace("UPDATE", "INFO").replace("CREATE", "INFO")))["config"]
    if endpoint.startswith("STREAM"):
        await connection.api(endpoint, have | fields)
    else:
        body = {"stream_name": endpoint.split(".")[2], "config": have | fields, "action": "update"}
        await connection.api(endpoint, body)


async def test_nobody_pulls_once_the_reader_is_gone(nats_url: str) -> None:
    async with connected(nats_url) as connection:

        async def severities() -> list[str]:
            return [f.severity for f in await looked(connection, nats_url) if f.rule == "nobody-pulls"]

        await add_stream(connection, "EVT", subjects=["evt.*"])
        await add_consumer(connection, "EVT", "mail", filter_subject="evt.mail")
        await connection.request("evt.mail", b"1")
        assert await severities() == ["warning"]
        async with connected(nats_url) as other:
            reader = PullConsumer(other, "EVT", "mail")
            [held] = await reader.fetch(1)
            await connection.request("evt.mail", b"2")
            assert await severities() == ["note"]  # it is busy, or dead since a moment ago
            await held.ack_kept()
            [held] = await reader.fetch(1)
            await held.ack_kept()
            idle = asyncio.create_task(reader.fetch(1))
            await eventually(lambda: pulled(connection), what="an idle reader")
            assert await severities() == []
            idle.cancel()
        await eventually(lambda: unpulled(connection), what="the server's knowledge that the reader is gone")
        await connection.request("evt.mail", b"3")
        assert await severities() == ["warning"]


async def pulled(connection: Connection) -> bool:
    return bool((await connection.api("CONSUMER.INFO.EVT.mail"))["num_waiting"])


async def unpulled(connection: Connection) -> bool:
    return not await pulled(connection)


async def test_handler_times_are_read_from_the_facts(nats_url: str) -> None:
    async with connected(nats_url) as connection:
        await add_stream(connection, "CALL_AUDIT", subjects=["call.audit", "call.audit.*"], allow_direct=True)
        await add_stream(connection, "EVT", subjects=["evt.*"])
        await add_consumer(connection, "EVT", "quick", filter_subject="evt.quick")
        await add_consumer(connection, "EVT", "slow", filter_subject="evt.slow")
        for took in range(1, 41):
            for by, each in (("quick", 0.01), ("slow", float(took))):
                fact = {"fact": "settled", "stream": "EVT", "by": by, "outcome": "done", "took": each}
                await connection.request("call.audit.c1", json.dumps(fact).encode())
        for garbage in (b"\xff", b"[]", b'{"fact": "settled", "stream": 1, "by": "slow", "took": "long"}'):
            await connection.request("call.audit", garbage)
        [slow] = [f for f in await looked(connection, nats_url) if f.rule == "ack-wait-short"]
    assert (slow.severity, slow.thing) == ("warning", "consumer EVT/slow")
    assert "30 s, p99 of 40 runs 40 s" in slow.what
    assert "--wait 80s" in slow.remedy


async def test_a_readers_rights_will_do_and_less_is_said(tmp_path: Path) -> None:
    listing = ["INFO", "STREAM.NAMES", "STREAM.LIST", "CONSUMER.LIST.*"]
    content = ["STREAM.MSG.GET.*", "DIRECT.GET.CALL_AUDIT"]
    rights = {"reader": listing + content, "lister": listing, "nobody": ["STREAM.NAMES"]}
    users = ", ".join(
        f"{{user: {user}, password: p, permissions: {{publish: {[f'$JS.API.{e}' for e in endpoints]}, "
        'subscribe: ["_INBOX.>"]}}'
        for user, endpoints in rights.items()
    )
    users = f"{{user: owner, password: p}}, {users}".replace("'", '"').replace("}}, {user", "}}, {user")
    found: dict[str, list[Finding]] = {}
    listed: dict[str, bool] = {}
    with guarded_server(tmp_path / "nats", users) as data:
        where = await eventually(lambda: address(data), what="the server")
        async with connected(f"nats://owner:p@{where}") as owner:
            await add_stream(owner, "CALL_AUDIT", subjects=["call.audit.*"], allow_direct=True)
            await owner.request("call.audit.c1", b"{}")
        for user in rights:
            url = f"nats://{user}:p@{where}"
            async with connected(url) as connection:
                seen = await visit(connection, settings(url), pause=0.05)
                found[user], listed[user] = [f for f in examine(seen) if f.rule == "not-seen"], seen.listed
    assert found["reader"] == []
    assert {f.thing for f in found["lister"]} == {
        "messages of CALL_AUDIT",
        "handler times",
        "records that were skipped",
    }
    assert [f.thing for f in found["nobody"]] == ["streams"]
    assert listed == {"reader": True, "lister": True, "nobody": False}


async def test_a_server_that_is_gone_is_said_to_be_unseen(nats_server: Server) -> None:
    async with connected(nats_server.url) as connection:
        await add_stream(connection, "EVT", subjects=["evt.*"])
        nats_server.kill()
        seen = await visit(connection, settings(nats_server.url))
    assert not seen.listed
    assert "not-seen" in {finding.rule for finding in examine(seen)}


@pytest.mark.nats(sync="2m", monitor_port=0)
async def test_exit_codes_by_severity(nats_server: Server, tmp_path: Path) -> None:
    url, monitor = nats_server.url, str(nats_server.monitor_url)
    for version, age in ((1, 3600), (2, 7200)):
        (tmp_path / f"shop{version}.py").write_text(_POD.format(version=version, age=age))
    assert (await tieline("apply", "shop1", cwd=tmp_path, url=url)).code == 0

    assert (await tieline("doctor", "shop1", cwd=tmp_path, url=url)).code == 0
    drifted = await tieline("doctor", "shop2", "--json", cwd=tmp_path, url=url)
    assert drifted.code == 3
    drift, version = [f for f in drifted.json["findings"] if f["rule"] == "drift"]
    assert (drift["severity"], drift["thing"], drift["remedy"]) == ("warning", "stream TOLD", "tieline apply POD")
    assert (version["severity"], version["thing"]) == ("note", "pod shop")

    synced = await tieline("doctor", "--monitor", monitor, cwd=tmp_path, url=url)
    assert synced.code == 3
    assert "sync_interval 120 s" in synced.out

    async with connected(url) as connection:
        await add_stream(connection, "EVT", subjects=["evt.new"])
        await add_consumer(connection, "EVT", "mail", filter_subject="evt.new", ack_policy="none")
    erred = await tieline("doctor", cwd=tmp_path, url=url)
    assert erred.code == 4
    assert "acks-not-explicit" in erred.out

    wrong = await tieline("doctor", "--monitor", "8222", cwd=tmp_path, url=url)
    assert (wrong.code, wrong.out) == (2, "")
    elsewhere = await tieline("doctor", "--monitor", url.replace("nats:", "http:"), cwd=tmp_path, url=url)
    assert "does not answer with JSON over HTTP" in elsewhere.out
    nats_server.kill()
    assert (await tieline("doctor", cwd=tmp_path, url=url)).code == 1
