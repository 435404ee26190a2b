"""``tieline losses``: the messages that the sum cannot account for, and how an operator accepts them."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument, ServerOption, settings_of
from tieline.cli.printing import console, print_json, table
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.runtime.bus import connect
from tieline.services.accounting.losses import Loss, accept
from tieline.services.accounting.losses import losses as found_losses
from tieline.services.questions import whoever
from tieline.services.reference import load_pod

__all__ = ["losses"]

_LOST = 3
_SHOWN = 20  # ranges of one loss that the table shows


def losses(
    pod: PodArgument,
    accept_: Annotated[
        bool, typer.Option("--accept", help="Record that you have looked at them: the sum holds again.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever asks later.")] = "",
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only of this agent.")] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """List messages that left their consumer, or their stream, without a record of how they ended.

    Exit 3 where there are any. With ``--accept`` and ``--reason`` they are recorded as accepted, with your name.
    """
    if accept_ and not reason:
        raise BadSettings("--accept needs --reason: what you found out about these messages")
    return asyncio.run(_losses(load_pod(pod), server, agent, reason if accept_ else None, as_json=json))


async def _losses(pod: Pod, server: list[str] | None, agent: str | None, reason: str | None, *, as_json: bool) -> int:
    async with connect(pod, settings=settings_of(server)) as bus:
        found = [loss for loss in await found_losses(bus) if agent in (None, loss.agent)]
        if reason is not None:
            await accept(bus, found, whoever(), reason)
    count = sum(loss.count for loss in found)
    if as_json:
        print_json({"count": count, "accepted": reason is not None, "losses": [_shown(loss) for loss in found]})
    elif not found:
        console().print("Every message is accounted for.")
    else:
        rows = [(loss.stream, loss.agent, f"{loss.count:,}", _ranges(loss)) for loss in found]
        console().print(table("unaccounted", ("stream", "agent", ">messages", "sequences"), rows))
        if reason is not None:
            console().print(f"{count:,} accepted: {reason}")
    return _LOST if found and reason is None else 0


def _shown(loss: Loss) -> dict[str, object]:
    return {**asdict(loss), "count": loss.count}


def _ranges(loss: Loss) -> str:
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in loss.ranges[:_SHOWN]]
    if len(loss.ranges) > _SHOWN:
        shown.append(f"and {len(loss.ranges) - _SHOWN} ranges more")
    if loss.earlier:
        shown.append(f"{loss.earlier} before the stream was created again")
    return ", ".join(shown)
