"""What a fault is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tieline.testing.torture.field import Field
from tieline.testing.torture.load import Plan
from tieline.testing.torture.record import Record

__all__ = ["Fault", "Strike"]

type Strike = Callable[[Field, Record], Awaitable[None]]
"""Breaks something, and mends it. What else it finds broken it writes into the record's ``notes``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of the suite. ``strike`` None: it cannot be run here at all, for the reason ``why_not`` gives.

    ``why_not`` says why it cannot be run on this machine, or None. ``reconnect`` is how many seconds the pod's
    processes let a server stay away.
    """

    number: int
    name: str
    breaks: str
    strike: Strike | None
    servers: int = 1
    plan: Plan = field(default_factory=Plan)
    why_not: Callable[[], str | None] = lambda: None
    reconnect: float = 60.0
    sync: str = "always"
    store: int | None = None
    """MiB of the file system that the server gets of its own; None: a folder like any."""

    apart: bool = False
    """Each server is in a network of its own."""

    powered: bool = False
    """Each server has a disk of its own, which can lose its power."""
