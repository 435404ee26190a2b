"""``tieline run``: one or several agents in this process; what a container runs."""

from typing import Annotated

import typer

from tieline.cli.options import PodArgument, ServerOption, settings_of
from tieline.services.logs import configure_logs
from tieline.services.process import run_process
from tieline.services.reference import load_pod

__all__ = ["run"]


def run(
    pod: PodArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Agents of the pod; or tools, audit, metrics.")],
    server: ServerOption = None,
) -> int:
    """Run agents (and `tools`, `audit`, `metrics`) of a pod in this process, until SIGTERM or Ctrl-C.

    The first signal stops taking and lets running handlers finish for their drain limit (exit 0); the second hands
    them back at once (exit 1). Exit 1 too when the server stays away or a consumer is missing. Logs go to stderr.
    """
    settings = settings_of(server)
    configure_logs(settings, "+".join(names))
    return run_process(load_pod(pod), names, settings, lambda: None)
