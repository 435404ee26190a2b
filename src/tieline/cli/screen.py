"""What ``tieline up`` shows: to people, or to a script."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

from rich.text import Text

from tieline.cli.printing import console, print_json, table
from tieline.server.keeping import describe_end
from tieline.services.supervisor import Event, Exited, Logged, Process, Restarted

__all__ = ["ForPeople", "ForScripts", "Running", "Screen"]

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")


@dataclass(frozen=True, slots=True)
class Running:
    """What runs, and where."""

    urls: tuple[str, ...]
    monitor_url: str | None
    processes: Sequence[Process]
    pids: Mapping[str, int]


class Screen(Protocol):
    """Where `up` says what it does."""

    def started(self, running: Running) -> None:
        """Everything has a pid."""

    def ready(self, running: Running) -> None:
        """Everything pulls."""

    def happened(self, event: Event) -> None:
        """Something became of a process."""

    def stopping(self, why: str) -> None:
        """The end begins, because of ``why``."""


class ForPeople:
    """The address and a table first, then every process's lines behind its name."""

    def __init__(self) -> None:
        self._out = console()
        self._styles: dict[str, str] = {}
        self._width = 0

    def started(self, running: Running) -> None:
        self._styles = {p.name: _COLOURS[n % len(_COLOURS)] for n, p in enumerate(running.processes)}
        self._width = max(len(process.name) for process in running.processes)
        self._out.print(Text("NATS  ", style="bold").append(", ".join(map(_without_password, running.urls))))
        if running.monitor_url is not None:
            self._out.print(Text("monitoring  ", style="bold").append(running.monitor_url))
        rows = [
            [Text(p.name, style=self._styles[p.name]), running.pids[p.name], ", ".join(p.consumes) or "-"]
            for p in running.processes
        ]
        self._out.print(table("", ("process", ">pid", "consumes"), rows))

    def ready(self, running: Running) -> None:
        self._say(f"ready: {len(running.processes)} processes. Ctrl-C drains and stops", "bold green")

    def happened(self, event: Event) -> None:
        prefix = Text.assemble((f"{event.name:<{self._width}} │ ", self._styles.get(event.name, "")))
        match event:
            case Logged(text=text):
                self._out.print(prefix + Text(text), soft_wrap=True)
            case Exited(pid=pid, code=code, again_in=wait):
                again = "" if wait is None else f"; again in {wait:g} s"
                style = "dim" if wait is None and code == 0 else "bold red"
                self._out.print(prefix + Text(f"{describe_end(code)} (pid {pid}){again}", style=style), soft_wrap=True)
            case Restarted(pid=pid):
                self._out.print(prefix + Text(f"restarted, ready (pid {pid})", style="bold green"), soft_wrap=True)
            case _:
                assert_never(event)

    def stopping(self, why: str) -> None:
        self._say(f"stopping ({why}): running handlers may finish; a second signal kills them", "bold")

    def _say(self, text: str, style: str) -> None:
        self._out.print(Text(text, style=style), soft_wrap=True)


class ForScripts:
    """A JSON line for each thing that happens; the first is ``ready``, or ``stopping`` where it came to nothing."""

    def __init__(self) -> None:
        self._early: list[dict[str, Any]] | None = []  # what happened before the first line; None after it

    def started(self, running: Running) -> None:
        """Nothing: a script waits for ``ready``."""

    def ready(self, running: Running) -> None:
        processes = [{"name": p.name, "pid": running.pids[p.name], "consumes": p.consumes} for p in running.processes]
        url = ",".join(running.urls)
        ready = {"event": "ready", "url": url, "monitorUrl": running.monitor_url, "processes": processes}
        self._print_first(ready)

    def happened(self, event: Event) -> None:
        told: dict[str, Any]
        match event:
            case Logged(name, text):
                told = {"event": "log", "name": name, "text": text}
            case Exited(name, pid, code, wait):
                told = {"event": "exited", "name": name, "pid": pid, "code": code, "restartIn": wait}
            case Restarted(name, pid, restarts):
                told = {"event": "restarted", "name": name, "pid": pid, "restarts": restarts}
            case _:
                assert_never(event)
        if self._early is None:
            print_json(told)
        else:
            self._early.append(told)

    def stopping(self, why: str) -> None:
        self._print_first({"event": "stopping", "why": why})

    def _print_first(self, told: dict[str, Any]) -> None:
        print_json(told)
        for early in self._early or ():
            print_json(early)
        self._early = None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
