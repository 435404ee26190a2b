"""Where the office keeps its books: the homes, the calendar and the CRM, under one folder."""

import os
from functools import cache
from pathlib import Path

from oneroof.homes.database import Homes, ensure_database, open_homes
from oneroof.office.calendar import Calendar
from oneroof.office.crm import Crm

__all__ = ["calendar", "crm", "folder", "homes"]


def folder() -> Path:
    """``ONEROOF_DATA``, or ``.tieline/books`` below the current folder; made if missing."""
    path = Path(os.environ.get("ONEROOF_DATA", ".tieline/books"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@cache
def homes() -> Homes:
    """The homes and their sales; the database is built at the first use."""
    return open_homes(ensure_database(folder()))


@cache
def calendar() -> Calendar:
    """The viewings, an iCalendar file."""
    return Calendar(folder() / "viewings.ics")


@cache
def crm() -> Crm:
    """Leads and notes."""
    return Crm(folder() / "crm.sqlite3")
