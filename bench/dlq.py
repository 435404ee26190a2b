"""The dead-letter desk with a full queue: how long the list takes, and how fast letters are sent again.

100,000 dead letters of ten agents and four causes, written as agents write them, are listed (counts by cause and the
newest twenty) and sent again, with their facts, each removed after it. Beside the redrive stands the bare work: the
same number of messages published one by one, as many at once as a page has.

    .venv/bin/python bench/dlq.py [--json] [--quick]
"""

import asyncio
import json
import os
import statistics
import time
from dataclasses import dataclass

import uvloop
from rounds import embedded_server, lines, show

from tieline import Bus, Conversation, Message, Pod, Settings, connect
from tieline.services.letters.reading import Selection, letters, listed
from tieline.services.letters.redriving import Order, redrive
from tieline.settings import ConnectionSettings
from tieline.wire.batches import store_together

AGENTS, CAUSES = 10, ("raised", "timeout", "invalid", "refused")
PAGE = 500
TRACEBACK = "Traceback (most recent call last):\n" + '  File "/app/pod.py", line 41, in booking\n' * 20


class Book(Message, subject="call.intent.book"):
    call_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what was measured, with which ``sync``."""

    sync: str
    name: str
    value: float
    unit: str


def desk() -> Pod:
    """A pod of ten agents; nobody runs them."""
    pod = Pod("bench")
    for number in range(AGENTS):

        @pod.agent(name=f"agent-{number}")
        async def handler(_: Book, __: Conversation) -> None: ...

    return pod


async def fill(bus: Bus, count: int) -> None:
    """Dead letters as the runtime writes them."""
    for start in range(0, count, PAGE):
        page = [letter(number) for number in range(start, min(start + PAGE, count))]
        refusal = await store_together(bus.connection, page)
        if refusal is not None:
            raise refusal


def letter(number: int) -> tuple[str, bytes, dict[str, str]]:
    """One of them."""
    agent, cause = f"agent-{number % AGENTS}", CAUSES[number % len(CAUSES)]
    tries = [
        {"n": n, "at": 1795416041.8, "by": "host:4711", "end": "raised", "reason": "no such house"} for n in range(5)
    ]
    told: dict[str, object] = {
        "cause": cause,
        "reason": "LookupError: no such house",
        "error": "LookupError",
        "traceback": TRACEBACK,
    }
    told |= {"agent": agent, "version": "1", "subject": "call.intent.book", "stream": "CALL_INTENT", "seq": number + 1}
    told |= {"origin": f"CALL_INTENT-{number + 1}-19a0000", "at": time.time(), "attempt": 5, "attempts": tries}
    headers = {
        "Nats-Msg-Id": os.urandom(11).hex(),
        "Tieline-Dead": json.dumps(told),
        "Tieline-Conversation": f"c{number}",
    }
    return f"DLQ.{agent}.{cause}.call.intent.book", b'{"callId":"c1","phone":"+12065550145"}', headers


async def singly(bus: Bus, count: int) -> float:
    """Messages a second, published one by one, a page at once."""
    began = time.perf_counter()
    for start in range(0, count, PAGE):
        ids = [f"bare{number}" for number in range(start, min(start + PAGE, count))]
        await asyncio.gather(*(bus.publisher.publish("call.intent.bare", b"{}", {"Nats-Msg-Id": one}) for one in ids))
    return count / (time.perf_counter() - began)


async def compare(sync: str, quick: bool) -> list[Row]:
    """One table."""
    count, bare = (10_000, 2_000) if quick else (100_000, 10_000)
    settings = Settings(audit=True)
    async with embedded_server(sync) as url:
        settings = Settings(connection=ConnectionSettings(servers=(url,)))
        async with connect(desk(), settings=settings) as bus:
            config = await roomy(bus)
            await fill(bus, count)
            await bus.connection.api("STREAM.UPDATE.DLQ", config)
            took = [await timed_list(bus, Selection()) for _ in range(5)]
            one = await timed_list(bus, Selection(agent="agent-3", cause="invalid", subject="call.intent.book"))
            conversation = await timed_list(bus, Selection(conversation="c77"))
            began = time.perf_counter()
            tally = await redrive(bus, letters(bus.connection, Selection()), Order(by="bench"))
            rate = tally.done / (time.perf_counter() - began)
            assert tally.done == count
            ordinary = await singly(bus, bare)
    return [
        Row(sync, f"list of {count:,}, counts and newest 20", statistics.median(took) * 1e3, "ms"),
        Row(sync, "the same of one agent and cause", one * 1e3, "ms"),
        Row(sync, "the same of one conversation (reads all)", conversation * 1e3, "ms"),
        Row(sync, "redrive, with facts and removal", rate, "letters/s"),
        Row(sync, "bare publishes, one by one", ordinary, "messages/s"),
    ]


async def timed_list(bus: Bus, selection: Selection) -> float:
    """Seconds."""
    began = time.perf_counter()
    await listed(bus.connection, selection, 20)
    return time.perf_counter() - began


async def roomy(bus: Bus) -> dict[str, object]:
    """DLQ with room for all of them, filled in batches; returns its configuration without those."""
    await bus.apply()
    config: dict[str, object] = (await bus.connection.api("STREAM.INFO.DLQ"))["config"] | {"max_bytes": -1}
    await bus.connection.api("STREAM.UPDATE.DLQ", config | {"allow_atomic": True})
    return config


def table(rows: list[Row]) -> str:
    cells = [(row.name, f"{row.value:,.0f} {row.unit}") for row in rows]
    return lines(f'Dead letters, server with sync="{rows[0].sync}"', ("", "time or rate *"), cells)


if __name__ == "__main__":
    uvloop.run(show(__doc__ or "", compare, lambda rows: table(list(rows))))
