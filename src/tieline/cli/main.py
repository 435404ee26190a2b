"""``tieline``: finds the command, and turns errors into one line and an exit code."""

import io
import sys
from importlib import import_module

import typer

from tieline.errors import BadDeclaration, BadSettings, TielineError
from tieline.wire.connection import ApiError, NoAnswer

__all__ = ["main"]

# A command's module is imported when it is asked for: `run` is what containers start, and needs no tables.
_COMMANDS = {
    "up": "tieline.cli.up",
    "run": "tieline.cli.run",
    "plan": "tieline.cli.topology",
    "apply": "tieline.cli.topology",
    "report": "tieline.cli.report",
    "losses": "tieline.cli.losses",
    "pub": "tieline.cli.pub",
    "tail": "tieline.cli.tail",
    "calls": "tieline.cli.calls",
    "dlq": "tieline.cli.dlq",
    "doctor": "tieline.cli.doctor",
    "audit": "tieline.cli.audit",
    "metrics": "tieline.cli.metrics",
    "pager": "tieline.cli.pager",
    "torture": "tieline.cli.torture",
    "tenant": "tieline.cli.tenant",
    "creds": "tieline.cli.creds",
    "backup": "tieline.cli.backup",
    "restore": "tieline.cli.backup",
    "size": "tieline.cli.size",
    "health": "tieline.cli.health",
    "deploy": "tieline.cli.deploy",
}
_FAILED = 1
_WRONG_USAGE = 2


def main() -> int:
    """Run the command of ``sys.argv``; the exit code: 0 done, 1 failed or not so, 2 wrong usage."""
    arguments = sys.argv[1:] or ["--help"]
    for stream in (sys.stdout, sys.stderr):  # others' records hold what no encoding can write
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(_app(arguments[0])(arguments, standalone_mode=False, prog_name="tieline") or 0)
    except typer.TyperException as error:
        return _say(getattr(error, "format_message", error.__str__)(), getattr(error, "exit_code", _FAILED))
    except (BadDeclaration, BadSettings) as error:
        return _say(str(error), _WRONG_USAGE)
    except TielineError as error:
        return _say(str(error), _FAILED)
    except ApiError as error:
        return _say(f"the server refuses: {error}", _FAILED)
    except NoAnswer as silence:
        return _say(f"JetStream does not answer: {silence}; is it enabled on this server?", _FAILED)


def _app(wanted: str) -> typer.Typer:
    app = typer.Typer(
        help="The event bus for AI agents on NATS JetStream. POD is module or module:attribute.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_top)
    for name in [wanted] if wanted in _COMMANDS else list(_COMMANDS):
        command = getattr(import_module(_COMMANDS[name]), name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _top() -> None:
    """The event bus for AI agents on NATS JetStream: pods, and what their streams hold."""


def _say(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
