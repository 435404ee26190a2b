"""An endpoint of metrics in this process, and what a scrape of it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tieline import Bus
from tieline.services.metrics import Place, serve
from tieline.testing import eventually

__all__ = ["Scrape", "page", "scraped", "serving"]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one scrape."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def of(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 where there are none."""
        return sum(value for own, has, value in self.samples if own == name and labels.items() <= has.items())

    def all(self, name: str) -> list[dict[str, str]]:
        """The labels of every sample of this name."""
        return [has for own, has, _ in self.samples if own == name]

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _, _ in self.samples}


async def page(url: str) -> str:
    """What the endpoint answers, as Prometheus gets it."""

    def fetch() -> str:
        with urlopen(url, timeout=20) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(fetch)


async def scraped(url: str) -> Scrape:
    """One scrape."""
    families = text_string_to_metric_families(await page(url))
    return Scrape(tuple((s.name, dict(s.labels), s.value) for family in families for s in family.samples))


@asynccontextmanager
async def serving(bus: Bus, *, monitor: str | None = None, whole_account: bool = False) -> AsyncIterator[str]:
    """The URL of an endpoint on a free port, which counts facts by the time the block begins."""
    others = await _readers(bus)
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    place = Place(0, server=bus.settings.connection.servers[0], monitor=monitor)
    pod = None if whole_account else bus.pod
    service = asyncio.create_task(serve(bus.connection, pod, place, stop, url.set_result))
    try:
        await asyncio.wait([service, url], return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            service.result()
        await eventually(lambda: _is_reading(bus, others), what="facts are counted")
        yield url.result()
    finally:
        stop.set()
        await asyncio.wait([service])
    await service


async def _is_reading(bus: Bus, others: set[str]) -> bool:
    return bool(await _readers(bus) - others)


async def _readers(bus: Bus) -> set[str]:
    return set((await bus.connection.api("CONSUMER.NAMES.CALL_AUDIT")).get("consumers") or ())
