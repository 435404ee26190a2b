"""What to tell, and when. Pure: what is dead now, what was told before, and the time go in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tieline.records.reading import read_integer, read_text, read_time

__all__ = ["STORAGE", "Change", "Page", "Saying", "Trouble", "decide", "masked", "page_in"]

type Change = Literal["opened", "updated", "cleared"]

STORAGE = "storage"
"""In place of the cause of dead letters: a stream, or the account, that has little room left."""

_MOST = 10  # pages opened at once; more are one page
_EVERY = 30.0  # seconds between two updates of a page
_NUMBER = re.compile(r"\+?\d(?:[\s().\-/]*\d){6,}")  # as people write telephone numbers
_LONGEST = 200  # characters of an example


@dataclass(frozen=True, slots=True)
class Trouble:
    """The dead letters of one agent and cause: how many there are, on which subjects, and one of them.

    Or (``cause`` is `STORAGE`) a stream that fills up: ``agent`` is its name, ``count`` the percentage whose threshold
    it has passed, and ``example`` says what to do.
    """

    agent: str
    cause: str
    count: int
    subjects: tuple[str, ...]
    example: str = ""

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.agent} {self.cause}"

    @property
    def is_storage(self) -> bool:
        """Whether it is about storage, and not about dead letters."""
        return self.cause == STORAGE

    @property
    def words(self) -> str:
        """What it is, and how much of it there is."""
        if not self.is_storage:
            return f"{self.count} dead {'letter' if self.count == 1 else 'letters'} of {self.agent}: {self.cause}"
        return f"{self.agent} is {'full' if self.count >= 98 else f'{self.count} % full'}"

    @property
    def look(self) -> str:
        """The command that shows more."""
        if self.is_storage:
            return "tieline report"
        return f"tieline dlq ls --agent {self.agent} --cause {self.cause}"


@dataclass(frozen=True, slots=True)
class Page:
    """What was told of one or several troubles, and where: ``counts`` by their keys, as they were told last.

    ``ref`` is what the receiver calls it. Times are in seconds since 1970.
    """

    ref: str
    counts: Mapping[str, int]
    opened: float
    said: float

    def record(self) -> dict[str, Any]:
        """As it is kept on the bus."""
        return {"ref": self.ref, "counts": dict(self.counts), "opened": self.opened, "said": self.said}


@dataclass(frozen=True, slots=True)
class Saying:
    """One thing to tell. ``page`` is the one that changes, as it will be; its ``ref`` is empty when it opens."""

    change: Change
    page: Page
    troubles: tuple[Trouble, ...]

    def said(self, ref: str) -> Page:
        """The page, now that it was told."""
        return replace(self.page, ref=ref)


def page_in(record: object) -> Page | None:
    """A page as it was kept; None for what is not one."""
    if not isinstance(record, Mapping) or not isinstance(record.get("counts"), Mapping):
        return None
    counts = {
        str(key): number for key, value in record["counts"].items() if (number := read_integer(value)) is not None
    }
    opened, said = read_time(record.get("opened")), read_time(record.get("said"))
    if not counts or opened is None or said is None:
        return None
    return Page(read_text(record.get("ref")), counts, opened, said)


def decide(troubles: Sequence[Trouble], pages: Sequence[Page], now: float, *, quiet: bool) -> list[Saying]:
    """What to tell one receiver who has ``pages``. Quiet hours hold back what would open; nothing else disturbs."""
    there = {trouble.key: trouble for trouble in troubles}
    told = {key for page in pages for key in page.counts}
    sayings = [saying for page in pages if (saying := _changed(page, there, now)) is not None]
    fresh = [] if quiet else [trouble for trouble in troubles if trouble.key not in told]
    for group in [fresh] if len(fresh) > _MOST else [[trouble] for trouble in fresh]:
        counts = {trouble.key: trouble.count for trouble in group}
        sayings.append(Saying("opened", Page("", counts, now, now), tuple(group)))
    return sayings


def _changed(page: Page, there: Mapping[str, Trouble], now: float) -> Saying | None:
    counts = {key: there[key].count if key in there else 0 for key in page.counts}
    left = tuple(there[key] for key in page.counts if key in there)
    if not left:
        return Saying("cleared", replace(page, counts=counts, said=now), _gone(page))
    if counts == dict(page.counts) or now - page.said < _EVERY:
        return None
    return Saying("updated", replace(page, counts=counts, said=now), left)


def _gone(page: Page) -> tuple[Trouble, ...]:
    found = []
    for key in page.counts:
        agent, _, cause = key.partition(" ")
        found.append(Trouble(agent, cause, 0, ()))
    return tuple(found)


def masked(text: str) -> str:
    """The first line of ``text``, short, with everything that looks like a telephone number taken out."""
    line = next(iter(text.strip().splitlines()), "")
    return _NUMBER.sub("[number]", line)[:_LONGEST]
