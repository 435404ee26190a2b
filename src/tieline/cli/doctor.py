"""``tieline doctor``: what is wrong with a server or a pod, why it matters, and what puts it right."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from tieline.cli.options import JsonOption, ServerOption, connected, settings_of
from tieline.cli.printing import console, print_json
from tieline.pod import Pod
from tieline.services.doctor import SEVERITIES, Finding, Observation, Severity, examine, visit
from tieline.services.reference import load_pod

__all__ = ["doctor"]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "unknown": "dim"}
_BLIND, _WARNED, _ERRED = 1, 3, 4


def doctor(
    pod: Annotated[
        str | None, typer.Argument(metavar="[POD]", help="Compare with this pod too: module or module:attribute.")
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server's monitoring pages. Default: port 8222 of its host, where it is this server's.",
        ),
    ] = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Say what is wrong with a NATS server, ours or not, why it matters and what puts it right. Changes nothing.

    Needs rights to read only. Exit 0 where there are notes at most, 3 for warnings, 4 for errors; 1 where the server
    could not be reached or lists no streams.
    """
    declared = None if pod is None else load_pod(pod)
    seen = asyncio.run(_look(declared, monitor, server))
    findings = examine(seen)
    if json:
        print_json(
            {
                "server": asdict(seen.server),
                "streams": len(seen.streams),
                "consumers": len(seen.consumers),
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        _show(seen, findings)
    return _code(seen, findings)


async def _look(pod: Pod | None, monitor: str | None, server: list[str] | None) -> Observation:
    async with connected(server) as connection:
        return await visit(connection, settings_of(server), pod=pod, monitor=monitor)


def _code(seen: Observation, findings: Sequence[Finding]) -> int:
    if not seen.listed:
        return _BLIND
    severities = {finding.severity for finding in findings}
    return _ERRED if "error" in severities else _WARNED if "warning" in severities else 0


def _show(seen: Observation, findings: Sequence[Finding]) -> None:
    """The findings of a rule together: why it matters is said once."""
    out = console()
    for (severity, rule, why), found in groupby(findings, key=lambda f: (f.severity, f.rule, f.why)):
        out.print(Text.assemble((severity, _STYLES[severity]), f"  {rule}"))
        out.print(Padding(Text(why, style="italic"), (0, 0, 0, 2), expand=False))
        for finding in found:
            out.print(Padding(Text.assemble((finding.thing, "bold"), f": {finding.what}"), (0, 0, 0, 2), expand=False))
            out.print(Padding(Text(f"→ {finding.remedy}"), (0, 0, 0, 4), expand=False))
        out.print()
    counts = Counter(finding.severity for finding in findings)
    summed = ", ".join(f"{counts[severity]} {_counted(severity, counts[severity])}" for severity in SEVERITIES)
    looked = f"{len(seen.streams)} streams and {len(seen.consumers)} durable consumers of {seen.server.name}"
    out.print(Text(f"{looked}: {summed}"))


def _counted(severity: Severity, count: int) -> str:
    return severity if count == 1 or severity == "unknown" else f"{severity}s"
