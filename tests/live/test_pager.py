"""The pager on a real bus, against a Slack and a webhook of this machine."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from command_line import tieline
from support.messages import Book
from support.office import QUICK, at_work, dead_letters, settings, stored
from support.slack import APP_TOKEN, BOT_TOKEN, CHANNEL, Slack, slack_server

from tieline import Bus, Conversation, Pod, Refuse, Settings, connect
from tieline.services.cancelling import cancel
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, drop
from tieline.services.pager import Pager, pages, run, service
from tieline.services.pager.targets import signature
from tieline.settings import PagerSettings
from tieline.testing import Server, eventually

SECRETS = (BOT_TOKEN, APP_TOKEN, "s3cret", "1234567")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_EVERY", 0.2)
    monkeypatch.setattr(service, "_FIRST_WAIT", 0.1)


def office() -> tuple[Pod, list[str]]:
    """An office whose agent refuses until ``mended`` has something in it."""
    pod = Pod("office", limits=QUICK)
    mended: list[str] = []

    @pod.agent
    async def booking(intent: Book, _: Conversation) -> Refuse | None:
        return None if mended else Refuse(f"no house for {intent.call_id}, call +49 30 1234567")

    return pod, mended


def paged(server: Server, **pager: Any) -> Settings:
    return replace(settings(server.url, audit=True), pager=PagerSettings(every=0.05, **pager))


def to(slack: Slack) -> dict[str, str]:
    return {
        "slack_token": BOT_TOKEN,
        "slack_app_token": APP_TOKEN,
        "slack_channel": CHANNEL,
        "slack_url": slack.url,
    }


@asynccontextmanager
async def paging(bus: Bus) -> AsyncIterator[None]:
    stop = asyncio.Event()
    work = asyncio.create_task(run(bus, stop))
    try:
        yield
    finally:
        stop.set()
        await work


def posted(slack: Slack) -> Callable[[], list[dict[str, Any]]]:
    return lambda: slack.said("chat.postMessage")


def button(message: dict[str, Any], verb: str) -> str:
    blocks = message["blocks"]
    elements = next(
        b["elements"] for b in (json.loads(blocks) if isinstance(blocks, str) else blocks) if "elements" in b
    )
    return str(next(element["value"] for element in elements if element["action_id"] == f"tieline-{verb}"))


async def test_a_page_opens_changes_and_ends_and_another_opens(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pod, _ = office()
    async with slack_server() as slack, at_work(pod, paged(nats_server, **to(slack))) as work, paging(work.bus):
        bus = work.bus
        await bus.publish(Book(call_id="c1"))
        [first] = await eventually(posted(slack), what="the page")
        assert first["text"] == "office: 1 dead letter of booking: refused"
        for number in range(5):
            await bus.publish(Book(call_id=f"d{number}"))
        await eventually(lambda: any("6 dead" in one["text"] for one in slack.said("chat.update")), what="the update")
        everything = letters(bus.connection, Selection())
        await drop(bus, everything, Order(by="ada", reason="a test"), lambda _: None)
        await eventually(lambda: "any more" in slack.said("chat.update")[-1]["text"], what="the end")
        assert len(slack.said("chat.postMessage")) == 1
        await bus.publish(Book(call_id="c2"))
        await eventually(lambda: len(slack.said("chat.postMessage")) == 2, what="another page")
    told = json.dumps(slack.calls) + caplog.text
    assert not any(secret in json.dumps(slack.calls) for secret in SECRETS)
    assert not any(secret in caplog.text.replace("no house", "") for secret in SECRETS[:3])
    assert "no house for c1, call [number]" in told


async def test_several_pagers_and_restarts_tell_it_once(nats_server: Server) -> None:
    pod, _ = office()
    async with slack_server() as slack, at_work(pod, paged(nats_server, **to(slack))) as work:
        await work.bus.publish(Book(call_id="c1"))
        await eventually(lambda: dead_letters(work.bus), what="the letter")
        async with connect(pod, settings=work.bus.settings) as other, paging(work.bus), paging(other):
            await eventually(posted(slack), what="the page")
            await asyncio.sleep(0.4)
        async with paging(work.bus):
            await asyncio.sleep(0.4)
    assert len(slack.said("chat.postMessage")) == 1


async def test_while_slack_is_away_nothing_is_lost(nats_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    pod, _ = office()
    async with slack_server() as gone:
        port = int(gone.url.split(":")[-1].rstrip("/"))
    async with at_work(pod, paged(nats_server, **to(gone))) as work, paging(work.bus):
        await work.bus.publish(Book(call_id="c1"))
        await eventually(lambda: "slack was not told" in caplog.text, what="the failure")
        async with slack_server(port) as slack:
            slack.bad += [500, 429, 429]
            await eventually(posted(slack), what="the page")
            await eventually(lambda: "slack is told again" in caplog.text, what="the word of it")
    assert caplog.text.count("slack was not told") == 1


async def test_buttons_look_and_send_again_and_say_who(nats_server: Server) -> None:
    pod, mended = office()
    async with slack_server() as slack, at_work(pod, paged(nats_server, **to(slack))) as work, paging(work.bus):
        await work.bus.publish(Book(call_id="c1"))
        [page] = await eventually(posted(slack), what="the page")
        envelope = await slack.press("tieline-look", button(page, "look"), "17.1")
        [seen] = await eventually(lambda: slack.said("chat.postEphemeral"), what="the answer")
        assert "1 dead letters" in seen["text"]
        assert "[number]" in seen["text"]
        assert envelope in slack.acked
        mended.append("the house is back")
        await slack.press("tieline-redrive", button(page, "redrive"), "17.1")
        answer = (await eventually(lambda: posted(slack)()[1:], what="the answer"))[0]
        assert (answer["thread_ts"], answer["text"]) == ("17.1", "slack:ada: 1 sent again")
        assert await dead_letters(work.bus) == []
        told = [json.loads(one.payload) for one in await stored(work.bus, "call.audit.*")]
        [fact] = [fact for fact in told if fact["fact"] == "letterredriven"]
        assert (fact["by"], fact["reason"]) == ("slack:ada", "pressed Redrive in Slack")


async def test_a_forged_button_does_nothing(nats_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    pod, _ = office()
    async with slack_server() as slack, at_work(pod, paged(nats_server, **to(slack))) as work, paging(work.bus):
        await work.bus.publish(Book(call_id="c1"))
        [page] = await eventually(posted(slack), what="the page")
        genuine = json.loads(button(page, "redrive"))
        forged = [genuine | {"agent": "other"}, genuine | {"at": 0}, genuine | {"key": "0"}, {}]
        for value in [*map(json.dumps, forged), "rubbish"]:
            await slack.press("tieline-redrive", value, "17.1")
        await eventually(lambda: caplog.text.count("none of ours, or too old") == 5, what="the refusals")
        assert len(await dead_letters(work.bus)) == 1


async def test_a_loop_is_not_forced_by_a_button(nats_server: Server) -> None:
    pod, _ = office()
    async with slack_server() as slack, at_work(pod, paged(nats_server, **to(slack))) as work, paging(work.bus):
        await work.bus.publish(Book(call_id="c1"))
        [page] = await eventually(posted(slack), what="the page")
        answers = 1
        for expected in ("1 sent again", "1 sent again", "1 held: "):
            await eventually(lambda: dead_letters(work.bus), what="the letter")
            await slack.press("tieline-redrive", button(page, "redrive"), "17.1")
            answers += 1
            await eventually(lambda: len(_answers(slack)) == answers - 1, what="the answer")  # noqa: B023 - at once
            assert expected in _answers(slack)[-1]


def _answers(slack: Slack) -> list[str]:
    return [said["text"] for said in slack.said("chat.postMessage") if "thread_ts" in said]


async def test_a_webhook_is_told_until_it_takes_it(nats_server: Server) -> None:
    got: list[tuple[dict[str, str], bytes]] = []
    bad = [503, 302]

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        got.append((dict(request.headers), body))
        return web.Response(status=bad.pop(0) if bad else 204, headers={"Location": "/elsewhere"})

    pod, _ = office()
    async with serving(take) as url:
        hook = paged(nats_server, webhook=url, webhook_secret="s3cret")
        async with at_work(pod, hook) as work, paging(work.bus):
            await work.bus.publish(Book(call_id="c1"))
            await eventually(lambda: len(got) == 3, what="three tries")
    headers, body = got[-1]
    at = int(headers["Tieline-Signature"].partition(",")[0].removeprefix("t="))
    assert headers["Tieline-Signature"] == signature("s3cret", body, at)
    assert len({one["Idempotency-Key"] for one, _ in got}) == 1
    told = json.loads(body)
    assert (told["event"], told["pod"]) == ("opened", "office")
    assert told["groups"] == [
        {
            "agent": "booking",
            "cause": "refused",
            "count": 1,
            "subjects": ["call.intent.book"],
            "example": "no house for c1, call [number]",
            "look": "tieline dlq ls --agent booking --cause refused",
        }
    ]


async def test_with_nobody_to_tell_it_logs(nats_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tieline.pager")
    pod, _ = office()
    async with at_work(pod, paged(nats_server)) as work:
        await work.bus.publish(Book(call_id="c1"))
        await eventually(lambda: dead_letters(work.bus), what="the letter")
        pager = Pager(work.bus)
        assert [await pager.look(), await pager.look()] == [1, 0]
    lines = [record.getMessage() for record in caplog.records if record.name == "tieline.pager"]
    assert len(lines) == 1
    assert "dead letters of booking (refused): 1 on call.intent.book. tieline dlq ls" in lines[0]


async def test_nobody_is_paged_for_a_cancelled_conversation(nats_server: Server) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(intent: Book, call: Conversation) -> Refuse | None:
        if intent.call_id == "c1":
            await call.sleep(600)
        return Refuse("no house")

    async with at_work(pod, paged(nats_server)) as work:
        pager = Pager(work.bus)
        await cancel(work.bus, "c1", "sold elsewhere")
        await work.bus.publish(Book(call_id="c1"))
        [letter] = await eventually(lambda: dead_letters(work.bus), what="the cancelled letter")
        assert letter.told["cause"] == "cancelled"
        assert await pager.look() == 0
        await work.bus.publish(Book(call_id="c2"))
        await eventually(lambda: _letters(work.bus, 2), what="the other letter")
        assert await pager.look() == 1
        await pager.close()


async def _letters(bus: Bus, count: int) -> bool:
    return len(await dead_letters(bus)) == count


async def test_letters_on_many_subjects_are_counted_and_only_when_they_changed(
    nats_server: Server, tmp_path: Path
) -> None:
    """The answer that lists their subjects is larger than the server's ``max_payload``."""
    pod, _ = office()
    async with connect(pod, settings=paged(nats_server)) as bus:
        await bus.apply()
        broken: list[str] = []
        bus.connection.on_reconnect.append(lambda: broken.append("the connection"))

        async def letter(number: int) -> None:
            told = json.dumps({"cause": "raised", "reason": "no", "agent": "talker"})
            subject = f"DLQ.talker.raised.talk.turn.{number}-{'x' * 180}"
            await bus.publisher.publish(subject, b"{}", {"Tieline-Dead": told, "Nats-Msg-Id": str(number)})

        for start in range(0, 6_000, 500):
            await asyncio.gather(*(letter(number) for number in range(start, start + 500)))
        pager = Pager(bus)
        assert [await pager.look(), await pager.look()] == [1, 0]
        before = await _api_calls(bus)
        assert await pager.look() == 0
        assert await _api_calls(bus) - before <= 4, "nothing is listed again"
        await pager.close()
        assert broken == []
        said = await tieline("dlq", "ls", "--limit", "1", cwd=tmp_path, url=nats_server.url)
        assert said.code == 0, said.err
        assert "6000" in said.out.replace(",", "")


