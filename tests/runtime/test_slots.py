"""Slots and the gate: how much runs at once, and what runs alone."""

import asyncio

from tieline.runtime.slots import Gate, Slots
from tieline.testing import eventually


async def test_slots_are_waited_for_and_given_back() -> None:
    slots = Slots(2)
    assert await slots.available() == 2
    slots.take()
    slots.take()
    waiting = asyncio.create_task(slots.available())
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.give()
    assert await waiting == 1


class Room:
    """Who is in, and the most there ever were beside somebody who was to be alone."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: list[str] = []
        self.seen: list[tuple[str, ...]] = []
        self.go = asyncio.Event()

    def shut(self) -> bool:
        return self.gate.shut

    async def visit(self, name: str) -> None:
        if self.gate.shut:
            await self.gate.opened()
        self.gate.enter()
        try:
            await self.stay(name)
        finally:
            self.gate.leave()

    async def visit_alone(self, name: str) -> None:
        async with self.gate.alone():
            await self.stay(name)

    async def stay(self, name: str) -> None:
        self.inside.append(name)
        self.seen.append(tuple(self.inside))
        try:
            await self.go.wait()
        finally:
            self.inside.remove(name)

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_ordinary_runs_are_inside_together() -> None:
    room = Room(Gate())
    visits = [asyncio.create_task(room.visit(name)) for name in "abc"]
    await eventually(lambda: len(room.inside) == 3, what="all three inside")
    room.go.set()
    await asyncio.gather(*visits)
    assert room.inside == []


async def test_alone_waits_for_all_and_all_wait_for_alone() -> None:
    room = Room(Gate())
    first = asyncio.create_task(room.visit("first"))
    await room.settled()
    alone = asyncio.create_task(room.visit_alone("alone"))
    await room.settled()
    later = [asyncio.create_task(room.visit(f"later-{n}")) for n in range(3)]
    await room.settled()
    assert room.inside == ["first"]
    assert room.shut()
    first.cancel()
    await room.settled()
    assert room.inside == ["alone"]
    alone.cancel()
    await eventually(lambda: len(room.inside) == 3, what="those who waited inside")
    assert not room.shut()
    room.go.set()
    await asyncio.gather(*later)
    assert ("alone",) in room.seen
    assert [seen for seen in room.seen if "alone" in seen and len(seen) > 1] == []


async def test_two_that_must_be_alone_take_turns() -> None:
    room = Room(Gate())
    room.go.set()
    await asyncio.gather(*(room.visit_alone(f"a{n}") for n in range(5)), *(room.visit(f"o{n}") for n in range(5)))
    assert [seen for seen in room.seen if any(name[0] == "a" for name in seen) and len(seen) > 1] == []
    assert len(room.seen) == 10


async def test_a_cancelled_wait_to_be_alone_leaves_the_gate_open() -> None:
    room = Room(Gate())
    first = asyncio.create_task(room.visit("first"))
    await room.settled()
    alone = asyncio.create_task(room.visit_alone("alone"))
    await room.settled()
    assert room.shut()
    alone.cancel()
    await asyncio.wait([alone])
    assert not room.shut()
    second = asyncio.create_task(room.visit("second"))
    await room.settled()
    assert room.inside == ["first", "second"]
    room.go.set()
    await asyncio.gather(first, second)


async def test_a_run_that_fails_alone_leaves_the_gate_open() -> None:
    gate = Gate()

    async def fails() -> None:
        async with gate.alone():
            raise ValueError

    results = await asyncio.gather(fails(), fails(), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert not gate.shut
