"""The office's customers and what they wanted, in SQLite."""

import sqlite3
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Final, NewType, Self

LeadId = NewType("LeadId", int)

CALLBACK_KINDS: Final = ("escalate", "voicemail")
_PATIENCE: Final = 10.0  # seconds that a writer waits for another process

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS leads (
    id INTEGER PRIMARY KEY,
    contact TEXT NOT NULL UNIQUE,  -- the telephone number, or call:<call id> of a caller who left none
    phone TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS notes (
    key TEXT PRIMARY KEY,
    lead INTEGER NOT NULL REFERENCES leads (id),
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    call_id TEXT NOT NULL,
    at REAL NOT NULL  -- seconds since 1970
) STRICT;
CREATE INDEX IF NOT EXISTS notes_by_lead ON notes (lead, at);
"""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that a caller wanted. What it says stays out of its repr."""

    key: str
    lead: LeadId
    kind: str
    text: str = field(repr=False)
    call_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Lead:
    """A customer, with the notes on them, the oldest first. The telephone number stays out of the repr."""

    id: LeadId
    phone: str | None = field(repr=False)
    notes: tuple[Note, ...]


class Crm:
    """The customers in the database at ``path``, which is made if it is not there.

    Threads and processes may share it. Blocks on the disk; an event loop calls it in a thread.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._turn = Lock()  # one connection, so threads take turns on it
        self._db = sqlite3.connect(path, timeout=_PATIENCE, autocommit=True, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)

    def note(self, key: str, phone: str | None, kind: str, text: str, call_id: str) -> LeadId:
        """Records what a caller wanted, and whose it is.

        ``key`` makes it idempotent: noted again, it gives the same lead and changes nothing. A
        caller without a number is one lead a call. After it returns, the note survives a power cut.
        """
        contact = phone or f"call:{call_id}"
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                lead = self._noted(key)
                if lead is None:
                    self._db.execute(
                        "INSERT INTO leads (contact, phone) VALUES (?, ?) ON CONFLICT DO NOTHING", (contact, phone)
                    )
                    (lead,) = self._db.execute("SELECT id FROM leads WHERE contact = ?", (contact,)).fetchone()
                    at = datetime.now(UTC).timestamp()
                    self._db.execute(
                        "INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?)", (key, lead, kind, text, call_id, at)
                    )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return LeadId(lead)

    def lead(self, phone: str) -> Lead | None:
        """The customer with this number (E.164), or None."""
        with self._turn:
            row = self._db.execute("SELECT id, phone FROM leads WHERE contact = ?", (phone,)).fetchone()
            return self._lead(*row) if row else None

    def callbacks(self) -> tuple[Lead, ...]:
        """The customers who asked for a person or left a message, the longest waiting first."""
        marks = ", ".join("?" * len(CALLBACK_KINDS))
        with self._turn:
            rows = self._db.execute(
                f"SELECT leads.id, phone FROM leads JOIN notes ON lead = leads.id WHERE kind IN ({marks}) "
                "GROUP BY leads.id ORDER BY min(at), leads.id",
                CALLBACK_KINDS,
            ).fetchall()
            return tuple(self._lead(*row) for row in rows)

    def close(self) -> None:
        """Closes the database. Safe to call twice."""
        with self._turn:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _noted(self, key: str) -> int | None:
        row: tuple[int] | None = self._db.execute("SELECT lead FROM notes WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _lead(self, number: int, phone: str | None) -> Lead:
        rows = self._db.execute(
            "SELECT key, lead, kind, text, call_id, at FROM notes WHERE lead = ? ORDER BY at, key", (number,)
        )
        notes = tuple(
            Note(key, LeadId(lead), kind, text, call_id, datetime.fromtimestamp(at, UTC))
            for key, lead, kind, text, call_id, at in rows
        )
        return Lead(LeadId(number), phone, notes)