async def _api_calls(bus: Bus) -> int:
    return int((await bus.connection.api("INFO"))["api"]["total"])


async def test_the_command_tells_once_and_says_who_could_not_be_told(
    nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, _ = office()
    (tmp_path / "office.py").write_text("from tieline import Pod\npod = Pod('office')\n")
    async with slack_server() as slack:
        async with at_work(pod, paged(nats_server)) as work:
            await work.bus.publish(Book(call_id="c1"))
            await eventually(lambda: dead_letters(work.bus), what="the letter")
        for name, value in to(slack).items():
            monkeypatch.setenv(f"TIELINE_PAGER_{name.upper()}", value)
        for expected in (1, 0):
            said = await tieline("pager", "office", "--once", "--json", cwd=tmp_path, url=nats_server.url)
            assert (said.code, said.json) == (0, {"told": expected, "failed": []})
    monkeypatch.delenv("TIELINE_PAGER_SLACK_TOKEN")
    monkeypatch.delenv("TIELINE_PAGER_SLACK_APP_TOKEN")
    monkeypatch.setenv("TIELINE_PAGER_WEBHOOK", "http://127.0.0.1:9/hook")
    said = await tieline("pager", "office", "--once", cwd=tmp_path, url=nats_server.url)
    assert (said.code, said.out) == (1, "0 told, webhook could not be\n")


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()
        await asyncio.sleep(0.1)  # what it closed is gone a turn of the loop later
