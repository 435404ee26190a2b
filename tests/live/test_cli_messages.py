"""`tieline pub`, `tail` and `report`, and what every command says to a wrong argument."""

import asyncio
import signal
from pathlib import Path

import pytest
from command_line import started, tieline
from support.office import settings

from tieline import connect
from tieline.cli import report
from tieline.services import accountant
from tieline.services.reference import load_pod

_POD = """
from tieline import Conversation, Message, Pod

class Book(Message, subject="call.intent.book", ttl="5m"):
    call_id: str
    phone: str

class Answer(Message, subject="call.intent.{call_id}"):
    call_id: str

pod = Pod("shop")

@pod.agent
async def booking(intent: Book, call: Conversation) -> None:
    raise ValueError("no luck")

other = Pod("other")

@other.agent
async def answering(answer: Answer, call: Conversation) -> None: ...
"""
_BOOK = '{"callId": "c1", "phone": "1"}'


@pytest.fixture
async def folder(tmp_path: Path, nats_url: str) -> Path:
    (tmp_path / "shop.py").write_text(_POD)
    assert (await tieline("apply", "shop", cwd=tmp_path, url=nats_url)).code == 0
    return tmp_path


async def test_what_is_published_is_followed(folder: Path, nats_url: str) -> None:
    async with started("tail", "call.intent.*", "--from", "start", "--json", cwd=folder, url=nats_url) as tail:
        sent = await tieline(
            "pub", "call.intent.book", _BOOK, "--pod", "shop", "--id", "m1", "--json", cwd=folder, url=nats_url
        )
        assert sent.json == {
            "stream": "CALL_INTENT",
            "seq": 1,
            "duplicate": False,
            "tries": 1,
            "id": "m1",
            "conversation": "c1",
        }
        told = await tail.line()
        assert (told["stream"], told["seq"], told["subject"]) == ("CALL_INTENT", 1, "call.intent.book")
        assert (told["conversation"], told["payload"]) == ("c1", {"callId": "c1", "phone": "1"})
        assert told["headers"]["Nats-TTL"] == "300"

        again = await tieline("pub", "call.intent.book", _BOOK, "--id", "m1", cwd=folder, url=nats_url)
        assert (again.code, again.out) == (0, "already stored: stream CALL_INTENT, sequence 1, id m1\n")
        tail.process.send_signal(signal.SIGINT)
        end = await tail.ended()
        assert (end.code, end.err) == (0, "")


async def test_a_delayed_message_waits_at_the_server_and_comes(folder: Path, nats_url: str) -> None:
    async with started("tail", "call.intent.*", "--count", "1", "--from", "start", cwd=folder, url=nats_url) as tail:
        options = ("--after", "1s", "--ttl", "1m", "--conversation", "c9")
        sent = await tieline("pub", "call.intent.late", "{}", *options, cwd=folder, url=nats_url)
        assert "stream SCHEDULE" in sent.out
        end = await tail.ended()
    assert end.code == 0
    assert " CALL_INTENT:1 call.intent.late c9 {}" in end.out


async def test_a_payload_that_does_not_fit_is_refused_by_its_fields(folder: Path, nats_url: str) -> None:
    for payload, subject, pod, words in (
        ('{"callId": "c1"}', "call.intent.book", "shop", "phone: Field required"),
        ('{"callId": "c1", "phone": "1", "fone": "2"}', "call.intent.book", "shop", "no such field: fone"),
        ('{"callId": "c1"}', "call.intent.search", "shop", "call.intent.book"),
        ('{"callId": "c1"}', "call.intent.c2", "shop:other", "belongs to call.intent.c1"),
    ):
        end = await tieline("pub", subject, payload, "--pod", pod, cwd=folder, url=nats_url)
        assert (end.code, end.out) == (1, ""), end
        assert words in end.err


async def test_the_report_counts_streams_consumers_and_dead_letters(folder: Path, nats_url: str) -> None:
    await tieline("pub", "call.intent.book", '{"callId": "c1"}', cwd=folder, url=nats_url)
    async with started("tail", "DLQ.>", "--count", "1", "--from", "start", cwd=folder, url=nats_url) as tail:
        async with started("run", "shop", "booking", cwd=folder, url=nats_url):
            assert (await tail.ended()).code == 0
        await tieline("pub", "call.intent.search", "{}", cwd=folder, url=nats_url)

    report = (await tieline("report", "shop", "--json", cwd=folder, url=nats_url)).json
    streams = {stream["name"]: stream for stream in report["streams"]}
    assert (streams["CALL_INTENT"]["messages"], streams["CALL_INTENT"]["lastSeq"]) == (2, 2)
    assert streams["CALL_INTENT"]["oldest"] > 0
    assert streams["CALL_INTENT"]["maxBytes"] == 256 * 1024 * 1024
    [booking] = [consumer for consumer in report["consumers"] if consumer["name"] == "booking"]
    assert (booking["stream"], booking["name"]) == ("CALL_INTENT", "booking")
    assert (booking["pending"], booking["inFlight"], booking["ackFloor"]) == (0, 0, 1)
    assert report["deadLetters"] == [{"agent": "booking", "cause": "invalid", "count": 1}]
    assert report["missing"] == []

    shown = await tieline("report", cwd=folder, url=nats_url)
    assert shown.code == 0
    assert "CALL_INTENT" in shown.out
    assert "booking" in shown.out


