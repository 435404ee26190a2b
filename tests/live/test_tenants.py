"""Tenants on a real server in operator mode: apart from one another, limited, revoked at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import started, tieline
from support.messages import Book
from support.office import QUICK
from support.tenants import bus_of, served

from tieline import Bus, Conversation, Host, NotAccepted, Pod, Settings, Stream, connect
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import grants_of
from tieline.errors import BadSettings, Unreachable
from tieline.services.accountant import take
from tieline.settings import ConnectionSettings
from tieline.testing import Server, eventually
from tieline.wire.connection import ApiError


def office(handled: list[str]) -> Pod:
    pod = Pod("office", limits=replace(QUICK, ack_wait=1.0))

    @pod.tool
    async def crm(name: str) -> str:
        return name

    @pod.agent(publishes=(), calls=(crm,))
    async def booking(intent: Book, call: Conversation) -> None:
        handled.append(await call.tool(crm, intent.call_id))

    return pod


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path / "keys")
    for name in ("acme", "beta"):
        tenants.create(made, name, Limits())
    return made


@asynccontextmanager
async def at_work(server: Server, keys: Keys, tenant: str, pod: Pod) -> AsyncIterator[Bus]:
    """The whole pod of a tenant, each name with credentials of its own; the operator's bus."""
    async with (
        bus_of(server, keys, tenant, pod, "operator") as operator,
        bus_of(server, keys, tenant, pod, "booking") as agent,
        bus_of(server, keys, tenant, pod, "tools") as tools,
    ):
        await operator.apply()
        hosts = [Host(agent, ["booking"]), Host(tools, ["tools"])]
        work = [asyncio.create_task(host.run()) for host in hosts]
        yield operator
        for host in hosts:
            host.stop()
        await asyncio.gather(*work)


async def test_two_tenants_run_the_same_pod_and_see_nothing_of_each_other(keys: Keys, tmp_path: Path) -> None:
    ours, theirs = list[str](), list[str]()
    async with (
        served(keys, tmp_path) as server,
        at_work(server, keys, "acme", office(ours)) as acme,
        at_work(server, keys, "beta", office(theirs)) as beta,
    ):
        for number in range(5):
            await acme.publish(Book(call_id=f"a{number}"))
        await beta.publish(Book(call_id="b0"))
        await eventually(lambda: len(ours) == 5 and theirs, what="all of them")
        await eventually(lambda: _is_quiet(acme), what="the sum")
        stored = [one.payload async for one in beta.feed("call.intent.book", start=1, to_end=True)]
    assert (sorted(ours), theirs) == ([f"a{number}" for number in range(5)], ["b0"])
    assert len(stored) == 1


async def _is_quiet(bus: Bus) -> bool:
    return all(row.holds and not row.pending for row in await take(bus))


async def test_a_tenant_that_is_made_while_the_server_runs(keys: Keys, tmp_path: Path) -> None:
    handled: list[str] = []
    async with served(keys, tmp_path) as server:
        tenants.create(keys, "gamma", Limits())
        [told] = await tenants.push(keys, ConnectionSettings(servers=(server.url,)), ["gamma"])
        assert told.server == "tieline"
        async with at_work(server, keys, "gamma", office(handled)) as gamma:
            await gamma.publish(Book(call_id="c1"))
            await eventually(lambda: handled, what="the work")
        server.kill()
        await server.restart()
        async with bus_of(server, keys, "gamma", office([]), "operator") as gamma:
            assert len([one async for one in gamma.feed("call.intent.book", start=1, to_end=True)]) == 1


