"""A call at the terminal: type to the office, read what it says."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from oneroof.declared import pod
from oneroof.line import Call, Exchange
from oneroof.opening import Place, opened
from tieline import Bus, NotApplied, Settings, Unreachable, connect

__all__ = ["converse"]

_PATIENCE = 60.0  # seconds without a word from the office

console = Console(highlight=False)


async def converse(server: str | None, usual: str, data: Path) -> int:
    """One call; 0 when it ended as calls do, 1 when the office did not answer."""
    async with _office(server, usual, data) as bus:
        exchange = Exchange(bus)
        listening = asyncio.create_task(exchange.listen())
        try:
            async with exchange.call(f"typed-{os.urandom(4).hex()}") as call:
                console.print(f"[dim]connected as call {call.id}; Ctrl-D hangs up[/dim]")
                return await _talk(call)
        finally:
            listening.cancel()
            await asyncio.wait([listening])


async def _talk(call: Call) -> int:
    while not call.hung_up:
        text = await asyncio.to_thread(_typed)
        if text is None:
            break
        try:
            async with asyncio.timeout(_PATIENCE):
                async for line in call.say(text):
                    console.print(f"[bold]office[/bold]  {line.text}")
        except TimeoutError:
            console.print(
                f"[red]no answer for {_PATIENCE:g} s; does the office run? (oneroof up, tieline report)[/red]"
            )
            return 1
    return 0


def _typed() -> str | None:
    try:
        return input("you     ")
    except EOFError:
        return None


@asynccontextmanager
async def _office(server: str | None, usual: str, data: Path) -> AsyncIterator[Bus]:
    settings = Settings.from_environment()
    settings = replace(settings, connection=replace(settings.connection, servers=(server or usual,)))
    with suppress(Unreachable):
        async with connect(pod, settings=settings, name="oneroof-call") as bus:
            if any(change.action == "create" for change in await bus.plan()):
                raise NotApplied(f"the server at {server or usual} has no office; open one: oneroof up --server …")
            yield bus
            return
    if server is not None:
        raise Unreachable(f"no office answers at {server}; open one: oneroof up --server {server}")
    console.print(f"[dim]no office is open at {usual}: opening one for this call…[/dim]")
    async with opened(Place(data=data)) as office:
        yield office.bus
