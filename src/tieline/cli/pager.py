"""``tieline pager``: telling people of dead letters, where no ``audit`` process of the pod does."""

import asyncio
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument, ServerOption, settings_of
from tieline.cli.printing import console, print_json
from tieline.pod import Pod
from tieline.runtime.bus import connect
from tieline.services.pager import Pager, run
from tieline.services.reference import load_pod
from tieline.services.signals import StopSignals
from tieline.settings import Settings

__all__ = ["pager"]


def pager(
    pod: PodArgument,
    once: Annotated[bool, typer.Option("--once", help="Look once, tell what there is to tell, and end.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Tell Slack, a webhook, or the log, of dead letters: once when there are some, again when there are none.

    The pod's `audit` process does it too, and `tieline up` runs that; several do not disturb one another. Whom to tell
    is in TIELINE_PAGER_*. With --once: exit 1 where somebody could not be told.
    """
    return asyncio.run(_page(load_pod(pod), settings_of(server), once=once, as_json=json))


async def _page(pod: Pod, settings: Settings, *, once: bool, as_json: bool) -> int:
    async with connect(pod, settings=settings, name=f"{pod.name}-pager") as bus:
        if once:
            page = Pager(bus)
            told = await page.look()
            await page.close()
            if as_json:
                print_json({"told": told, "failed": page.failed})
            else:
                console().print(f"{told} told" + (f", {', '.join(page.failed)} could not be" if page.failed else ""))
            return 1 if page.failed else 0
        signals = StopSignals()
        work = asyncio.create_task(run(bus, signals.asked))
        lost = asyncio.ensure_future(asyncio.shield(bus.connection.lost))
        await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        signals.asked.set()
        await work
        if bus.connection.lost.done():
            bus.connection.lost.result()
        return 0
