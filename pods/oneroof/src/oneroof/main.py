"""``oneroof``: the demo, the open office, and a call to it."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from oneroof.demo import Show, demo
from oneroof.opening import Place
from oneroof.terminal import converse
from tieline import BadDeclaration, BadSettings, TielineError
from tieline.cli.up import up as tieline_up

__all__ = ["main"]

_BOOKS = Path(".tieline")
_PORT = 4222

_Port = Annotated[int | None, typer.Option(help="Port of the server; 0 for a free one.")]
_MonitorPort = Annotated[int | None, typer.Option(help="Port of the server's monitoring pages; 0 for a free one.")]
_Data = Annotated[
    Path | None, typer.Option(help="Folder for what the server and the office keep.", show_default=".tieline")
]
_Server = Annotated[str | None, typer.Option(metavar="URL", help="A NATS server that runs elsewhere.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, for scripts.")]

app = typer.Typer(
    help="OneRoof: a real-estate voice office of six processes that talk over the bus and over nothing else.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


@app.command("demo")
def play(
    port: _Port = 0,
    monitor_port: _MonitorPort = None,
    data: _Data = None,
    server: _Server = None,
    json: _Json = False,
    calls: Annotated[int | None, typer.Option(min=1, help="Play only the first so many calls.")] = None,
) -> int:
    """Open the office, play its callers, kill an agent in the middle, and show that nothing was lost.

    Exits with 0 only when every call was answered and the sum holds. Everything is kept in a temporary folder, unless
    --data names one.
    """
    with tempfile.TemporaryDirectory(prefix="oneroof-") as temporary:
        place = Place(data=data or Path(temporary), server=server, port=port or 0, monitor_port=monitor_port)
        return asyncio.run(demo(place, Show(as_json=json), calls))


@app.command()
def up(
    port: _Port = None,
    monitor_port: _MonitorPort = None,
    data: _Data = None,
    servers: Annotated[int, typer.Option(help="How many servers to start: 1, or 3 for a cluster.")] = 1,
    server: _Server = None,
    json: _Json = False,
) -> int:
    """Open the office and keep it open until Ctrl-C. The same as `tieline up oneroof`."""
    os.environ["ONEROOF_DATA"] = str((data or _BOOKS) / "books")
    store = None if server else data  # with a server elsewhere the folder is for the books alone
    elsewhere = [server] if server else None
    return tieline_up("oneroof", port, monitor_port, store, servers, server=elsewhere, json=json)


@app.command()
def call(server: _Server = None, data: _Data = None) -> int:
    """Type to the office and be answered; an empty line is silence, Ctrl-D hangs up.

    Calls the open office at --server (or nats://127.0.0.1:4222); where none is open, opens one for this call.
    """
    return asyncio.run(converse(server, f"nats://127.0.0.1:{_PORT}", data or _BOOKS))


def main() -> int:
    """Run the command of ``sys.argv``; the exit code: 0 done, 1 failed, 2 wrong usage."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        print(f"error: {getattr(error, 'format_message', error.__str__)()}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    except TielineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadSettings | BadDeclaration) else 1
    except KeyboardInterrupt:
        return 130
