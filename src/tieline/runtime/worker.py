"""The hot path: pull, execute, settle. What happens to every delivery, in the order it happens."""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from tieline import subjects
from tieline.errors import NotAccepted, ObjectGone, TielineError, Unconfirmed, Unsettled
from tieline.facts import Settled, Started
from tieline.outcomes import Cause, Done, HandBack, Outcome, Refuse
from tieline.runtime.attempt import Attempt
from tieline.runtime.bus import Bus
from tieline.runtime.cancelled import Cancelled
from tieline.runtime.duty import Duty, Guard
from tieline.runtime.execute import execute
from tieline.runtime.history import History, Past, cause_in
from tieline.runtime.intake import Intake
from tieline.runtime.lease import Lease
from tieline.runtime.settle import UNEXPECTED, Settlement, refuse_unexpected, release, settle
from tieline.runtime.slots import Gate, Slots
from tieline.runtime.versions import UNVERSIONED, elsewhere, recording_of
from tieline.wire.delivery import Delivery
from tieline.wire.topology import Consumer

__all__ = ["Worker"]

log = logging.getLogger("tieline.worker")

_UNSETTLED_WAIT = 15.0  # seconds until a message whose outcome could not be recorded comes again
_DEAF = 15.0  # seconds without a heartbeat on a pull, after which something is wrong
_EARLY = 0.05  # seconds that a retry may begin before it is due
_HAND_BACK = 3.0  # seconds that recording an interruption may take before the message is handed back anyway