async def test_a_tenant_at_its_limits_is_told_and_another_works_on(keys: Keys, tmp_path: Path) -> None:
    small = Pod("small", streams=(Stream(name="BULK", subjects=("bulk.*",), max_bytes=None),))
    handled: list[str] = []
    async with served(keys, tmp_path) as server, at_work(server, keys, "beta", office(handled)) as beta:
        where = ConnectionSettings(servers=(server.url,))
        async with bus_of(server, keys, "acme", small, "operator") as acme:
            body = {"name": "BULK", "subjects": ["bulk.*"], "storage": "file", "discard": "new"}
            await acme.connection.api("STREAM.CREATE.BULK", body)
            tenants.create(keys, "acme", Limits(storage=200_000, streams=1, consumers=1, connections=2))
            await tenants.push(keys, where, ["acme"])
            with pytest.raises(NotAccepted, match="resource limits exceeded for account"):
                await _fill(acme)
            with pytest.raises(ApiError, match="maximum number of streams reached"):
                await acme.connection.api("STREAM.CREATE.MORE", {"name": "MORE", "subjects": ["more"]})
            async with bus_of(server, keys, "acme", small, "reader", "second"):
                with pytest.raises(Unreachable, match=r"(?i)maximum.*connections"):
                    async with bus_of(server, keys, "acme", small, "reader", "third"):
                        pass
            await beta.publish(Book(call_id="b1"))
            await eventually(lambda: handled == ["b1"], what="the other tenant's work")


async def _fill(bus: Bus) -> None:
    for number in range(30):
        await bus.publisher.publish("bulk.x", b"x" * 20_000, {"Nats-Msg-Id": f"{number}"})


async def test_who_is_revoked_is_cut_off_and_its_work_done_by_others(keys: Keys, tmp_path: Path) -> None:
    held, done = list[str](), list[str]()
    slow = Pod("office", limits=replace(QUICK, ack_wait=1.0))

    @slow.agent(publishes=())
    async def booking(intent: Book, _: Conversation) -> None:
        held.append(intent.call_id)
        if len(held) == 1:
            await asyncio.Event().wait()
        done.append(intent.call_id)

    async with served(keys, tmp_path) as server, bus_of(server, keys, "acme", slow, "operator") as operator:
        await operator.apply()
        async with bus_of(server, keys, "acme", slow, "booking", "leaving") as leaving:
            first = asyncio.create_task(Host(leaving, ["booking"]).run())
            await operator.publish(Book(call_id="c1"))
            await eventually(lambda: held, what="the first delivery")
            tenants.revoke(keys, "acme", "leaving")
            await tenants.push(keys, operator.settings.connection, ["acme"])
            await eventually(lambda: not leaving.connection.connected, what="the end of the connection")
            async with bus_of(server, keys, "acme", slow, "booking", "staying") as staying:
                host = Host(staying, ["booking"])
                work = asyncio.create_task(host.run())
                await eventually(lambda: done == ["c1"], what="the work, by another")
                host.stop()
                await work
            await eventually(first.done, what="the end of who was revoked", within=60)
            with pytest.raises(Unreachable, match=r"does not take the credentials any more .*leaving"):
                first.result()


async def test_a_rotation_ends_old_credentials_and_not_new_ones(keys: Keys, tmp_path: Path) -> None:
    pod = office([])
    async with served(keys, tmp_path) as server:
        where = ConnectionSettings(servers=(server.url,))
        async with bus_of(server, keys, "acme", pod, "operator", "old") as old:
            tenants.rotate(keys, "acme", finish=False)
            await tenants.push(keys, where, ["acme"])
            async with bus_of(server, keys, "acme", pod, "operator", "new") as new:
                assert old.connection.connected
                tenants.rotate(keys, "acme", finish=True)
                await tenants.push(keys, where, ["acme"])
                await eventually(lambda: not old.connection.connected, what="the end of the old one")
                await new.apply()


async def test_credentials_that_have_ended_are_named(keys: Keys, tmp_path: Path) -> None:
    pod = office([])
    async with served(keys, tmp_path) as server:
        path = keys.folder / "late.creds"
        keys.write_credentials(path, tenants.issue(keys, "acme", "late", grants_of(pod, ["reader"]), days=-1))
        settings = Settings(connection=ConnectionSettings(servers=(server.url,), credentials=path))
        with pytest.raises(BadSettings, match=r"late\.creds.* of late ended .*tieline creds"):
            async with connect(pod, settings=settings):
                pass


