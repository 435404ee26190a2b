"""The office's homes in one SQLite file, built once from the sales that ship with the package.

Which homes are on offer: the data has sales, not offers. Recent sales stand in for homes on offer: every home
whose last recorded sale lies in the last 120 days of the data is a listing, and its asking price is the price
recorded then. The office's day (``Homes.market_date``) is the eve of those 120 days, so whatever the office
says is known, it could have known: no sale after that day is a comparable or part of a home's history.
"""

import csv
import gzip
import hashlib
import io
import math
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Final, Self

from oneroof.homes.places import kilometres, neighbourhood
from oneroof.homes.price_index import PriceIndex, monthly_levels
from oneroof.homes.records import Home, Sale, SoldHome, UseType

_FORMAT: Final = 1  # part of the file's name: a changed schema is a new file, never a misread old one
_OFFER_DAYS: Final = 120
_FIRST_NUMBER: Final = 1001
_ABANDONED_S: Final = 600  # a build takes under a second; an unfinished file this old has no builder any more

_SCHEMA: Final = """
CREATE TABLE sales (
    id INTEGER PRIMARY KEY, parcel TEXT NOT NULL, day INTEGER NOT NULL, price INTEGER NOT NULL, use_type TEXT NOT NULL,
    area INTEGER NOT NULL, lot_sf INTEGER NOT NULL, waterfront INTEGER NOT NULL, grade INTEGER NOT NULL,
    living_sf INTEGER NOT NULL, beds INTEGER NOT NULL, baths REAL NOT NULL, age INTEGER NOT NULL,
    effective_age INTEGER NOT NULL, longitude REAL NOT NULL, latitude REAL NOT NULL, east_km REAL NOT NULL,
    north_km REAL NOT NULL, ln_price REAL NOT NULL, ln_living REAL NOT NULL, ln_lot REAL NOT NULL,
    UNIQUE (parcel, day, price) -- the records hold a few sales twice
);
CREATE TABLE listings (
    number INTEGER PRIMARY KEY, sale_id INTEGER NOT NULL REFERENCES sales (id), neighbourhood TEXT NOT NULL
);
CREATE TABLE price_levels (month INTEGER PRIMARY KEY, level REAL NOT NULL);
CREATE TABLE market (day INTEGER NOT NULL);
"""

_INDEXES: Final = """
CREATE INDEX sales_by_position ON sales (use_type, east_km);
CREATE UNIQUE INDEX listings_by_sale ON listings (sale_id);
"""

_RECENT: Final = """
SELECT id, latitude, longitude FROM sales AS last
WHERE day > ? AND id = (SELECT id FROM sales WHERE parcel = last.parcel ORDER BY day DESC, id DESC LIMIT 1)
ORDER BY parcel
"""


def ensure_database(folder: Path) -> Path:
    """The path of a complete database in ``folder``, built now if it is not there yet (under a second).

    The file appears under its name only when it is complete and on disk: a build that is interrupted is never
    seen, and processes that start at once build separately and leave one good file. Raises OSError when the
    folder cannot be written, sqlite3.OperationalError when the disk is full.
    """
    raw = (resources.files(__package__) / "data" / "seattle_sales.csv.gz").read_bytes()
    path = folder / f"homes-{_FORMAT}-{hashlib.sha256(raw).hexdigest()[:12]}.sqlite3"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    handle, name = tempfile.mkstemp(prefix="homes-", suffix=".building", dir=folder)
    building = Path(name)
    try:
        with os.fdopen(handle, "rb") as file:
            with closing(sqlite3.connect(building)) as connection:
                _build(connection, raw)
            os.fsync(file.fileno())
        # The rename comes after the sync: the name never stands for a file that a power cut could empty.
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)
    return path


