"""Metrics on a real server: what facts and the server come to, and that neither can flood or hang a scrape."""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import started, tieline
from scraping import Scrape, page, scraped, serving
from support.guarded import address, guarded_server
from support.office import QUICK, at_work, settings

from tieline import Bus, Conversation, Limits, Message, Pod, Refuse, connect
from tieline.facts import Fact, ModelUsed, Stepped, Switched
from tieline.services import accountant
from tieline.services.metrics import Place, run
from tieline.services.metrics import serving as service
from tieline.services.metrics.catalogue import catalogue
from tieline.testing import Server, eventually

ROOT = Path(__file__).parents[2]
_MARK = "mark-x7"  # in everything that a hostile fact may say; no label may have it


class Job(Message, subject="call.intent.job"):
    call_id: str
    how: str = "well"


class Slow(Message, subject="call.intent.slow"):
    call_id: str


def crew() -> Pod:
    pod = Pod("crew")

    @pod.tool
    async def look(text: str) -> str:
        return text

    @pod.agent(limits=QUICK)
    async def worker(job: Job, call: Conversation) -> Refuse | None:
        if job.how == "badly":
            return Refuse("no such house")
        if job.how == "again" and call.attempt == 1:
            raise OSError("the line is busy")
        await call.tool(look, text="a house")
        await call.step(f"free text of {call.id}", _nothing)
        return None

    @pod.agent(limits=Limits(first_retry=300.0, longest_retry=300.0))
    async def sleeper(_: Slow, call: Conversation) -> None:
        call.log("not now")
        raise OSError("come back later")

    return pod


async def _nothing() -> None: ...


async def until(url: str, what: str, **counts: float) -> Scrape:
    """The first scrape in which these `tieline_…` are as given; what the server says may be a second old in it."""

    async def there() -> Scrape | None:
        seen = await scraped(url)
        return seen if all(seen.of(f"tieline_{name}") == count for name, count in counts.items()) else None

    return await eventually(there, what=what, every=0.1)