class Worker:
    """One duty's pump and its running work. Never holds more deliveries than its slots."""

    def __init__(
        self, bus: Bus, duty: Duty, consumers: tuple[Consumer, str | None], gate: Gate, cancelled: Cancelled
    ) -> None:
        """``consumers``: the one of new messages, and the name of the one of those that are brought back, if any."""
        self._bus = bus
        self._duty = duty
        self._gate = gate
        self._cancelled = cancelled
        self._slots = Slots(duty.limits.concurrency)
        self.intake = Intake(bus.connection, *consumers, self._slots)
        self._lease = Lease(bus.connection, duty.limits.ack_wait)
        self._running: set[asyncio.Task[None]] = set()
        self._pump: asyncio.Task[Any] | None = None
        self._hurry = False
        self._failure: BaseException | None = None  # of a task that should not have failed; ends the pump

    @property
    def pulling(self) -> bool:
        """Whether it takes messages, or has all it may hold; as far as the server lets us know."""
        pulls = all(consumer.silence < _DEAF for consumer in self.intake.consumers)
        return self._pump is not None and not self._pump.done() and pulls

    @property
    def name(self) -> str:
        """Of its main consumer, with its stream."""
        return f"{self.intake.main.stream}/{self.intake.main.durable}"

    async def pump(self) -> None:
        """Pull and start work for ever. Cancel it to stop taking: what runs may finish, the rest is handed back."""
        self._pump = asyncio.current_task()
        keeper, resuming = self._start(self._lease.keep()), self._start(self._resume())
        try:
            while True:
                await self._bus.room()
                for delivery in self.intake.take(await self.intake.new()):
                    self._start(self._work(delivery))
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            raise self._failure from None
        finally:
            # Beside the drain: a second cancellation must find the drain, which hands back, and not this.
            resuming.cancel()
            closing = [asyncio.ensure_future(consumer.close()) for consumer in self.intake.consumers]
            try:
                await self._drain(keeper)
            finally:
                await asyncio.wait(closing)

    async def _resume(self) -> None:
        """The same for what is brought back."""
        if (consumer := self.intake.resume) is not None:
            while True:
                await self._bus.room()
                for delivery in self.intake.take(await self.intake.resumed(consumer)):
                    self._start(self._work(delivery))

    def hurry(self) -> None:
        """Let the drain hand back at once what runs."""
        self._hurry = True

    def stop(self, conversation: str) -> None:
        """End the handlers that run for a cancelled conversation, named by its token."""
        if conversation in self._cancelled.records:
            for attempt in list(self._lease.held):
                if subjects.token(attempt.call.id) == conversation:
                    attempt.steps.stop()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as a task that begins at once: a handler that never waits costs no turn of the loop."""
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), eager_start=True)
        if task.done():
            self._finished(task)
        else:
            self._running.add(task)
            task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self._failure is None and self._pump is not None:
            self._failure = error
            self._pump.cancel()

    async def _drain(self, keeper: asyncio.Task[None]) -> None:
        """Let what runs finish for ``limits.drain`` seconds, then interrupt it: it is handed back at once."""
        hurried = self._hurry or self._bus.connection.lost.done()
        try:
            if working := self._running - {keeper}:
                await asyncio.wait(working, timeout=0 if hurried else self._duty.limits.drain)
            if not hurried:
                await self._bus.audit.released(self._bus.settings.publish.patience)
        finally:
            for task in list(self._running):
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    async def _work(self, delivery: Delivery) -> None:
        attempt = Attempt(self._bus, self._duty, delivery)
        self._lease.hold(attempt)
        began = asyncio.get_running_loop().time()
        leased = False
        try:
            outcome = await self._outcome(attempt)
            settlement = await settle(attempt, outcome, self._bus)
            leased = settlement.ack  # the slot is free now, the lease ends with the acknowledgement
            self._conclude(attempt, settlement, began)
        except (Unsettled, Unconfirmed) as error:
            log.error("%s [%s] comes again: %s", self._duty.name, attempt.call.id, error)
            await self._hand_back(attempt, began, str(error), _UNSETTLED_WAIT)
        except asyncio.CancelledError:
            await self._hand_back(attempt, began, "this process is stopping", 0.0)
            raise
        finally:
            if not leased:
                self._lease.release(attempt)
            self._slots.give()

    async def _outcome(self, attempt: Attempt) -> Outcome:
        guard = self._duty.guard
        try:
            return await (self._attempted(attempt) if guard is None else self._guarded(guard, attempt))
        except UNEXPECTED as error:
            return refuse_unexpected(attempt, error)

    async def _first(self, attempt: Attempt) -> Outcome:
        """A first delivery pays for nothing but itself."""
        if self._gate.shut:
            await self._gate.opened()
        self._gate.enter()
        try:
            return await self._run(attempt)
        finally:
            self._gate.leave()

    def _attempted(self, attempt: Attempt) -> Coroutine[Any, Any, Outcome]:
        return self._first(attempt) if attempt.delivery.fresh else self._again(attempt)

    async def _guarded(self, guard: Guard, attempt: Attempt) -> Outcome:
        """Work that waits for its turn, or is handed back before it began: that is no attempt."""
        permit = await guard.enter(attempt.call, attempt.delivery.count)
        if isinstance(permit, HandBack):
            return permit
        outcome: Outcome | None = None
        try:
            outcome = await self._attempted(attempt)
        finally:
            guard.leave(permit, outcome)
        return outcome

    async def _again(self, attempt: Attempt) -> Outcome:
        """A redelivery counts what came before, and records that it starts, before it runs.

        In this order: the gate, then the record. One that only waits to run alone has not begun, and must not be
        counted when the one that is alone inside ends the process.
        """
        history, slots = attempt.history(), self._duty.limits.concurrency
        while True:
            past = await history.past()
            attempt.comes_after(past)
            if (verdict := _known(history, past)) is not None:
                return verdict
            if history.refused(past) or past.counted >= self._duty.limits.attempts:
                if await _recorded(history.close(past), attempt):
                    return _worn_out(past)
                continue
            if self._bus.pod.version != UNVERSIONED and (handed := await self._other_version(attempt)) is not None:
                return handed
            limit = past.beside(slots)
            async with self._gate.among(limit) if limit else self._gate.beside():
                start = history.begin(past, attempt.delivery.count, alone=limit == 1)
                attempt.begun = await _recorded(start, attempt)
                if attempt.begun:
                    self._bus.observe(lambda: Started(**self._named(attempt)))
                    return await self._run(attempt)

    async def _other_version(self, attempt: Attempt) -> HandBack | None:
        """Where another version runs that recorded steps, it goes on; else this run is held against them."""
        call, steps = attempt.call, attempt.steps
        if self._bus.pod.agent_on_bus(self._duty.name) is None:
            return None
        steps.recording = await recording_of(self._bus, self._duty.name, call.id, call.origin, steps.run)
        if steps.recording is None:
            return None
        return await elsewhere(self._bus, self._duty.name, steps.recording, attempt.delivery.count)

    async def _run(self, attempt: Attempt) -> Outcome:
        steps, cancelled = attempt.steps, self._cancelled
        if cancelled.records and (refusal := cancelled.refusal(attempt.call.id)) is not None:
            return refusal
        if self._bus.trust is not None and (refusal := await self._bus.trust.refusal(attempt.delivery)) is not None:
            return refusal
        steps.task = asyncio.current_task()
        try:
            incoming = await attempt.whole() if attempt.refers else attempt.delivery
            outcome = await execute(self._duty, incoming, attempt.call, self._bus.standstill.seconds)
        except ObjectGone as gone:
            outcome = Refuse(str(gone), Cause.of(gone, "invalid"))
        except BaseException:
            steps.abandon()
            if (refusal := cancelled.interrupted(steps)) is not None:
                return refusal
            raise
        finally:
            steps.task = None
        outcome = steps.concluded(outcome)
        return cancelled.interrupted(steps, outcome) or outcome if cancelled.records else outcome

    async def _hand_back(self, attempt: Attempt, began: float, why: str, wait: float) -> None:
        """Not the message's fault: say so, so that it does not count, and let another process have it."""
        try:
            if self._bus.connection.lost.done():
                return  # nobody is there to be told; the ack wait hands it back
            async with asyncio.timeout(_HAND_BACK):
                if attempt.begun and await attempt.history().end(attempt.past, "interrupted") is None:
                    return  # it belongs to another process now
        except (TimeoutError, TielineError) as error:
            log.warning("%s [%s] interrupted, not recorded: %s", self._duty.name, attempt.call.id, error)
        if attempt.begun or not attempt.doubtful:
            await attempt.delivery.nak(wait)
        self._conclude(attempt, Settlement("interrupted", why, ack=False), began)

    def _conclude(self, attempt: Attempt, settlement: Settlement, began: float) -> None:
        """Report how it ended. The acknowledgement, where there is one, follows when that report is stored."""
        took = asyncio.get_running_loop().time() - began
        how, why = settlement.ending, settlement.reason
        if settlement.ack:
            self._bus.conclude(
                Settled(**self._named(attempt), outcome=how, reason=why, took=took), partial(self._release, attempt)
            )
        else:
            self._bus.observe(lambda: Settled(**self._named(attempt), outcome=how, reason=why, took=took))

    async def _release(self, attempt: Attempt) -> None:
        self._lease.release(attempt)
        if attempt.steps.ended:
            self._start(release(attempt, self._bus))
        else:
            await release(attempt, self._bus)

    def _named(self, attempt: Attempt) -> dict[str, Any]:
        delivery, call = attempt.delivery, attempt.call
        return {
            "conversation": call.id,
            "by": self._duty.name,
            "subject": delivery.subject,
            "stream": delivery.stream,
            "seq": delivery.seq,
            "origin": call.origin,
            "attempt": call.attempt,
        }


async def _recorded(writing: Coroutine[Any, Any, bool], attempt: Attempt) -> bool:
    try:
        return await writing
    except NotAccepted as error:
        raise Unsettled(f"the history of {attempt.call.origin} cannot be written: {error}") from error


def _known(history: History, past: Past) -> Outcome | None:
    """What is known of a redelivery without another attempt: it comes too late, or too early."""
    if (superseded := history.superseded(past)) is not None:
        return superseded
    if past.over:
        return Done()  # its acknowledgement was lost
    if (wait := history.wait(past)) > _EARLY:
        return HandBack(f"attempt {past.next} is due in {wait:.1f} s", wait)
    return None


def _worn_out(past: Past) -> Refuse:
    """All attempts are used up, or the last was refused, and the process that saw it end did not live to say so."""
    last = past.tries[-1] if past.tries else {}
    if last.get("end") in ("raised", "dead"):
        cause = cause_in(last)
        return Refuse(cause.reason, cause)
    reason = f"{past.counted} attempts ended without an outcome: it ran alone, and its process died"
    return Refuse(reason, Cause("vanished", reason))
