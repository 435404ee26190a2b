"""Slots and the gate: how much runs at once, and what runs alone."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

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

    async def visit_among(self, limit: int, name: str) -> None:
        async with self.gate.among(limit):
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


async def test_suspects_share_the_gate_with_so_many_and_with_ordinary_runs() -> None:
    room = Room(Gate())
    ordinary = [asyncio.create_task(room.visit(f"o{number}")) for number in range(3)]
    suspects = [asyncio.create_task(room.visit_among(2, f"s{number}")) for number in range(5)]
    await room.settled()
    assert sorted(room.inside) == ["o0", "o1", "o2", "s0", "s1"]
    assert not room.shut()
    late = asyncio.create_task(room.visit("late"))
    await room.settled()
    assert "late" in room.inside
    room.go.set()
    await asyncio.gather(*ordinary, *suspects, late)
    assert max(sum(name[0] == "s" for name in seen) for seen in room.seen) == 2


async def test_a_strict_suspect_is_not_overtaken_for_ever() -> None:
    room = Room(Gate())
    loose = [asyncio.create_task(room.visit_among(3, f"loose-{number}")) for number in range(3)]
    await room.settled()
    strict = asyncio.create_task(room.visit_among(2, "strict"))
    await room.settled()
    later = asyncio.create_task(room.visit_among(3, "later"))
    loose[0].cancel()
    await room.settled()
    assert sorted(room.inside) == ["loose-1", "loose-2"]  # the strict one is next, and two are too many for it
    loose[1].cancel()
    await room.settled()
    assert sorted(room.inside) == ["loose-2", "strict"]
    room.go.set()
    await asyncio.gather(*loose, strict, later, return_exceptions=True)
    assert max(len(seen) for seen in room.seen if "strict" in seen) == 2


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.booleans()), max_size=40))
def test_nobody_is_beside_more_suspects_than_it_allows(visits: list[tuple[int, int, bool]]) -> None:
    """Each visit: the suspects it allows (0: it is none; 1: it is alone), how long it stays, and whether it is cut."""
    inside: list[int] = []

    async def visit(gate: Gate, limit: int, turns: int) -> None:
        async with gate.among(limit) if limit else gate.beside():
            inside.append(limit)
            try:
                for _ in range(turns):
                    suspects = [one for one in inside if one]
                    assert not suspects or len(suspects) <= min(suspects)
                    assert 1 not in suspects or len(inside) == 1
                    await asyncio.sleep(0)
            finally:
                inside.remove(limit)

    async def scenario() -> None:
        gate = Gate()
        tasks = []
        for limit, turns, cut in visits:
            tasks.append(asyncio.create_task(visit(gate, limit, turns)))
            await asyncio.sleep(0)
            if cut:
                tasks[len(tasks) // 2].cancel()
        async with asyncio.timeout(5.0):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one for one in results if isinstance(one, Exception)] == []
        assert not gate.shut

    asyncio.run(scenario())
