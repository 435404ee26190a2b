"""A clock outside the event loop: a loop that spins cannot fire its own timeouts."""

import faulthandler
import os
import threading
from types import TracebackType
from typing import Self

__all__ = ["Watchdog", "report_to"]

_EXIT_CODE = 70  # EX_SOFTWARE
_STDERR = 2

_report_descriptor = _STDERR  # set by the pytest plugin alone, which knows the terminal behind pytest's capture


def report_to(descriptor: int = _STDERR) -> None:
    """Where a watchdog writes its last words: a file descriptor. The default is stderr."""
    global _report_descriptor
    _report_descriptor = descriptor


class Watchdog:
    """Ends the process with exit code 70, all stacks on stderr, if its block lasts longer than ``limit`` seconds.

    A thread counts, so it also ends a block that never yields. It ends the process because nothing less can stop such
    a loop. Code that holds the interpreter lock all the time (a C extension) escapes it.
    """

    def __init__(self, what: str, limit: float) -> None:
        self._what = what
        self._limit = limit
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watchdog: {what}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._over.wait(self._limit):
            return
        text = f"\nwatchdog: {self._what}: no end after {self._limit:g} s; the event loop is blocked or spins\n\n"
        os.write(_report_descriptor, text.encode(errors="replace"))
        faulthandler.dump_traceback(file=_report_descriptor, all_threads=True)
        os._exit(_EXIT_CODE)
