"""Feeds leave no consumers behind on the server, however they end and whoever reads them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from command_line import SHOP, started, tieline
from scraping import page, serving
from support.guarded import address, guarded_server
from support.messages import Book
from support.office import Office, at_work, settings

from tieline import Bus, Conversation, Pod, Refuse, connect
from tieline.deploy.permissions import as_conf, grants_of, permissions_of
from tieline.services.conversations import conversations
from tieline.services.letters.reading import Selection, listed
from tieline.services.pager import Pager
from tieline.services.timeline import timeline
from tieline.testing import Cluster, Proxy, Server, eventually
from tieline.wire import topology
from tieline.wire.connection import Connection
from tieline.wire.feed import Feed, pending

WITHIN = 2.0  # seconds


async def feed_consumers(connection: Connection) -> list[str]:
    """The consumers of feeds on all streams."""
    found = []
    for stream in (await connection.api("STREAM.NAMES")).get("streams") or []:
        names = (await connection.api(f"CONSUMER.NAMES.{stream}")).get("consumers") or []
        found += [name for name in names if name.startswith("feed-")]
    return found


async def none_left(connection: Connection) -> None:
    async def none() -> bool:
        return not await feed_consumers(connection)

    await eventually(none, what="no consumer of a feed", within=WITHIN)


async def filled(bus: Bus, messages: int = 3) -> None:
    await topology.apply(bus.connection, bus.pod)
    for number in range(messages):
        await bus.publish(Book(call_id=f"c{number}"))


def books(bus: Bus, *, to_end: bool = False) -> Feed:
    return Feed(bus.connection, "CALL_INTENT", ["call.intent.book"], start=1, to_end=to_end)


async def to_the_end(bus: Bus) -> None:
    assert len([one async for one in books(bus, to_end=True)]) == 3


async def left_by_break(bus: Bus) -> None:
    async for _ in books(bus):
        break


async def left_by_exception(bus: Bus) -> None:
    async def read() -> None:
        async for _ in books(bus):
            raise LookupError("in the middle")

    with pytest.raises(LookupError, match="in the middle"):
        await read()


async def cancelled(bus: Bus) -> None:
    async def read() -> None:
        async for _ in books(bus):
            pass

    task = asyncio.create_task(read())
    await eventually(lambda: feed_consumers(bus.connection), what="the consumer")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_while_it_is_created(bus: Bus) -> None:
    for rounds in range(1, 12):
        reading = asyncio.ensure_future(anext(aiter(books(bus))))
        for _ in range(rounds):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])


async def closed(bus: Bus) -> None:
    deliveries = aiter(books(bus))
    await anext(deliveries)
    await deliveries.aclose()  # type: ignore[attr-defined]


async def only_counted(bus: Bus) -> None:
    assert (await pending(bus.connection, "CALL_INTENT", "call.intent.book"))[0] == 3


ENDS = (to_the_end, left_by_break, left_by_exception, cancelled, cancelled_while_it_is_created, closed, only_counted)


@pytest.mark.parametrize("end", ENDS)
async def test_a_feed_that_ended_has_no_consumer(nats_server: Server, end: Callable[[Bus], Awaitable[None]]) -> None:
    async with (
        connect(Pod("office"), settings=settings(nats_server.url)) as watcher,
        connect(Pod("office"), settings=settings(nats_server.url)) as bus,
    ):
        await filled(bus)
        await end(bus)
        await none_left(watcher.connection)
        assert not bus.connection.before_close


async def test_closing_the_connection_deletes_the_consumers_of_feeds_that_still_read(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as watcher:
        async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
            await filled(bus)
            feeds = [aiter(books(bus)) for _ in range(3)]
            for feed in feeds:
                await anext(feed)
            assert len(await feed_consumers(watcher.connection)) == 3
        await none_left(watcher.connection)


async def test_the_deletion_survives_a_lost_connection(nats_server: Server) -> None:
    async with (
        connect(Pod("office"), settings=settings(nats_server.url)) as watcher,
        Proxy(nats_server.url) as proxy,
        connect(Pod("office"), settings=settings(proxy.url)) as bus,
    ):
        await filled(bus)
        deliveries = aiter(books(bus))
        await anext(deliveries)
        proxy.cut()
        await deliveries.aclose()  # type: ignore[attr-defined]
        assert len(await feed_consumers(watcher.connection)) == 1, "nobody could delete it"
        proxy.heal()
        await eventually(lambda: bus.connection.connected, what="the connection")
        await eventually(lambda: _none(watcher), what="the deletion")


async def _none(watcher: Bus) -> bool:
    return not await feed_consumers(watcher.connection)


async def test_a_feed_in_a_cluster_leaves_none_of_those_that_it_made_on_the_wrong_servers(
    nats_cluster: Cluster,
) -> None:
    async with connect(Pod("office"), settings=settings(nats_cluster.urls[0])) as bus:
        await filled(bus)
        for _ in range(5):
            await to_the_end(bus)
        await none_left(bus.connection)


async def test_a_reader_that_may_not_delete_consumers_leaves_none_and_breaks_no_rule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Pod("office")
    users = [
        '{ user: "op", password: "pw", permissions { publish: ">", subscribe: ">" } }',
        f'{{ user: "r", password: "pw", {as_conf(permissions_of(grants_of(pod, ["reader"]), "_INBOX_r"))} }}',
    ]
    with guarded_server(tmp_path / "nats", ", ".join(users)) as data:
        at = await eventually(lambda: address(data), what="the server")
        async with (
            connect(pod, settings=settings(f"nats://op:pw@{at}")) as operator,
            connect(pod, settings=settings(f"nats://r:pw@{at}", inbox_prefix="_INBOX_r")) as reader,
        ):
            await filled(operator)
            for end in ENDS:
                await end(reader)
                await none_left(operator.connection)
    assert "ermissions" not in caplog.text


async def conversations_and_a_timeline(work: Office) -> None:
    assert await conversations(work.bus.connection)
    assert await timeline(work.bus.connection, "c1") is not None


async def a_list_of_dead_letters(work: Office) -> None:
    assert (await listed(work.bus.connection, Selection(), 10)).total == 2


async def a_look_of_the_pager(work: Office) -> None:
    pager = Pager(work.bus)
    assert await pager.look() == 1
    await pager.close()


async def a_scrape_of_metrics(work: Office) -> None:
    async with serving(work.bus) as url:
        assert "tieline_dead_letters" in await page(url)
        following = len(await feed_consumers(work.bus.connection))
        await page(url)
        await eventually(lambda: _count(work.bus, following), what="what the scrape made to be gone", within=WITHIN)


async def _dead(bus: Bus, wanted: int) -> bool:
    return [one.state for one in await conversations(bus.connection)] == ["dead"] * wanted


async def _count(bus: Bus, wanted: int) -> bool:
    return len(await feed_consumers(bus.connection)) <= wanted


LOOKS = (conversations_and_a_timeline, a_list_of_dead_letters, a_look_of_the_pager, a_scrape_of_metrics)
COMMANDS = (
    ("calls", "ls"),
    ("calls", "show", "c1"),
    ("dlq", "ls"),
    ("tail", ">", "--from", "start", "--count", "2"),
    ("report",),
    ("report", "shop", "--sum"),
    ("doctor",),
    ("backup", "shop", "--to", "backup"),
)


async def test_whoever_looks_leaves_no_consumer(nats_server: Server, tmp_path: Path) -> None:
    pod = Pod("shop")

    @pod.agent
    async def booking(_: Book, call: Conversation) -> Refuse:
        return Refuse(call.id)

    (tmp_path / "shop.py").write_text(SHOP)
    async with at_work(pod, settings(nats_server.url, audit=True)) as work:
        for number in (1, 2):
            await work.bus.publish(Book(call_id=f"c{number}"))
        await eventually(lambda: _dead(work.bus, 2), what="two dead letters and their facts")
        for look in LOOKS:
            await look(work)
            await none_left(work.bus.connection)
        for command in COMMANDS:
            ended = await tieline(*command, cwd=tmp_path, url=nats_server.url)
            assert ended.code in (0, 3), ended.err  # 3: the doctor has seen the dead letters
            await none_left(work.bus.connection)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
async def test_a_command_that_is_stopped_leaves_no_consumer(
    nats_server: Server, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:
        await filled(bus)
        async with started("tail", ">", "--from", "start", "--json", cwd=tmp_path, url=nats_server.url) as program:
            await program.line(subject="call.intent.book")
            program.process.send_signal(signum)
            ended = await program.ended()
        await none_left(bus.connection)
        assert ended.code == code
        assert ended.err == ""
