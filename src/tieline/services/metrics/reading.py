"""Reading the server over the bus: at a scrape, at most once a second, and never for longer than a scrape waits."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from tieline.errors import Unreachable
from tieline.pod import Pod
from tieline.records.reading import read_json
from tieline.services.accounting.asking import sum_subject
from tieline.services.doctor.monitoring import likely_url, varz
from tieline.services.letters.reading import STREAM, Group, Selection, counted
from tieline.services.metrics.labels import Known
from tieline.services.storage_watch import plan_of
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.topology import consumer_infos, stream_infos

__all__ = ["Reader", "Reading"]

log = logging.getLogger("tieline.metrics")

type Info = Mapping[str, Any]

_LEAST = 1.0  # seconds from one reading to the next, however often it is scraped
_PATIENCE = 3.0  # seconds for streams and consumers; a frozen server must not hang a scrape, which waits for 10
_BESIDE = 2.0  # seconds for what may be missing
_AGAIN = 15.0  # seconds until what was missing is asked for again
_AT_ONCE = 32  # requests on their way


@dataclass(frozen=True, slots=True)
class Reading:
    """The server at one moment. Without ``up`` the rest is empty: no value is better than an old one.

    ``streams`` by name; ``consumers`` are the durable ones; ``sums`` are the rows of each pod's accountant, None where
    it did not answer; ``monitored`` is the page ``/varz``, ``account`` the account's limits and use,
    ``planned`` how many bytes the pod expects streams without a limit to need.
    """

    up: bool
    server: Info = field(default_factory=dict)
    streams: Mapping[str, Info] = field(default_factory=dict)
    consumers: tuple[Info, ...] = ()
    account: Info | None = None
    letters: tuple[Group, ...] = ()
    sums: Mapping[str, list[Info] | None] = field(default_factory=dict)
    monitored: Info | None = None
    planned: Mapping[str, int] = field(default_factory=dict)


class Reader:
    """Reads the account, or what belongs to ``pod``. Needs no more than a reader's rights."""

    def __init__(self, connection: Connection, pod: Pod | None, server: str, monitor: str | None) -> None:
        """``server`` is the URL of the NATS server; ``monitor`` that of its monitoring pages, where it was given."""
        self._connection = connection
        self._pod = pod
        self._monitor = monitor or likely_url(server)
        self._lock = asyncio.Lock()
        self._last = Reading(up=False)
        self._next = 0.0  # loop time before which the last reading is good enough
        self._later: dict[str, float] = {}  # loop time before which a question is not asked again
        self._counted: tuple[Info, tuple[Group, ...]] | None = None  # the state of DLQ, and what was in it
        self.known = Known({}, (), None if pod is None else pod.name)  # replaced by each reading that succeeds

    async def latest(self) -> Reading:
        """The server as it is, or was within the last second."""
        async with self._lock:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._next:
                self._last = await self._read()
                self._next = loop.time() + _LEAST
            return self._last

    async def _read(self) -> Reading:
        if not self._connection.connected:
            return Reading(up=False)
        try:
            async with asyncio.timeout(_PATIENCE):
                streams, consumers = await self._topology()
        except (TimeoutError, ApiError, NoAnswer, Unreachable) as error:
            log.info("the server cannot be read now: %s", str(error) or "no answer in time")
            return Reading(up=False)
        self.known = Known(streams, consumers, None if self._pod is None else self._pod.name)
        pods = self.known.pods
        account, letters, monitored, sums = await asyncio.gather(
            self._asked("the account", self._account()),
            self._asked("dead letters", self._letters(streams.get(STREAM, {}))),
            self._asked("monitoring", varz(self._monitor)),
            asyncio.gather(*(self._asked(f"the sum of {pod}", self._sum(pod)) for pod in pods)),
        )
        told = self._connection.server
        same = monitored is not None and monitored.get("server_id") == told.get("server_id")
        return Reading(
            up=True,
            server=told,
            streams=streams,
            consumers=consumers,
            account=account,
            letters=letters or (),
            sums=dict(zip(pods, sums, strict=True)),
            monitored=monitored if same else None,
            planned=plan_of(self._pod),
        )

    async def _topology(self) -> tuple[dict[str, Info], tuple[Info, ...]]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def consumers(stream: str) -> list[Info]:
            async with gate:
                return [info for info in await consumer_infos(self._connection, stream) if _is_durable(info)]

        found = await stream_infos(self._connection)
        wanted = found.keys() if self._pod is None else found.keys() & self._pod.streams.keys()
        streams: dict[str, Info] = {name: found[name] for name in sorted(wanted)}
        each = await asyncio.gather(*map(consumers, streams))
        return streams, tuple(info for infos in each for info in infos)

    async def _asked[T](self, what: str, question: Coroutine[Any, Any, T]) -> T | None:
        """The answer; None where there is none, or was none a moment ago: a scrape does not wait for it each time."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._later.get(what, 0.0):
            question.close()
            return None
        try:
            async with asyncio.timeout(_BESIDE):
                return await question
        except (TimeoutError, ApiError, NoAnswer, OSError) as error:
            log.debug("no answer about %s: %s", what, error)
            self._later[what] = loop.time() + _AGAIN
            return None

    async def _account(self) -> Info:
        return await self._connection.api("INFO")

    async def _letters(self, dlq: Info) -> tuple[Group, ...]:
        """Counted again where the stream is another than at the last time: many letters are long to count."""
        state = dlq.get("state")
        if state is None:
            return ()
        if self._counted is None or self._counted[0] != state:
            self._counted = (state, await counted(self._connection, Selection()))
        return self._counted[1]

    async def _sum(self, pod: str) -> list[Info] | None:
        rows = read_json((await self._connection.request(sum_subject(pod), b"")).payload)
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None


def _is_durable(info: Info) -> bool:
    """Readers come and go, each under a name of its own: as labels they would never end."""
    return bool(info["config"].get("durable_name"))
