"""Who decides about a message: the real `History`, on a journal in memory, with every order of events.

Processes take copies of one message, die anywhere, freeze while the server delivers the copy again, and go on later.
Copies come twice: from the server, from timers, and from the answers that the message waits for. Whatever happens, at
most one run decides; nothing is lost; and nobody's run counts against the message once somebody else has taken over.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tieline.outcomes import Cause, Superseded
from tieline.runtime.history import Copy, History, Past

ATTEMPTS = 3
QUESTIONS = 3


class MemoryJournal:
    """Write-once records. Each access lets everybody else go first."""

    def __init__(self) -> None:
        self.records: dict[str, Mapping[str, Any]] = {}

    async def write(self, subject: str, record: Mapping[str, Any], headers: object = None) -> bool:  # noqa: ARG002
        await asyncio.sleep(0)
        if subject in self.records:
            return False
        self.records[subject] = dict(record)
        return True

    async def read(self, wanted: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        await asyncio.sleep(0)
        return {subject: self.records[subject] for subject in wanted if subject in self.records}

    glance = read


@dataclass(eq=False)
class Delivery:
    """One copy of the message in its stream. ``out``: the run that holds it, as far as the server knows."""

    copy: Copy
    fresh: bool
    out: "Run | None" = None
    acked: bool = False


@dataclass(eq=False)
class Run:
    """One process with one delivery. ``steps`` goes on by one access to the journal at a time."""

    delivery: Delivery
    steps: Coroutine[Any, Any, None]
    in_handler: bool = False
    may_end: str = ""  # what the handler comes to
    lost: bool = False  # its lease


@dataclass
class World:
    """What is true, whatever anybody thinks."""

    journal: MemoryJournal = field(default_factory=MemoryJournal)
    copies: list[Delivery] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    timers: list[int] = field(default_factory=list)  # the attempts that asked for one
    parks: dict[int, int] = field(default_factory=dict)  # question: the first attempt that parked for it
    answers: set[int] = field(default_factory=set)
    asked_back: set[str] = field(default_factory=set)  # ids of copies: the server stores each once
    decisions: list[str] = field(default_factory=list)


class Attempts(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.copies.append(Delivery(Copy(1), fresh=True))

    def bring_back(self, unique: str, park: int | None = None, woken: int | None = None) -> None:
        world = self.world
        if unique not in world.asked_back:
            world.asked_back.add(unique)
            step = None if woken is None else f"q{woken}"
            world.copies.append(Delivery(Copy(len(world.copies) + 1, park, step), fresh=False))

    # What a process does with a delivery: as the worker and `settle` do it.

    async def handle(self, run: Run) -> None:
        world, delivery = self.world, run.delivery
        history = History(world.journal, "p", ("a", "c", "o", ""), delivery.copy)  # type: ignore[arg-type]
        past, fresh = Past(0, 0, 1, ()), delivery.fresh
        if not fresh:
            while True:
                past = await history.past()
                superseded = history.superseded(past)
                if isinstance(superseded, Superseded):
                    delivery.acked = True
                    return
                if past.over:
                    await history.over()
                    self.decide("done", run)
                    return
                if past.ended == "dead" or past.counted >= ATTEMPTS:
                    if await history.close(past):
                        await self.dead_letter(run, history, past, begun=False)
                        return
                    continue
                if await history.begin(past, 2, alone=past.beside(4) == 1):
                    break
        run.in_handler = True
        while not run.may_end:  # noqa: ASYNC110 - driven step by step, by no event loop
            await asyncio.sleep(0)
        run.in_handler = False
        await self.settle(run, history, past, fresh=fresh)

    async def settle(self, run: Run, history: History, past: Past, *, fresh: bool) -> None:
        delivery = run.delivery
        match run.may_end:
            case "done":
                if run.lost or not fresh:
                    if await history.end(past, "done") is None:
                        return
                    await history.over()
                self.decide("done", run)
            case "raised":
                ended = await history.end(past, "raised", Cause("raised", "x"))
                if ended is None:
                    return
                if ended.counted >= ATTEMPTS:
                    await self.dead_letter(run, history, ended, begun=False)
                elif not run.lost:
                    delivery.out = None  # handed back
            case "dead":
                await self.dead_letter(run, history, past, begun=True)
            case "interrupted":
                if await history.end(past, "interrupted") is not None and not run.lost:
                    delivery.out = None
            case parked:
                await self.park(run, history, past, int(parked))

    async def dead_letter(self, run: Run, history: History, past: Past, *, begun: bool) -> None:
        if begun and await history.end(past, "dead", Cause("refused", "x")) is None:
            return
        self.decide("dead", run)

    async def park(self, run: Run, history: History, past: Past, question: int) -> None:
        world, number = self.world, past.next
        if await history.end(past, "parked", waits=[f"q{question}"]) is None:
            return
        world.parks.setdefault(question, number)
        await asyncio.sleep(0)
        if question in world.answers:
            self.bring_back(f"wake {question} {number}", park=number)
        await asyncio.sleep(0)
        if question:  # the first one is waited for without a limit
            world.timers.append(number)
        await asyncio.sleep(0)
        self.ack(run)

    def decide(self, how: str, run: Run) -> None:
        """Stored under an id: the same decision about one copy is one, however often it is published."""
        if (told := f"{how} {run.delivery.copy.seq}" if how == "done" else how) not in self.world.decisions:
            self.world.decisions.append(told)
        self.ack(run)

    def ack(self, run: Run) -> None:
        """Who may have lost the delivery leaves it to the next one, which finds the records."""
        if not run.lost:
            run.delivery.acked = True

    # What may happen.

    def waiting(self) -> list[Delivery]:
        return [copy for copy in self.world.copies if copy.out is None and not copy.acked]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        delivery = data.draw(st.sampled_from(self.waiting()))
        run = Run(delivery, None)  # type: ignore[arg-type]
        run.steps = self.handle(run)
        delivery.out = run
        self.world.runs.append(run)

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data(), steps=st.integers(1, 12))
    def go_on(self, data: st.DataObject, steps: int) -> None:
        run = data.draw(st.sampled_from(self.world.runs))
        for _ in range(steps):
            if run not in self.world.runs:
                return
            self.step(run)

    @precondition(lambda self: any(run.in_handler for run in self.world.runs))
    @rule(data=st.data(), how=st.sampled_from(["done", "raised", "dead", "interrupted", "0", "1", "2"]))
    def end(self, data: st.DataObject, how: str) -> None:
        run = data.draw(st.sampled_from([run for run in self.world.runs if run.in_handler]))
        waits = how.isdigit()
        run.may_end = "done" if waits and int(how) in self.world.answers else how

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.world.runs))
        self.world.runs.remove(run)
        run.steps.close()
        if run.delivery.out is run:
            run.delivery.out = None
            run.delivery.fresh = False

    @precondition(lambda self: any(not run.lost for run in self.world.runs))
    @rule(data=st.data())
    def lose_the_lease(self, data: st.DataObject) -> None:
        """The server delivers the copy again, and the process lives on."""
        run = data.draw(st.sampled_from([run for run in self.world.runs if not run.lost]))
        run.lost = True
        if run.delivery.out is run:
            run.delivery.out = None
            run.delivery.fresh = False

    @rule(question=st.integers(0, QUESTIONS - 1))
    def answer(self, question: int) -> None:
        self.world.answers.add(question)
        if question in self.world.parks:
            self.bring_back(f"wake {question}", woken=question)

    @precondition(lambda self: self.world.timers)
    @rule(data=st.data())
    def fire(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.world.timers))
        self.world.timers.remove(number)
        self.fire_one(number)

    def fire_one(self, number: int) -> None:
        self.bring_back(f"timer {number}", park=number)

    def step(self, run: Run) -> None:
        try:
            run.steps.send(None)
        except StopIteration:
            self.world.runs.remove(run)
            if run.delivery.out is run and not run.delivery.acked:
                run.delivery.out = None  # its ack wait ends
            if run.delivery.out is None:
                run.delivery.fresh = False

    # What must hold.

    @invariant()
    def at_most_one_decides(self) -> None:
        assert len(self.world.decisions) <= 1, self.world.decisions

    def teardown(self) -> None:
        """Everybody goes on, nobody fails any more: the message must come to an end, and to one only."""
        world = self.world
        finish: Callable[[Run], str] = lambda run: "done" if run.in_handler else run.may_end  # noqa: E731
        for _ in range(300):
            for run in list(world.runs):
                run.may_end = run.may_end or finish(run)
                for _ in range(40):
                    if run in world.runs:
                        self.step(run)
            for question in range(QUESTIONS):
                self.answer(question)
            while world.timers:
                self.fire_one(world.timers.pop())
            for delivery in self.waiting():
                run = Run(delivery, None)  # type: ignore[arg-type]
                run.steps = self.handle(run)
                delivery.out = run
                world.runs.append(run)
            if not world.runs and not self.waiting():
                break
        for run in world.runs:
            run.steps.close()
        assert len(world.decisions) == 1, world.decisions


TestAttempts = Attempts.TestCase
TestAttempts.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