async def test_the_sum_is_shown_and_its_exit_code_says_whether_it_holds(
    folder: Path, nats_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await tieline("pub", "call.intent.book", _BOOK, cwd=folder, url=nats_url)
    summed = await tieline("report", "shop", "--sum", cwd=folder, url=nats_url)
    assert (summed.code, summed.err) == (0, "")
    assert "booking" in summed.out
    assert "CALL_INTENT to 1" in summed.out
    told = await tieline("report", "shop", "--sum", "--json", cwd=folder, url=nats_url)
    [row] = [row for row in told.json["rows"] if row["agent"] == "booking"]
    assert told.json["holds"]
    assert (row["published"], row["pending"], row["atServer"]) == (1, 1, 1)

    # The consumer is made to look elsewhere, behind the pod's back: the message is nobody's.
    monkeypatch.setattr(accountant, "_COUNTED", 0.0)
    monkeypatch.syspath_prepend(str(folder))
    async with connect(load_pod("shop"), settings=settings(nats_url)) as bus:
        config = (await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking"))["config"]
        config |= {"filter_subjects": ["call.intent.other"]}
        config.pop("filter_subject", None)
        change = {"stream_name": "CALL_INTENT", "config": config, "action": "update"}
        await bus.connection.api("CONSUMER.CREATE.CALL_INTENT.booking", change)
    capsys.readouterr()
    assert await asyncio.to_thread(report.report, "shop", sum_=True, server=[nats_url]) == 3
    assert "The sum does not hold: CALL_INTENT booking" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("up", "nosuch"), 2, "no module 'nosuch'"),
        (("up", "shop", "--port", "70000"), 2, "server.port"),
        (("run", "shop", "nobody"), 2, "pod shop has no nobody"),
        (("run", "shop"), 2, "NAME"),
        (("plan", "shop.py"), 2, "this one may be shop"),
        (("plan", "shop:nothing"), 2, "these are pods: shop:pod, shop:other"),
        (("plan", "shop:Book"), 2, "not a Pod"),
        (("plan", "broken"), 2, "ZeroDivisionError"),
        (("apply", "shop", "--server", "localhost"), 2, "is not a URL"),
        (("apply", "shop", "--server", "nats://127.0.0.1:1"), 1, "no NATS server answers at nats://127.0.0.1:1"),
        (("report", "--everything"), 2, "--everything"),
        (("report", "--sum"), 2, "tieline report POD --sum"),
        (("report", "--server", "nats://me:secret@127.0.0.1:1"), 1, "nats://127.0.0.1:1"),
        (("pub", "call.intent.book", "{"), 2, "not JSON"),
        (("pub", "call.intent.*", "{}"), 2, "cannot be published to"),
        (("pub", "call.intent.book", "{}", "--ttl", "soon"), 2, "--ttl"),
        (("tail", "call..intent"), 2, "filter 'call..intent'"),
        (("tail", "call.intent.*", "--from", "yesterday"), 2, "--from 'yesterday'"),
        (("tail",), 2, "FILTER"),
        (("dance",), 2, "dance"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_a_wrong_argument_is_one_clear_line(
    arguments: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(_POD)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    end = await tieline(*arguments, cwd=tmp_path)
    assert (end.code, end.out) == (code, "")
    assert words in end.err
    assert end.err.startswith("error: ")
    assert end.err.count("\n") == 1
    assert "secret" not in end.err


@pytest.mark.parametrize("command", ["tail", "pub"])
async def test_a_subject_that_no_stream_stores_is_said_at_once(command: str, folder: Path, nats_url: str) -> None:
    more = ("{}",) if command == "pub" else ()
    end = await tieline(command, "nobody.stores.this", *more, cwd=folder, url=nats_url)
    assert end.code == 1
    assert end.err.startswith("error: no stream stores 'nobody.stores.this'")


async def test_a_delay_that_no_stream_honours_is_refused(folder: Path, nats_url: str) -> None:
    told = await tieline("pub", "tool.call.crm", "{}", "--after", "30s", cwd=folder, url=nats_url)
    assert told.code == 1
    assert "TOOL_CALL takes no delayed messages" in told.err
