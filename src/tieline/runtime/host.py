"""`Host`: the workers of one process, from start to drained."""

import asyncio
import logging
from collections.abc import Iterable

from tieline.errors import BadDeclaration, first_of
from tieline.pod import Pod
from tieline.runtime.bus import Bus
from tieline.runtime.cancelled import Cancellations
from tieline.runtime.duty import Duty
from tieline.runtime.executor import ToolDuty
from tieline.runtime.handling import AgentDuty
from tieline.runtime.loop_watch import LoopWatch
from tieline.runtime.slots import Gate
from tieline.runtime.unclaimed import Unclaimed
from tieline.runtime.versions import Presence
from tieline.runtime.waker import Waker
from tieline.runtime.worker import Worker
from tieline.wire.consumer import look_for
from tieline.wire.topology import Consumer, consumers_of, waker_name

__all__ = ["Host", "names_of"]

log = logging.getLogger("tieline.host")


def names_of(pod: Pod) -> list[str]:
    """What can be run of a pod: its agents, and ``tools`` for the executor of all its tools."""
    return [*pod.agents, *(["tools"] if pod.tools else [])]


class Host:
    """Runs the named agents (and ``tools``) of a pod in this process.

    `run` returns after `stop` once everything is drained: pulling ends at once, running handlers may finish for their
    ``limits.drain`` seconds, the rest is handed back at once. It raises `Unreachable` when the server stays away
    longer than the reconnect budget, `ConsumerGone` when a consumer is missing or deleted.
    """

    def __init__(self, bus: Bus, names: Iterable[str]) -> None:
        self._bus = bus
        names = list(names)
        self._unclaimed = Unclaimed(bus) if "tools" in names else None
        agents = [bus.pod.agents[name] for name in names if name in bus.pod.agents]
        self._presence = Presence(bus, (agent.wire_name for agent in agents))
        # Tools have a gate of their own: a handler that runs alone waits for the tools it calls.
        handlers, tools = Gate(), Gate()
        self._cancellations = Cancellations(bus, self._stop_conversation)
        duties = _duties(bus, names)
        self._loop_watch = LoopWatch(min(duty.limits.ack_wait for duty, _ in duties))
        self._sources = [(consumer.stream, consumer.durable) for _, (consumer, _) in duties]
        self._workers = [
            Worker(
                bus,
                duty,
                consumers,
                tools if isinstance(duty, ToolDuty) else handlers,
                self._cancellations.cancelled,
            )
            for duty, consumers in duties
        ]
        declared = {(each.stream, each.durable) for each in consumers_of(bus.pod) if each.kind == "waker"}
        wakers = {waker_name(agent.wire_name) for agent in agents}
        beside = [Waker(bus, stream, durable) for stream, durable in sorted(declared) if durable in wakers]
        self._pullers: list[Worker | Waker] = [*self._workers, *beside]
        self._pumps: list[asyncio.Task[None]] = []
        self._stopped = False
        self._may_take = asyncio.Event()  # set once this process knows what is cancelled and can record what it does

    async def run(self) -> None:
        """Pull, execute and settle until stopped. Cancellation hands back at once what is running."""
        self._presence.start()
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._until_lost()), group.create_task(self._until_audit_fails())]
                beside += [group.create_task(self._cancellations.watch()), group.create_task(self._prepare())]
                beside += [group.create_task(self._loop_watch.keep())]
                is_cancelled = self._cancellations.cancelled.records.__contains__
                beside += [group.create_task(self._bus.aside.watch(is_cancelled))]
                self._pumps = [group.create_task(self._pump(one)) for one in self._pullers]
                beside += [group.create_task(self._unclaimed.watch())] if self._unclaimed else []
                await asyncio.sleep(0)  # a pump that is cancelled before it began would hand nothing back
                if self._stopped:
                    self.stop()
                try:
                    await asyncio.wait(self._pumps)
                except asyncio.CancelledError:
                    if not any(_failed(task) for task in (*beside, *self._pumps)):  # cancelled, not failed
                        for worker in self._workers:
                            worker.hurry()
                    raise
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        finally:
            await self._cancellations.close()
            await self._presence.close()

    @property
    def pulling(self) -> dict[str, bool]:
        """Its consumers, and whether each is pulled from. None is while the host stops."""
        return {one.name: one.pulling and not self._stopped for one in self._pullers}

    def stop(self) -> None:
        """Stop taking; `run` returns when what is running has been settled or handed back."""
        self._presence.leave()
        self._stopped = True
        for pump in self._pumps:
            pump.cancel()

    async def _prepare(self) -> None:
        # First: without its streams, the pod would wait for its audit and not say what is missing.
        await asyncio.gather(*(look_for(self._bus.connection, stream, name) for stream, name in self._sources))
        await self._bus.audit.ready()
        await self._cancellations.known.wait()
        self._may_take.set()

    async def _pump(self, puller: Worker | Waker) -> None:
        await self._may_take.wait()
        await puller.pump()

    def _stop_conversation(self, conversation: str) -> None:
        for worker in self._workers:
            worker.stop(conversation)

    async def _until_lost(self) -> None:
        await asyncio.shield(self._bus.connection.lost)

    async def _until_audit_fails(self) -> None:
        await asyncio.shield(self._bus.audit.failed)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _duties(bus: Bus, names: list[str]) -> list[tuple[Duty, tuple[Consumer, str | None]]]:
    """What this process does, with the consumer of new messages and the name of that of what is brought back."""
    pod = bus.pod
    unknown = [name for name in names if name not in names_of(pod)]
    if unknown or not names:
        raise BadDeclaration(
            f"pod {pod.name} has no {', '.join(unknown) or 'names'}; it has {', '.join(names_of(pod))}"
        )
    agents = [pod.agents[name] for name in names if name in pod.agents]
    wanted: dict[str, Duty] = {agent.wire_name: AgentDuty(bus, agent) for agent in agents}
    if "tools" in names:
        wanted |= {duty.name: duty for duty in (ToolDuty(bus, tool) for tool in pod.tools.values())}
    declared = consumers_of(pod)
    resumes = {(each.stream, each.owner): each.durable for each in declared if each.kind == "resume"}
    return [
        (wanted[consumer.durable], (consumer, resumes.get((consumer.stream, consumer.durable))))
        for consumer in declared
        if consumer.durable in wanted
    ]
