"""``tieline metrics``: an endpoint for Prometheus, beside any pod or server; and the alerting rules for it."""

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from tieline.cli.options import JsonOption, ServerOption, settings_of
from tieline.cli.printing import console, print_json
from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.services.metrics import Place, alert_rules, serve
from tieline.services.reference import load_pod
from tieline.services.signals import StopSignals
from tieline.settings import Settings
from tieline.wire.connection import Connection

__all__ = ["metrics"]


def metrics(
    pod: Annotated[
        str | None, typer.Argument(metavar="[POD]", help="Only this pod's: module or module:attribute.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port of the endpoint; 0 for a free one.", show_default="TIELINE_METRICS_PORT")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server's monitoring pages. Default: port 8222 of its host, where it is this server's.",
        ),
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="Print alerting rules for Prometheus, and end.")] = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Serve metrics for Prometheus until SIGTERM or Ctrl-C: of all of the account, or of a pod.

    Needs rights to read only. Counters begin at zero. Exit 1 where no server answers or the server stays away, 2 where
    the port cannot be had.
    """
    if rules:
        if json:
            print_json({"rules": alert_rules()})
        else:
            print(alert_rules(), end="")
        return 0
    declared, settings = None if pod is None else load_pod(pod), settings_of(server)
    chosen = settings.metrics_port if port is None else port
    if chosen is None:
        raise BadSettings("metrics have no port: TIELINE_METRICS_PORT is off; give --port")
    asyncio.run(_serve(declared, settings, Place(chosen, host, settings.connection.servers[0], monitor), json))
    return 0


async def _serve(pod: Pod | None, settings: Settings, place: Place, as_json: bool) -> None:
    def ready(url: str) -> None:
        if as_json:
            print_json({"event": "ready", "url": url})
        else:
            console().print(Text.assemble(("metrics  ", "bold"), url, ("  Ctrl-C stops", "dim")))

    signals = StopSignals()
    connection = await Connection.open(settings.connection, "tieline-metrics")
    try:
        await serve(connection, pod, place, signals.asked, ready)
    finally:
        await connection.close()
