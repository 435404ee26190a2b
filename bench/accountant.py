"""How many messages a second the accountant counts: each is read from its stream, and its fact from the audit.

The messages and the facts that settle them are stored before; counted is until the sum of all of them holds. In its
own process it has one of the cores; the server has the other.

    .venv/bin/python bench/accountant.py [--json] [--quick]
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched

import uvloop
from rounds import embedded_server, lines, show

from tieline import Bus, Conversation, Message, Pod, Settings, connect
from tieline.services.accountant import take
from tieline.settings import ConnectionSettings
from tieline.wire.batches import store_together

WANTED = 20_000  # messages a second
PAGE = 500


class Book(Message, subject="call.intent.book"):
    call_id: str


pod = Pod("bench")


@pod.agent
async def booking(_: Book, __: Conversation) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One server's figures."""

    sync: str
    messages: int
    per_second: float
    cpu: float  # microseconds of this process for a message and its fact


async def main() -> None:
    await show(__doc__ or "", compare, table)


async def compare(sync: str, quick: bool) -> list[Row]:
    """Fill a server, then count."""
    count = 20_000 if quick else 100_000
    async with embedded_server(sync) as url:
        settings = Settings(connection=ConnectionSettings(servers=(url,)), audit=False)
        async with connect(pod, settings=settings) as bus:
            await bus.apply()
            await fill(bus, count)
            began, worked = time.perf_counter(), time.process_time()
            rows = await take(bus)
            took, work = time.perf_counter() - began, time.process_time() - worked
        [row] = [row for row in rows if row.agent == "booking"]
        if (row.published, row.done) != (count, count):
            raise SystemExit(f"the sum of {count:,} messages is wrong: {row}")
    return [Row(sync, count, count / took, work / count * 1e6)]


async def fill(bus: Bus, count: int) -> None:
    """Messages as the bus stores them, and the fact that each is done."""
    for numbers in batched(range(1, count + 1), PAGE, strict=False):
        messages = [("call.intent.book", body(number), about(number)) for number in numbers]
        await asyncio.gather(*(bus.connection.request(*message) for message in messages))
    first = int((await bus.connection.api("STREAM.INFO.CALL_INTENT"))["state"]["first_seq"])
    for numbers in batched(range(first, first + count), PAGE, strict=False):
        refusal = await store_together(bus.connection, [settled(number) for number in numbers])
        if refusal is not None:
            raise refusal


def body(number: int) -> bytes:
    return json.dumps({"callId": f"c{number}"}).encode()


def about(number: int) -> dict[str, str]:
    return {"Nats-Msg-Id": f"m{number}", "Tieline-Conversation": f"c{number}"}


def settled(seq: int) -> tuple[str, bytes, dict[str, str]]:
    """What an agent tells of a message that it handled."""
    fact = {
        "fact": "settled",
        "at": time.time(),
        "callId": f"c{seq}",
        "by": "booking",
        "subject": "call.intent.book",
        "stream": "CALL_INTENT",
        "seq": seq,
        "origin": f"CALL_INTENT-{seq}-19ab",
        "attempt": 1,
        "outcome": "done",
        "reason": "",
        "took": 0.001,
    }
    return f"call.audit.c{seq}", json.dumps(fact).encode(), {}


def table(rows: Sequence[Row]) -> str:
    """For people."""
    shown = [
        (
            f"{row.messages:,} messages",
            f"{row.per_second:,.0f}/s",
            f"{row.per_second / WANTED:.2f}",
            f"{row.cpu:.0f} us",
        )
        for row in rows
    ]
    head = ("counted", "messages *", f"of {WANTED:,}/s", "CPU *")
    return lines(f'The accountant, server with sync="{rows[0].sync}"', head, shown)


if __name__ == "__main__":
    uvloop.run(main())
