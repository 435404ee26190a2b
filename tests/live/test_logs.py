"""The log: the first failure with its traceback, one line for each retry and dead letter, and nobody's secrets."""

import json
import logging
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE

import pytest
from support.office import QUICK, at_work, dead_letters, settings

from tieline import BadSettings, Conversation, Message, Pod, Settings
from tieline.testing import Server, eventually


class Call(Message, subject="call.intent.call", redact=("phone",)):
    call_id: str
    phone: str


async def test_a_failing_handler_is_seen_at_once(nats_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    pod = Pod("office", limits=QUICK)

    @pod.agent
    async def booking(message: Call, _: Conversation) -> None:
        raise ValueError(f"nobody answers at {message.phone}")

    with caplog.at_level(logging.INFO, "tieline"):
        async with at_work(pod, settings(nats_server.url), "booking") as office:
            await office.bus.publish(Call(call_id="c1", phone="+18453884261"))
            await eventually(lambda: dead_letters(office.bus), what="the dead letter")
    lines = [record.getMessage() for record in caplog.records if record.name == "tieline.settle"]
    first, *others = lines
    assert first.startswith("booking [c1] attempt 1 of 5 failed, next in ")
    assert "ValueError: nobody answers at (redacted)" in first
    assert "Traceback" in first
    assert "in booking" in first
    assert [line.split(",")[0].split(":")[0] for line in others] == [
        "booking [c1] attempt 2 of 5 failed",
        "booking [c1] attempt 3 of 5 failed",
        "booking [c1] attempt 4 of 5 failed",
        "booking [c1] dead letter after 5 attempts",
    ]
    assert all(len(line.splitlines()) == 1 for line in others)
    assert "8453884261" not in caplog.text


_LOGS = """
import logging, sys
from tieline.services.logs import configure_logs
from tieline.settings import Settings
configure_logs(Settings.from_environment(), "booking")
logging.getLogger("httpx").info("GET https://insurer.example/policies/4711")
logging.getLogger("tieline.debugging").debug("in detail")
try:
    raise ValueError("boom")
except ValueError:
    logging.getLogger("tieline.settle").warning("attempt %d failed", 1, exc_info=True)
"""


async def logged(**variables: str) -> str:
    process = await create_subprocess_exec(sys.executable, "-c", _LOGS, stderr=PIPE, env=variables)
    _, said = await process.communicate()
    assert process.returncode == 0
    return said.decode()


async def test_only_our_own_loggers_are_configured() -> None:
    said = await logged()
    assert "WARNING booking attempt 1 failed" in said
    assert "ValueError: boom" in said
    assert "4711" not in said
    assert "in detail" not in said
    assert "in detail" in await logged(TIELINE_LOG="debug")
    assert await logged(TIELINE_LOG="error") == ""


async def test_json_is_one_object_a_line() -> None:
    said = [json.loads(line) for line in (await logged(TIELINE_LOG="debug", TIELINE_LOG_FORMAT="json")).splitlines()]
    assert [(line["level"], line["message"]) for line in said] == [
        ("debug", "in detail"),
        ("warning", "attempt 1 failed"),
    ]
    assert {line["process"] for line in said} == {"booking"}
    assert "ValueError: boom" in said[1]["traceback"]


@pytest.mark.parametrize(("variable", "value"), [("TIELINE_LOG", "loud"), ("TIELINE_LOG_FORMAT", "xml")])
def test_what_is_not_a_level_or_format_is_refused(variable: str, value: str) -> None:
    with pytest.raises(BadSettings, match=variable):
        Settings.from_environment({variable: value})