async def test_a_server_without_tenants_says_so(keys: Keys, nats_url: str) -> None:
    with pytest.raises(BadSettings, match="not in operator mode"):
        await tenants.push(keys, ConnectionSettings(servers=(nats_url,)), ["acme"])


async def test_up_runs_a_pod_as_a_tenant_and_lets_in_no_one_else(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_POD)
    where = ("--port", "0", "--data", "d", "--keys", "k", "--json")
    for _ in range(2):  # the second start finds the keys, the streams and the users of the first
        async with started("up", "shop", "--tenant", "acme", *where, cwd=tmp_path) as up:
            url = (await up.line(event="ready"))["url"]
            with pytest.raises(Unreachable, match=r"(?i)authorization"):
                async with connect(Pod("shop"), settings=Settings(connection=ConnectionSettings(servers=(url,)))):
                    pass
            credentials = tmp_path / "k" / "creds" / "acme" / "shop-operator.creds"
            connection = ConnectionSettings(servers=(url,), credentials=credentials)
            async with connect(Pod("shop"), settings=Settings(connection=connection)) as bus:
                await bus.publish(Book(call_id="c1"))
                await eventually(lambda: _is_done(bus), what="the work")
    assert len(Keys(tmp_path / "k").tenant("acme").users) == 4


async def _is_done(bus: Bus) -> bool:
    info = await bus.connection.api("CONSUMER.INFO.CALL_INTENT.booking")
    return bool(info["delivered"]["consumer_seq"] and info["num_pending"] == info["num_ack_pending"] == 0)


_POD = """
from tieline import Conversation, Message, Pod

pod = Pod("shop")

class Book(Message, subject="call.intent.book"):
    call_id: str

@pod.agent(publishes=())
async def booking(book: Book, call: Conversation) -> None: ...
"""


async def test_the_commands_make_push_show_and_revoke(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_POD)
    made = await tieline("tenant", "create", "acme", "--storage", "1GB", "--offline", "--keys", "k", cwd=tmp_path)
    assert (made.code, made.out) == (0, "acme; no server was told (tieline tenant push)\n")
    keys = Keys(tmp_path / "k")
    async with served(keys, tmp_path) as server:
        said = await tieline("tenant", "create", "beta", "--keys", "k", cwd=tmp_path, url=server.url)
        assert said.out == "beta; server tieline knows\n"
        said = await tieline("creds", "shop", "booking", "--tenant", "beta", "--keys", "k", "--json", cwd=tmp_path)
        assert said.json == {"file": "k/creds/beta/booking.creds", "name": "booking", "tenant": "beta"}
        said = await tieline("tenant", "ls", "--keys", "k", "--json", cwd=tmp_path)
        told = said.json
        assert [(one["name"], one["limits"]["storage"], len(one["users"])) for one in told] == [
            ("acme", 10**9, 0),
            ("beta", -1, 1),
        ]
        said = await tieline("tenant", "revoke", "beta", "booking", "--keys", "k", cwd=tmp_path, url=server.url)
        assert said.out == "beta: 1 credentials of booking revoked; server tieline knows\n"
        assert (await tieline("tenant", "rm", "beta", "--keys", "k", cwd=tmp_path, url=server.url)).code == 2
        said = await tieline("tenant", "rm", "beta", "--yes", "--keys", "k", cwd=tmp_path, url=server.url)
        assert said.code == 0
        assert [one.name for one in keys.tenants()] == ["acme"]
    said = await tieline("creds", "shop", "booking", "--explain", cwd=tmp_path)
    assert "pulls its messages from CALL_INTENT" in said.out
    said = await tieline("creds", "shop", "booking", "--conf", cwd=tmp_path)
    assert '"$JS.API.CONSUMER.MSG.NEXT.CALL_INTENT.booking"' in said.out
    assert (await tieline("creds", "shop", "booking", cwd=tmp_path)).code == 2
