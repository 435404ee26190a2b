"""Adding and renaming agents: what a new consumer is given, and that a rename repeats nothing."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import tieline
from support.messages import Book, Look
from support.office import at_work, consumer_info, dead_letters, settings, stored

from tieline import Bus, Conversation, Limits, NotApplied, Pod, Refuse, ToolRun, connect
from tieline.agent import Start
from tieline.deploy.permissions import grants_of
from tieline.errors import BadDeclaration
from tieline.outcomes import Outcome
from tieline.services import accountant
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.services.supervisor import processes_of
from tieline.testing import Server, eventually
from tieline.wire import topology
from tieline.wire.topology import Change

_LIMITS = Limits(first_retry="50ms", longest_retry="500ms", drain="1s", ack_wait="5s", concurrency=32)


def one_agent(seen: list[str], name: str = "looking", start: Start = "stored") -> Pod:
    pod = Pod("office", limits=_LIMITS)

    @pod.agent(name=name, start=start)
    async def looking(message: Look, _: Conversation) -> None:
        seen.append(message.call_id)

    return pod


async def published(bus: Bus, *calls: str) -> None:
    await asyncio.gather(*(bus.publish(Look(call_id=call)) for call in calls))


async def new_consumer(bus: Bus, pod: Pod) -> Change:
    """What the plan says of the consumer that would be created."""
    changes = await topology.plan(bus.connection, pod)
    created = [one for one in changes if one.name.startswith("CALL_INTENT/") and one.action == "create"]
    [change] = [one for one in created if not one.name.endswith("-resume")]
    return change


# -- adding ------------------------------------------------------------------------------------------------------------


async def test_the_plan_counts_what_a_new_agent_will_be_given_and_says_how_to_avoid_it(nats_url: str) -> None:
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, Pod("office"))
        await published(bus, *(f"c{number}" for number in range(25)))
        change = await new_consumer(bus, one_agent([], "looking"))
        assert change.stored == 25
        assert 'it will be given 25 stored messages; declare @pod.agent(start="new")' in change.why
        change = await new_consumer(bus, one_agent([], "watching", start="new"))
        assert (change.stored, change.why) == (0, "")
        told: list[Change] = []
        made = await topology.apply(bus.connection, one_agent([]), before_replay=told.append)
        assert [(change.name, change.stored) for change in told] == [("CALL_INTENT/looking", 25)]
        assert [change.stored for change in made if change.name == "CALL_INTENT/looking"] == [25]
        await eventually(lambda: names_of_consumers(bus, {"looking"}), what="no counting consumer is left")


async def test_start_new_gets_nothing_old_and_everything_since(nats_url: str) -> None:
    seen: list[str] = []
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, Pod("office"))
        await published(bus, *(f"old{number}" for number in range(25)))
    pod = one_agent(seen, start="new")
    async with connect(pod, settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, pod)
        await published(bus, "meanwhile")  # before any process of the agent runs
    async with at_work(pod, settings(nats_url, audit=True)) as office:
        await published(office.bus, "later")
        await eventually(lambda: len(seen) == 2, what="what was published since")
        info = await consumer_info(office.bus, "CALL_INTENT", "looking")
        assert (info["num_pending"], info["config"]["opt_start_seq"]) == (0, 26)
        await office.bus.written()
        [row] = [row for row in await accountant.take_settled(office.bus) if row.agent == "looking"]
        assert (row.published, row.done, row.pending, row.unaccounted) == (2, 2, 0, 0), "what is older is not its own"
    assert sorted(seen) == ["later", "meanwhile"]


async def test_start_at_a_time(nats_url: str) -> None:
    seen: list[str] = []
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, Pod("office"))
        await published(bus, *(f"old{number}" for number in range(5)))
        since = datetime.now(UTC)  # the server's clock is ours, and the publishes above are stored
        await published(bus, *(f"new{number}" for number in range(3)))
        pod = one_agent(seen, start=since)
        assert (await new_consumer(bus, pod)).stored == 3
    async with at_work(pod, nats_url):
        await eventually(lambda: len(seen) == 3, what="what was stored since")
    assert sorted(seen) == ["new0", "new1", "new2"]


async def test_where_a_consumer_began_is_no_difference_once_it_exists(nats_url: str) -> None:
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, one_agent([], start="new"))
        before = await consumer_info(bus, "CALL_INTENT", "looking")
        for start in ("stored", "new", datetime.now(UTC)):
            assert await topology.plan(bus.connection, one_agent([], start=start)) == []
            assert await topology.apply(bus.connection, one_agent([], start=start)) == []
        assert (await consumer_info(bus, "CALL_INTENT", "looking"))["config"] == before["config"]


# -- renaming ----------------------------------------------------------------------------------------------------------


class Desk:
    """The outside world of a booking agent, shared by its versions: which effects happened, and what is held up."""

    def __init__(self) -> None:
        self.effects: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.is_closed = True
        self.go = asyncio.Event()

    def pod(self, version: str, name: str, formerly: str | None = None) -> Pod:
        pod = Pod("office", version=version, limits=_LIMITS)

        @pod.tool(effect="once")
        async def crm(_: ToolRun, phone: str) -> str:
            self.effects[phone] += 1
            return phone

        @pod.agent(name=name, formerly=formerly)
        async def booking(message: Book, call: Conversation) -> Outcome | None:
            await call.tool(crm, message.phone)
            kind = message.phone.partition("-")[0]
            if kind == "ask":
                await call.ask_human("May we?", expects=bool)
            elif kind == "hold":
                await self.go.wait()
            elif kind == "dead" and self.is_closed:
                return Refuse("we are closed")
            self.finished[message.phone] += 1
            return None

        return pod


def phones(kind: str, count: int, first: int = 0) -> list[str]:
    return [f"{kind}-{number}" for number in range(first, first + count)]


async def booked(bus: Bus, wanted: list[str]) -> None:
    room = asyncio.Semaphore(64)

    async def one(phone: str) -> None:
        async with room:
            await bus.publish(Book(call_id=phone, phone=phone))

    await asyncio.gather(*map(one, wanted))


async def answer_all(bus: Bus) -> None:
    for asked in await stored(bus, "step.*.*.question.*"):
        await bus.journal.write(asked.subject.replace(".question.", ".human."), {"ok": True, "value": True})


async def test_a_rename_takes_over_what_is_done_in_flight_parked_and_dead_and_repeats_nothing(
    nats_server: Server,
) -> None:
    desk = Desk()
    first = [*phones("plain", 400), *phones("ask", 10), *phones("dead", 10), *phones("hold", 5)]
    later = phones("plain", 100, first=400)
    async with AsyncExitStack() as stack:
        async with at_work(desk.pod("1", "booking"), nats_server.url) as old:
            await booked(old.bus, first)
            await eventually(lambda: len(desk.finished) == 400, what="the plain ones are done", within=60)
            await eventually(
                lambda: stored_count(old.bus, "step.booking.*.park.*", 10), what="the asking ones park", within=30
            )
            await eventually(lambda: stored_count(old.bus, "DLQ.>", 10), what="the dead letters")
            await eventually(lambda: len(desk.effects) == len(first), what="the held ones run")

            renamed = desk.pod("2", "viewing-booking", formerly="booking")
            plan = await topology.plan(old.bus.connection, renamed)
            assert {change.action for change in plan} == {"update"}, plan
            new = await stack.enter_async_context(at_work(renamed, nats_server.url))
            await booked(new.bus, later)  # the old version still runs beside the new one
            await eventually(lambda: len(desk.finished) == 500, what="both versions at work", within=30)
            desk.go.set()  # the old version finishes or hands back what it holds
        await eventually(lambda: len(desk.finished) == 505, what="what was in flight", within=30)
        await answer_all(new.bus)
        await eventually(lambda: len(desk.finished) == 515, what="what was parked", within=30)
        desk.is_closed = False
        tally = await redrive(new.bus, letters(new.bus.connection, Selection()), Order(by="ada"))
        assert tally.done == 10
        await eventually(lambda: len(desk.finished) == 525, what="what was dead", within=30)
        await eventually(lambda: names_of_consumers(new.bus, {"booking"}), what="one consumer, under the first name")
        assert await topology.plan(new.bus.connection, renamed) == []
        assert await dead_letters(new.bus) == []
    assert desk.effects == Counter([*first, *later])
    assert {phone: count for phone, count in desk.finished.items() if count > 1 and "hold" not in phone} == {}


async def names_of_consumers(bus: Bus, expected: set[str]) -> bool:
    infos = await topology.consumer_infos(bus.connection, "CALL_INTENT")
    return {info["name"].removesuffix("-resume") for info in infos} == expected


async def stored_count(bus: Bus, subject: str, count: int) -> bool:
    return len(await stored(bus, subject)) >= count


async def test_a_rename_without_formerly_is_announced_with_the_name_that_would_avoid_it(nats_url: str) -> None:
    desk = Desk()
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, desk.pod("1", "booking"))
        await booked(bus, phones("plain", 7))
        change = await new_consumer(bus, desk.pod("2", "viewing-booking"))
        assert change.stored == 7
        assert 'declare @pod.agent(formerly="booking")' in change.why


async def test_what_died_after_the_rename_is_redriven_by_either_name(nats_url: str, tmp_path: Path) -> None:
    desk = Desk()
    pod = desk.pod("2", "viewing-booking", formerly="booking")
    async with at_work(pod, nats_url) as office:
        await booked(office.bus, ["dead-1"])
        [letter] = await eventually(lambda: dead_letters(office.bus), what="the dead letter")
        assert letter.subject == "DLQ.booking.refused.call.intent.book"
        desk.is_closed = False
        for number, name in enumerate(("booking", "viewing-booking")):
            body = Book(call_id=f"dead-{number}", phone=f"dead-{number}").model_dump_json(by_alias=True).encode()
            headers = {"Tieline-Subject": "call.intent.book"}
            await office.bus.publisher.publish(f"redrive.call_intent.{name}", body, headers)
        await eventually(lambda: len(desk.finished) == 2, what="both come to the agent")
        for name in ("booking", "viewing-booking"):
            listed = await tieline("dlq", "ls", "--agent", name, "--json", cwd=tmp_path, url=nats_url)
            assert (listed.json["total"], listed.json["filter"]) == (1, "DLQ.booking.*.>"), name
        again = ("dlq", "redrive", "--agent", "viewing-booking", "--json")
        assert (await tieline(*again, cwd=tmp_path, url=nats_url)).json["done"] == 1
        await eventually(lambda: desk.finished["dead-1"] == 2, what="the dead letter is handled too")


async def test_a_second_rename_keeps_the_first_name_and_a_wrong_one_is_refused(nats_url: str) -> None:
    desk = Desk()
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, desk.pod("1", "booking"))
        await topology.apply(bus.connection, desk.pod("2", "viewing-booking", formerly="booking"))
        wrong = desk.pod("3", "viewings", formerly="viewing-booking")
        for work in (topology.plan, topology.apply):
            with pytest.raises(NotApplied, match='Declare formerly="booking"'):
                await work(bus.connection, wrong)
        await topology.apply(bus.connection, desk.pod("3", "viewings", formerly="booking"))
        await eventually(lambda: names_of_consumers(bus, {"booking"}), what="one consumer, under the first name")


async def test_going_back_to_a_position_that_another_consumer_has_passed_is_refused(nats_url: str) -> None:
    desk = Desk()
    async with connect(Pod("office"), settings=settings(nats_url)) as bus:
        await topology.apply(bus.connection, desk.pod("1", "booking"))
        await topology.apply(bus.connection, desk.pod("2", "viewing-booking"))
        with pytest.raises(NotApplied, match="consumers of both names"):
            await topology.apply(bus.connection, desk.pod("3", "viewing-booking", formerly="booking"))


def test_a_former_name_belongs_to_one_agent() -> None:
    async def handler(message: Book, _: Conversation) -> None: ...

    for name, formerly in (
        ("viewing", None),
        ("booking", None),
        ("third", "booking"),
        ("third", "viewing"),
        ("third", "tools"),
        ("booking", "viewing"),  # they swap their names
    ):
        pod = Pod("office")
        pod.agent(name="viewing", formerly="booking")(handler)
        with pytest.raises(BadDeclaration, match="is taken; names and former names are unique"):
            pod.agent(name=name, formerly=formerly)(handler)


def test_credentials_and_processes_of_a_renamed_agent() -> None:
    desk = Desk()
    before, after = desk.pod("1", "booking"), desk.pod("1", "viewing-booking", formerly="booking")
    old = {(grant.verb, grant.subject) for grant in grants_of(before, ["booking"])}
    new = {(grant.verb, grant.subject) for grant in grants_of(after, ["viewing-booking"])}
    assert new - old == {("publish", "redrive.call_intent.viewing-booking")}
    assert old <= new
    tools = [{(grant.verb, grant.subject) for grant in grants_of(pod, ["tools"])} for pod in (before, after)]
    assert tools[0] == tools[1], "results are still steps of the same agent"
    assert next((process.name, process.consumes) for process in processes_of(after)) == (
        "viewing-booking",
        ("call.intent.book",),
    )
