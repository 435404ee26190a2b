"""Runs what the documentation shows. A fence's info string says how:

- ``python``: run in a namespace of its own, with the page's folder as the current one; may ``await`` at the top level.
- ``python more``: run in the namespace of the Python snippet before it on the page.
- ``python server``: a real server runs and ``TIELINE_SERVERS`` names it. A page has one, from the first that asks.
- ``python file=desk.py``: also saved in the page's folder, for the snippets after it.
- ``console``: every line that begins with ``$ tieline``, ``$ oneroof`` or ``$ pytest`` is run, and must exit with 0.
  Lines below it must appear in its output, in that order; ``…`` stands for anything, and runs of spaces are one.
- ``console exit=1``: its commands must exit with 1.
- ``console server``: as for Python.
- ``console stays``: its one command runs until the page ends, then gets Ctrl-C and must exit with 0. The next snippet
  runs once it has said ``ready:``. ``up`` gets a free port, and the commands after it find its server.

The words combine (``python more server``). Other languages (``sh``, ``json``, ``text`` …) are shown and not run.
"""

import ast
import asyncio
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Page", "Snippet", "pages", "snippets"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = ("tieline", "oneroof", "pytest")
_BIN = Path(sys.executable).parent
_LIMIT = 60.0  # seconds for one command


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fence. ``where`` is its page and line."""

    language: str
    words: tuple[str, ...]
    text: str
    where: str
    line: int

    def value(self, name: str) -> str | None:
        """What ``name=…`` in the info string gives."""
        return next((word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")), None)


def pages() -> list[Path]:
    """The README and everything under docs."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path) -> list[Snippet]:
    """The fences of a page that are run, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        words = tuple(match[2].split())
        found.append(Snippet(match[1], words, match[3], f"{page.relative_to(ROOT)}:{line}", line))
    return [snippet for snippet in found if snippet.language in ("python", "console")]


@dataclass
class Page:
    """The run of one page, in ``folder``. ``start_server`` gives the URL of a server; it is called once at most."""

    folder: Path
    start_server: Callable[[], str]
    env: dict[str, str]
    namespace: dict[str, Any] = field(default_factory=dict)
    staying: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, snippet: Snippet) -> None:
        """Run it; `AssertionError` where it does not do what the page says."""
        if "server" in snippet.words and "TIELINE_SERVERS" not in self.env:
            self._find_server(self.start_server())
        if snippet.language == "console":
            self._console(snippet)
            return
        if (name := snippet.value("file")) is not None:
            (self.folder / name).write_text(snippet.text, encoding="utf-8")
        if "more" not in snippet.words:
            self.namespace = {"__name__": "snippet"}
        code = compile("\n" * snippet.line + snippet.text, snippet.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        awaited = eval(code, self.namespace)
        if inspect.iscoroutine(awaited):
            asyncio.run(awaited)

    def close(self) -> None:
        """Ctrl-C to what stays; it must end as if nothing had happened."""
        for process in self.staying:
            process.send_signal(signal.SIGINT)
        for process in self.staying:
            output, _ = process.communicate(timeout=_LIMIT)
            assert process.returncode == 0, f"{process.args!r} ended with {process.returncode}\n{output}"

    def _console(self, snippet: Snippet) -> None:
        expected = int(snippet.value("exit") or 0)
        for command, shown in _commands(snippet.text):
            if "stays" in snippet.words:
                self._stay(command)
                continue
            process = subprocess.run(
                command, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=_LIMIT, check=False
            )
            output = process.stdout + process.stderr
            told = f"{snippet.where}: {shlex.join(command)} ended with {process.returncode}\n{output}"
            assert process.returncode == expected, told
            _check_shown(shown, output, told)

    def _stay(self, command: list[str]) -> None:
        free = ["--port", "0"] if "up" in command[:2] else []
        process = subprocess.Popen(
            [*command, *free],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.staying.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.match(r"NATS +(nats://\S+)", line):
                self._find_server(match[1])
            if line.startswith("ready:"):
                return
        raise AssertionError(f"{shlex.join(command)} ended before it was ready")

    def _find_server(self, url: str) -> None:
        self.env["TIELINE_SERVERS"] = os.environ["TIELINE_SERVERS"] = url


def _commands(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a console snippet that is run, with the lines shown below it."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, *shown = part.splitlines()
        program, *arguments = shlex.split(line)
        if program in _RUN:
            yield [str(_BIN / program), *arguments], [one for one in shown if one.strip()]


def _check_shown(shown: list[str], output: str, told: str) -> None:
    rest = [" ".join(line.split()) for line in output.splitlines()]
    for line in shown:
        pattern = re.compile(
            ".*".join(re.escape(" ".join(part.split())) for part in line.split("…")).replace("\\ .*", " ?.*")
        )
        at = next((n for n, said in enumerate(rest) if pattern.search(said)), None)
        assert at is not None, f"no line like {line!r} (or not in this order)\n{told}"
        rest = rest[at + 1 :]