async def test_the_guide_has_every_metric_with_its_kind_and_labels() -> None:
    text = (ROOT / "docs/guide/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    told = [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows]
    assert told == [(m.name, m.kind, () if m.name.startswith("j") else m.labels) for m in catalogue()]
    for prefix in ("jetstream_stream", "jetstream_consumer", "jetstream_account"):
        [labels] = {m.labels for m in catalogue() if m.name.startswith(prefix)}
        assert f"`{prefix}_*`: {', '.join(f'`{label}`' for label in labels)}" in text


async def test_what_becomes_of_messages_is_counted_and_a_repeated_fact_is_not(nats_url: str) -> None:
    pod = crew()
    async with at_work(pod, settings(nats_url, audit=True)) as office, serving(office.bus) as url:
        for number, how in enumerate(("well", "well", "again", "badly")):
            await office.bus.publish(Job(call_id=f"c{number}", how=how))
        await office.bus.publish(Slow(call_id="c9"))
        for found in (False, True):
            tell(office.bus.observers, ModelUsed("c1", "worker", "s", "gpt", "p", 100, 20, 40, 0.25, 1.5 + found))
            tell(office.bus.observers, Stepped("c1", "worker", "s", "model", "m", True, found, False, 2.0))
        tell(office.bus.observers, Switched("c1", "tool-look", "look", "open", 5, "down"))
        seen = await until(url, "every fact", handled_total=6, failed_total=3, breaker_switches_total=1, dead_letters=1)

        job = {"pod": "crew", "agent": "worker", "subject": "call.intent.job"}
        assert seen.of("tieline_handled_total", **job) == 3
        assert seen.of("tieline_handled_total", agent="tool-look", subject="tool.call.look") == 3
        assert seen.of("tieline_retried_total", **job) == 1
        assert seen.of("tieline_dead_total", **job, cause="refused") == 1
        assert seen.of("tieline_retried_total", agent="sleeper") == 1  # it was put aside for minutes
        assert seen.of("tieline_parked_total") == 0
        assert seen.of("tieline_published_total", agent="(outside)") == 5
        assert seen.of("tieline_handler_duration_seconds_count", agent="worker", outcome="done") == 3
        assert seen.of("tieline_steps_total", agent="worker", kind="tool", tool="look", result="ok") == 3
        assert seen.of("tieline_step_duration_seconds_count", kind="model") == 1
        assert seen.of("tieline_steps_total", kind="model", result="found") == 1
        assert seen.of("tieline_model_tokens_total", model="gpt", direction="input") == 200
        assert seen.of("tieline_model_cost_dollars_total") == 0.5
        assert seen.of("tieline_dead_letters", agent="worker", cause="refused") == 1
        assert seen.of("tieline_in_flight_free", agent="worker") == 10_000 - seen.of(
            "tieline_in_flight", agent="worker"
        )
        assert seen.of("jetstream_stream_total_messages", stream_name="CALL_INTENT") == 5
        assert seen.of("jetstream_consumer_ack_floor_stream_seq", consumer_name="worker") == 4

        # The answer to a batch may be lost with a connection: then the audit stores the same facts a second time.
        audit = [d async for d in office.bus.feed("call.audit.*", start=1, to_end=True)]
        for told in audit:
            await office.bus.connection.request(told.subject, told.payload)
        await office.bus.publish(Job(call_id="last"))
        assert (await until(url, "the one that is new", handled_total=8)).of("tieline_published_total") == 6
    assert "free text" not in str(seen.samples)


def tell(observers: list[Any], fact: Fact) -> None:
    for observer in observers:
        observer(fact)


async def test_tries_that_a_publish_took_are_counted(nats_url: str) -> None:
    async with connect(crew(), settings=settings(nats_url, audit=True)) as bus:
        await bus.apply()
        async with serving(bus) as url:
            await bus.connection.api("STREAM.DELETE.CALL_INTENT")
            publishing = asyncio.create_task(bus.publish(Job(call_id="c1")))
            await eventually(lambda: bus.publisher.retries > 1, what="a second retry")
            await bus.apply()
            await publishing
            retries = float(bus.publisher.retries)
            await until(url, "its fact", published_total=1, publish_retries_total=retries)


async def test_labels_are_bounded_whatever_facts_say(nats_url: str) -> None:
    """Anybody in the account may write facts, and subjects, steps and reasons name conversations."""
    hostile: list[dict[str, Any]] = []
    for number in range(60):
        mark = f"{_MARK}-{number}"
        who = {"callId": mark, "by": mark, "origin": mark, "reason": mark}
        place = {"stream": mark, "subject": mark, "seq": number}
        hostile += [
            {"fact": "published", **who, **place, "tries": "many"},
            {"fact": "settled", **who, "stream": "CALL_INTENT", "subject": f"call.intent.{mark}", "outcome": mark},
            {"fact": "settled", **who, "by": "worker", "stream": "CALL_INTENT", "subject": mark, "outcome": "dead"},
            {"fact": "stepped", **who, "by": "worker", "kind": "tool", "name": mark, "took": 1e17},
            {"fact": "stepped", **who, "kind": mark, "name": mark, "ok": mark, "took": 5},
            {"fact": "stepped", **who, "kind": mark, "name": mark, "ok": mark, "took": -5},  # no fact at all
            {"fact": "unreadable", "kind": mark, "count": 10**400, "by": mark},
            {"fact": "unreadable", "kind": mark, "count": 2, "by": mark},
            {"fact": "modelused", **who, "model": f"m{number}", "inputTokens": 10**400, "cost": -1},
            {"fact": "modelused", **who, "by": "worker", "model": f"m {mark}", "cost": float("inf")},
            {"fact": "switched", **who, "tool": mark, "state": mark},
            {"fact": "letterdropped", **who, "agent": mark},
            {"fact": "published", "by": [mark], "stream": {}, "subject": None},
        ]
    async with connect(crew(), settings=settings(nats_url)) as bus:
        await bus.apply()
        rows = [{"agent": _MARK, "stream": _MARK, "published": _MARK, "at_server": _MARK}, _MARK]
        async with accounting(bus, rows), serving(bus) as restricted, serving(bus, whole_account=True) as url:
            for number, fact in enumerate(hostile):
                await bus.connection.request(f"call.audit.{_MARK}-{number}", json.dumps(fact).encode())
            await bus.connection.request(f"DLQ.{_MARK}.{_MARK}.call.intent.{_MARK}", b"{}")
            told = {
                "fact": "published",
                "by": "worker",
                "stream": "CALL_INTENT",
                "subject": "call.intent.job",
                "seq": 1,
            }
            await bus.connection.request("call.audit.c", json.dumps(told).encode())
            ours = await until(restricted, "the last fact", published_total=1)
            every = await until(url, "the last fact, and the letter", published_total=1, dead_letters=1)
            text = await page(url) + await page(restricted)
    assert _MARK not in text
    assert every.of("tieline_steps_total", agent="(other)") == 60
    assert every.of("tieline_unreadable_total", kind="(other)") == 120
    assert every.of("tieline_dead_letters", agent="(other)", cause="(other)") == 1
    assert len(every.all("tieline_model_requests_total")) <= 34  # 32 names and the others, for each agent
    assert max(len(every.all(name)) for name in every.names) < 700  # buckets of models: 34 series of 17
    assert ours.all("tieline_dead_letters") == []
    assert {labels["agent"] for labels in ours.all("tieline_steps_total")} == {"worker"}


@asynccontextmanager
async def accounting(bus: Bus, rows: list[Any]) -> AsyncIterator[None]:
    """Another accountant of the crew, who says what the test wants."""
    answers: set[asyncio.Task[None]] = set()

    def asked(request: Any) -> None:
        answers.add(asyncio.create_task(bus.connection.send(request.reply, json.dumps(rows).encode())))

    listening = bus.connection.listen(accountant.sum_subject("crew"), asked)
    try:
        yield
    finally:
        await listening.stop()
        await asyncio.gather(*answers)


async def test_a_server_that_is_frozen_or_dead_is_said_at_once(nats_server: Server) -> None:
    pod = crew()
    chosen = settings(nats_server.url, audit=True, ping_interval=60.0)
    async with at_work(pod, chosen) as office, serving(office.bus) as url:
        await office.bus.publish(Job(call_id="c1"))
        before = await until(url, "the facts", up=1, handled_total=2)
        assert "jetstream_stream_total_messages" in before.names
        for harm, mend in ((nats_server.pause, resume), (nats_server.kill, Server.restart)):
            harm()
            away = await until(url, "it is said", up=0)
            assert {name for name in away.names if name.startswith("jetstream")} == set()  # Prometheus marks them stale
            assert away.of("tieline_handled_total") == 2
            await mend(nats_server)
            await until(url, "it is back", up=1)
        await office.bus.publish(Job(call_id="c2"))
        await until(url, "facts are counted again", handled_total=4)


async def resume(server: Server) -> None:
    server.resume()


@pytest.mark.nats(monitor_port=0)
async def test_the_server_is_read_once_a_second_at_most(nats_server: Server) -> None:
    async with connect(crew(), settings=settings(nats_server.url)) as bus:
        await bus.apply()

        async def calls() -> int:
            return int((await bus.connection.api("INFO"))["api"]["total"])

        async with serving(bus, monitor=nats_server.monitor_url) as url:
            await scraped(url)
            began, first = time.monotonic(), await calls()
            pages = [await asyncio.gather(*(page(url) for _ in range(5))) for _ in range(10)]
            readings = time.monotonic() - began + 1
            asked = await calls() - first
            streams = len(re.findall("^jetstream_stream_total_messages", pages[0][0], re.MULTILINE))
            # A list of streams, the consumers of each, the account; beside it our own INFO and pulls of the feed.
            assert asked <= readings * (streams + 3) + 5
            seen = await scraped(url)
    assert seen.of("gnatsd_varz_connections") >= 1
    assert seen.of("tieline_accountant_up") == 0
    assert seen.all("tieline_accountant_up") == [{"pod": "crew"}]


async def test_the_sum_is_there_and_a_broken_one_shows(nats_url: str) -> None:
    pod = crew()
    async with at_work(pod, settings(nats_url, audit=True), "worker", "tools") as office:
        stop = asyncio.Event()
        keeping = asyncio.create_task(accountant.run(office.bus, stop))
        async with serving(office.bus) as url:
            await office.bus.publish(Job(call_id="c1"))

            async def counted() -> Scrape | None:
                seen = await scraped(url)
                return seen if seen.of("tieline_sum_messages", agent="worker", state="done") else None

            seen = await eventually(counted, what="the sum", every=0.1)
            assert seen.of("tieline_sum_difference") == 0
            stop.set()
            await keeping
            row = {"agent": "worker", "stream": "CALL_INTENT", "published": 9, "done": 4, "pending": 2, "dead": 1}
            async with accounting(office.bus, [row | {"owed": 2, "at_server": 7}]):
                # Two that are in no column, and five that the server owes and we do not know of.
                await until(url, "the difference", sum_difference=7)


async def test_it_needs_a_readers_rights_only(tmp_path: Path) -> None:
    publish = json.dumps([
        "$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.DLQ", "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.CREATE.CALL_AUDIT.>", "$JS.API.CONSUMER.INFO.CALL_AUDIT.*",
        "$JS.API.CONSUMER.MSG.NEXT.CALL_AUDIT.*", "tieline.sum.*",
    ])  # fmt: skip
    may = f'{{ publish: {{ allow: {publish} }}, subscribe: {{ allow: ["_INBOX.>"] }} }}'
    users = f'{{ user: boss, password: p }}, {{ user: reader, password: p, permissions: {may} }}'  # fmt: skip
    with guarded_server(tmp_path / "guarded", users) as data:
        where = await eventually(lambda: address(data), what="the server")
        async with at_work(crew(), settings(f"nats://boss:p@{where}", audit=True)) as office:
            options = ("metrics", "--port", "0", "--json")
            async with started(*options, cwd=tmp_path, url=f"nats://reader:p@{where}") as program:
                ready = await program.line(event="ready")
                await eventually(lambda: followed(office.bus), what="the facts are followed")
                await office.bus.publish(Job(call_id="c1", how="badly"))
                seen = await until(ready["url"], "the dead letter", dead_letters=1, dead_total=1)
                program.process.terminate()
                assert (await program.ended()).code == 0
    assert seen.of("tieline_published_total", pod="", subject="call.intent.job") == 1
    assert seen.of("jetstream_account_storage_used", account="$G") > 0


async def followed(bus: Bus) -> bool:
    return bool((await bus.connection.api("STREAM.INFO.CALL_AUDIT"))["state"]["consumer_count"])


async def test_a_taken_port_ends_the_command_and_not_the_process_of_up(
    nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_AGAIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await tieline("metrics", "--port", str(port), cwd=tmp_path, url=nats_url)
        assert (refused.code, f"port {port} of 127.0.0.1 cannot be had" in refused.err) == (2, True)
        async with connect(crew(), settings=settings(nats_url)) as bus:
            await bus.apply()
            stop = asyncio.Event()
            running = asyncio.create_task(run(bus.connection, bus.pod, Place(port), stop))
            await eventually(lambda: followed(bus), what="it runs all the same")
            taken.close()
            seen = await eventually(lambda: answered(f"http://127.0.0.1:{port}/metrics"), what="the port is free")
            stop.set()
            await running
    assert seen.of("tieline_up") == 1


async def answered(url: str) -> Scrape | None:
    try:
        return await scraped(url)
    except OSError:
        return None


async def _counted(url: str) -> bool:
    seen = await scraped(url)
    return (seen.of("tieline_up"), seen.of("tieline_accountant_up", pod="tiny")) == (1, 1)


async def test_up_serves_metrics_unless_they_are_off(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text('from tieline import Pod\n\npod = Pod("tiny")\n')
    options = ("up", "tiny", "--port", "0", "--data", "data", "--json")
    async with started(*options, cwd=tmp_path, TIELINE_METRICS_PORT="0") as program:
        ready, said = await program.line(event="ready"), ""
        while "metrics at" not in said:
            said = (await program.line(event="log", name="metrics"))["text"]
        url = said.rpartition(" ")[2]
        await eventually(lambda: _counted(url), what="the accountant's answer")
        program.process.terminate()
        assert (await program.ended()).code == 0
    assert [process["name"] for process in ready["processes"]] == ["audit", "metrics"]

    async with started(*options, cwd=tmp_path, TIELINE_METRICS_PORT="off") as program:
        ready = await program.line(event="ready")
        assert [process["name"] for process in ready["processes"]] == ["audit"]
        program.process.terminate()
        await program.ended()
