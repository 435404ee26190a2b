"""A handler that blocks the event loop is named while it does."""

import asyncio
import logging
import time

import pytest
from support.messages import Book
from support.office import at_work, settings

from tieline import Conversation, Limits, Pod
from tieline.testing import Server, eventually


def _block() -> None:
    time.sleep(1.5)  # longer than the ack wait: what this test is about


async def test_a_handler_that_blocks_is_named_with_its_line(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pod, ended = Pod("office", limits=Limits(ack_wait=1)), []

    @pod.agent
    async def booking(message: Book, _: Conversation) -> None:
        if message.call_id == "blocks":
            _block()
        else:
            await asyncio.sleep(0.01)
        ended.append(message.call_id)

    async with at_work(pod, settings(nats_server.url), "booking") as office:
        await office.bus.publish(Book(call_id="fine"))
        await eventually(lambda: ended, what="a handler that does not block")
        assert "event loop" not in caplog.text
        await office.bus.publish(Book(call_id="blocks"))
        await eventually(lambda: "blocked the event loop" in caplog.text, what="the log line about its end")
    lines = [record.getMessage() for record in caplog.records if "event loop" in record.getMessage()]
    during = next(line for line in lines if "blocks the event loop" in line)
    assert during.startswith("booking [blocks] blocks the event loop for ")
    assert "test_loop_watch.py:" in during
    assert "asyncio.to_thread" in during
    assert "in _block" in during
    assert all(record.levelno == logging.ERROR for record in caplog.records if "event loop" in record.getMessage())
