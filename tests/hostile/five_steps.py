"""A pod whose handler has every kind of step, and a process of it that ends at one boundary between two of them.

    python five_steps.py URL FOLDER "before tool.call.crm" 9 booking

runs the agent ``booking`` and sends itself signal 9 when it is about to publish a call of the tool ``crm``.
"""

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel

from tieline import Bus, Conversation, Host, Limits, Message, Pod, Settings, ToolRun
from tieline.settings import ConnectionSettings, PublishSettings
from tieline.wire.connection import Connection, Received

__all__ = ["Booking", "Ledger", "Observed", "Viewing", "five_steps", "opened"]

_LIMITS = Limits(ack_wait=1.0, attempts=10, first_retry=0.05, longest_retry=0.2, drain=2.0)


class Booking(Message, subject="call.intent.booking"):
    call_id: str


class Quote(Message, subject="call.intent.quote"):
    call_id: str


class Price(Message, subject="call.intent.price"):
    call_id: str
    usd: int


class Booked(Message, subject="call.intent.booked"):
    call_id: str
    told: list[str]


class Viewing(Message, subject="call.intent.viewing"):
    call_id: str


class Basket(BaseModel):
    count: int = 0


class Ledger:
    """The world outside: a file that several processes write to."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.sqlite"
        with closing(self._open()) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT PRIMARY KEY)")
            database.execute("CREATE TABLE IF NOT EXISTS events (what TEXT)")

    def effect(self, key: str) -> None:
        """Done once for each key: the target honours it."""
        with closing(self._open()) as database, database:
            database.execute("INSERT OR IGNORE INTO effects VALUES (?)", (key,))

    def note(self, what: str) -> None:
        with closing(self._open()) as database, database:
            database.execute("INSERT INTO events VALUES (?)", (what,))

    def effects(self) -> int:
        with closing(self._open()) as database:
            return int(database.execute("SELECT count(*) FROM effects").fetchone()[0])

    def events(self, what: str) -> list[str]:
        """What was noted and begins with ``what``, in order."""
        with closing(self._open()) as database:
            return [row[0] for row in database.execute("SELECT what FROM events") if row[0].startswith(what)]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10.0)


def five_steps(ledger: Ledger, seen: Callable[[str], None] = lambda _: None) -> Pod:
    """The pod. ``seen`` is told when the tool ``crm`` is entered."""
    pod = Pod("five", limits=_LIMITS)

    @pod.tool(effect="once")
    async def crm(run: ToolRun, phone: str) -> str:
        seen("enter crm")
        ledger.effect(run.key)
        ledger.note("crm")
        return f"lead of {phone}"

    @pod.tool
    async def tally(number: int) -> int:
        ledger.note("tally")
        return number + 1

    @pod.agent
    async def booking(message: Booking, call: Conversation) -> None:
        async def written(lead: str) -> str:
            ledger.note("step")
            return f"note on {lead} by {os.getpid()}"

        lead = await call.tool(crm, "1")
        text = await call.step("write", written, lead)
        price = await call.ask(Quote(call_id=call.id), expects=Price)
        counted = await call.tool(tally, price.usd)
        basket = await call.state(Basket).update(lambda before: Basket(count=(before or Basket()).count + 1))
        told = [lead, text, str(counted), str(basket.count)]
        await call.publish(Booked(call_id=message.call_id, told=told))
        ledger.note(f"told {told}")

    @pod.agent
    async def viewing(message: Viewing, call: Conversation) -> None:
        await call.publish(Price(call_id=message.call_id, usd=1))
        ledger.note(f"viewed {await call.ask_human('Shall we?')}")

    @pod.agent
    async def quoter(message: Quote, call: Conversation) -> None:
        await call.reply(Price(call_id=message.call_id, usd=41))

    return pod


class Observed(Connection):
    """A connection that tells ``seen`` before and after each request, and before each message it only sends."""

    seen: Callable[[str], None]

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        wait: float | None = None,
    ) -> Received:
        self.seen(f"before {subject}")
        reply = await super().request(subject, payload, headers, wait)
        self.seen(f"after {subject}")
        return reply

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, reply: str | None = None
    ) -> None:
        self.seen(f"{'ack' if payload == b'+ACK' else 'send'} {subject}")
        await super().send(subject, payload, headers, reply)


async def opened(pod: Pod, url: str, seen: Callable[[str], None]) -> Bus:
    """A bus whose traffic ``seen`` sees. Close it."""
    settings = Settings(
        connection=ConnectionSettings(servers=(url,)), publish=PublishSettings(patience=20.0, ack_timeout=0.5)
    )
    connection = await Observed.open(settings.connection, "observed")
    assert isinstance(connection, Observed)
    connection.seen = seen
    return Bus(pod, settings, connection)


async def _main(url: str, folder: str, point: str, sign: str, *names: str) -> None:
    reached = False

    def seen(what: str) -> None:
        nonlocal reached
        if not reached and fnmatch(what, point):
            reached = True
            os.kill(os.getpid(), int(sign))

    pod = five_steps(Ledger(Path(folder)), seen)
    bus = await opened(pod, url, seen)
    await Host(bus, names).run()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
