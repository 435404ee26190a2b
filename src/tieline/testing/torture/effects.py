"""Where effects happen: a table with a row for each idempotency key, and one with a row for each run."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Effect", "Effects"]

_PATIENCE = 30.0  # seconds for another process's write


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect, as the target has it. ``place`` counts effects in the order they happened."""

    place: int
    key: str
    lane: str
    number: int


class Effects:
    """A file that any number of processes may write to. It is not made durable: machines that lose power are not its
    matter."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS effects (place INTEGER PRIMARY KEY, key TEXT UNIQUE, lane TEXT, number INTEGER)"
        )
        self._db.execute("CREATE TABLE IF NOT EXISTS runs (key TEXT, lane TEXT, number INTEGER)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._db.close()

    def cause(self, key: str, lane: str, number: int) -> int:
        """The place of the effect; that of the first one where the key is known."""
        self._db.execute("INSERT INTO runs VALUES (?, ?, ?)", (key, lane, number))
        self._db.execute("INSERT OR IGNORE INTO effects (key, lane, number) VALUES (?, ?, ?)", (key, lane, number))
        place: int = self._db.execute("SELECT place FROM effects WHERE key = ?", (key,)).fetchone()[0]
        return place

    def all(self) -> list[Effect]:
        """Every effect, in order."""
        return [Effect(*row) for row in self._db.execute("SELECT place, key, lane, number FROM effects ORDER BY place")]

    def count(self) -> int:
        """How many there are."""
        number: int = self._db.execute("SELECT count(*) FROM effects").fetchone()[0]
        return number

    def has(self, lane: str, number: int) -> bool:
        """Whether a job had its effect."""
        found = self._db.execute("SELECT 1 FROM effects WHERE lane = ? AND number = ?", (lane, number)).fetchone()
        return found is not None

    def runs(self) -> int:
        """How often the tool ran."""
        number: int = self._db.execute("SELECT count(*) FROM runs").fetchone()[0]
        return number
