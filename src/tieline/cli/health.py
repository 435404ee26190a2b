"""``tieline health``: the truth for probes: is it connected, are its consumers there, does somebody pull."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument, ServerOption, connected
from tieline.cli.printing import console, print_json
from tieline.errors import BadDeclaration
from tieline.pod import Pod
from tieline.services.reference import load_pod
from tieline.wire.connection import ApiError
from tieline.wire.topology import agent_of, consumers_of

__all__ = ["health"]

_SICK = 3
_TRIES, _PAUSE = 4, 0.5  # looks, and seconds between them: a pull that ends is followed by another at once


@dataclass(frozen=True, slots=True)
class _Consumer:
    """One consumer. ``why`` is empty where all is well."""

    name: str
    why: str


def health(
    pod: PodArgument,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Agents or tools; all unless given.")
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Say whether the pod's consumers are there and somebody pulls from each. Exit 0 healthy, 3 not, 1 no server."""
    declared = load_pod(pod)
    found = asyncio.run(_looked(declared, names or [], server))
    sick = [one for one in found if one.why]
    if json:
        print_json({"healthy": not sick, "consumers": [asdict(one) for one in found]})
    else:
        for one in found:
            mark = f"[red]✗[/red] {one.name}: {one.why}" if one.why else f"[green]✓[/green] {one.name}"
            console().print(mark)
    return _SICK if sick else 0


async def _looked(pod: Pod, names: list[str], server: list[str] | None) -> list[_Consumer]:
    has = [*pod.agents, *(["tools"] if pod.tools else [])]
    if unknown := [name for name in names if name not in has]:
        raise BadDeclaration(f"pod {pod.name} has no {', '.join(unknown)}; it has {', '.join(has)}")
    async with connected(server) as connection:
        found = []
        for consumer in consumers_of(pod):
            whose = "tools" if consumer.durable.startswith("tool-") else agent_of(consumer.durable)
            if names and whose not in names:
                continue
            why = ""
            for _ in range(_TRIES):
                try:
                    info = await connection.api(f"CONSUMER.INFO.{consumer.stream}.{consumer.durable}")
                except ApiError as error:
                    why = str(error)
                    break
                # A process with no free slot asks for nothing that is brought back: its main consumer tells.
                pulls = info["num_waiting"] or info["num_ack_pending"] or consumer.kind == "resume"
                why = "" if pulls else "nobody pulls"
                if not why:
                    break
                await asyncio.sleep(_PAUSE)
            found.append(_Consumer(f"{consumer.stream}/{consumer.durable}", why))
        return found