def _sweep(folder: Path) -> None:
    """Remove what killed builds left behind, but nothing that another process may still be building."""
    for left in folder.glob("homes-*.building"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()
        except FileNotFoundError:
            continue  # its builder finished, or another process swept it


def _build(connection: sqlite3.Connection, compressed: bytes) -> None:
    # No journal and no sync while building: an interrupted file is thrown away, and the caller syncs a good one.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(_SCHEMA)
    places = ", ".join("?" * 20)
    connection.executemany(
        "INSERT INTO sales (parcel, day, price, use_type, area, lot_sf, waterfront, grade, living_sf, beds, baths, age,"
        " effective_age, longitude, latitude, east_km, north_km, ln_price, ln_living, ln_lot)"
        f" VALUES ({places}) ON CONFLICT (parcel, day, price) DO NOTHING",
        _rows(compressed),
    )
    connection.executescript(_INDEXES)
    (last,) = connection.execute("SELECT max(day) FROM sales").fetchone()
    market_day = last - _OFFER_DAYS
    connection.execute("INSERT INTO market VALUES (?)", (market_day,))
    recent = connection.execute(_RECENT, (market_day,)).fetchall()
    connection.executemany(
        "INSERT INTO listings VALUES (?, ?, ?)",
        (
            (number, sale_id, neighbourhood(latitude, longitude))
            for number, (sale_id, latitude, longitude) in enumerate(recent, _FIRST_NUMBER)
        ),
    )
    connection.executemany("INSERT INTO price_levels VALUES (?, ?)", enumerate(monthly_levels(connection)))
    connection.commit()


def _rows(compressed: bytes) -> Iterator[tuple[object, ...]]:
    """The columns of ``sales`` for each line, one at a time, so that a build stays small in memory."""
    with gzip.open(io.BytesIO(compressed), "rt") as table:
        lines = csv.reader(table)
        next(lines)
        yield from map(_columns, lines)


def _columns(line: list[str]) -> tuple[object, ...]:
    pin, _, price, sold_on, use_type, area, lot, water, grade, living, beds, baths, age, renewed, lon, lat = line
    dollars, lot_sf, living_sf, longitude, latitude = int(price), int(lot), int(living), float(lon), float(lat)
    return (
        *(pin.removeprefix(".."), date.fromisoformat(sold_on).toordinal(), dollars, use_type, int(area), lot_sf),
        *(int(water), int(grade), living_sf, int(beds), float(baths), int(age), int(renewed), longitude, latitude),
        *(*kilometres(latitude, longitude), math.log(dollars), math.log(living_sf), math.log(lot_sf)),
    )


class Homes:
    """The database, open for reading. Every answer is a value; the file never changes under it.

    Several threads may use it; their queries take turns. Close it, or use it in a ``with`` block.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._turn = threading.Lock()  # sqlite3 mixes up the rows of queries that run at once on one connection
        ((day,),) = self.rows("SELECT day FROM market")
        self.market_date = date.fromordinal(day)
        self.price_index = PriceIndex(
            tuple(row["level"] for row in self.rows("SELECT * FROM price_levels ORDER BY month"))
        )

    def rows(self, query: str, values: Sequence[object] | dict[str, object] = ()) -> list[sqlite3.Row]:
        """What a SELECT answers."""
        with self._turn:
            return self._connection.execute(query, values).fetchall()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_homes(path: Path) -> Homes:
    """Open a database that ``ensure_database`` returned, read-only. Takes about a millisecond."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return Homes(connection)


def home_of(row: sqlite3.Row) -> Home:
    """The home that a row of ``sales`` describes."""
    year = date.fromordinal(row["day"]).year
    return Home(
        parcel=row["parcel"],
        use_type=UseType(row["use_type"]),
        living_sf=row["living_sf"],
        lot_sf=row["lot_sf"],
        grade=row["grade"],
        beds=row["beds"],
        baths=row["baths"],
        built=year - row["age"],
        renewed=year - row["effective_age"],
        waterfront=bool(row["waterfront"]),
        latitude=row["latitude"],
        longitude=row["longitude"],
    )


def sale_of(row: sqlite3.Row) -> Sale:
    """The sale that a row of ``sales`` records."""
    return Sale(row["parcel"], date.fromordinal(row["day"]), row["price"])


def sold_home_of(row: sqlite3.Row) -> SoldHome:
    """The sale that a row of ``sales`` records, with its home."""
    return SoldHome(home_of(row), sale_of(row))
