"""Find homes on offer by what a caller wants, or one home by its number."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from oneroof.homes.database import Homes, home_of, sale_of
from oneroof.homes.places import Place
from oneroof.homes.records import HomeRecord, Listing, UseType

_MOST: Final = 20
_PARCEL_DIGITS: Final = 10
_NUMBER_DIGITS: Final = 9  # the most that a listing number is looked up with; longer ones are no listing
_SAID_WITH_NUMBERS: Final = {"a", "home", "house", "listing", "no", "number", "parcel", "property", "the"}

_MATCHES: Final = """
FROM listings JOIN sales ON sales.id = listings.sale_id
WHERE (:min_beds IS NULL OR beds >= :min_beds) AND (:min_baths IS NULL OR baths >= :min_baths)
  AND (:min_price IS NULL OR price >= :min_price) AND (:max_price IS NULL OR price <= :max_price)
  AND (:min_living_sf IS NULL OR living_sf >= :min_living_sf)
  AND (:max_living_sf IS NULL OR living_sf <= :max_living_sf)
  AND (:waterfront IS NULL OR waterfront = :waterfront) AND (:use_type IS NULL OR use_type = :use_type)
"""

_ORDER: Final = "ORDER BY CASE WHEN :min_beds IS NULL THEN 0 ELSE beds - :min_beds END, price, number LIMIT :limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What a caller wants. None leaves a trait open. Prices in USD, areas in square feet, ``limit`` 1 to 20.

    A home lies in ``place`` or one of ``places``, if any is given, and in none of ``not_places``.
    """

    place: Place | None = None
    places: tuple[Place, ...] = ()
    not_places: tuple[Place, ...] = ()
    min_beds: int | None = None
    min_baths: float | None = None
    min_price: int | None = None
    max_price: int | None = None
    min_living_sf: int | None = None
    max_living_sf: int | None = None
    waterfront: bool | None = None
    use_type: UseType | None = None
    limit: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= _MOST:
            raise ValueError(f"limit must be 1 to {_MOST}, not {self.limit}")


@dataclass(frozen=True, slots=True)
class Matches:
    """``total`` listings match; ``listings`` are the first of them."""

    total: int
    listings: tuple[Listing, ...]


@dataclass(frozen=True, slots=True)
class NoAddresses:
    """The records hold no street addresses, so ``asked`` cannot be looked up. A number can."""

    asked: str


def search(homes: Homes, criteria: Criteria) -> Matches:
    """Listings that meet every criterion: those with fewest beds more than asked first, the cheapest of them first."""
    values: dict[str, object] = {
        "min_beds": criteria.min_beds,
        "min_baths": criteria.min_baths,
        "min_price": criteria.min_price,
        "max_price": criteria.max_price,
        "min_living_sf": criteria.min_living_sf,
        "max_living_sf": criteria.max_living_sf,
        "waterfront": criteria.waterfront,
        "use_type": criteria.use_type,
        "limit": criteria.limit,
    }
    condition = _MATCHES
    wanted = (*criteria.places, *((criteria.place,) if criteria.place else ()))
    for key, test, named in (("in", "IN", wanted), ("out", "NOT IN", criteria.not_places)):
        names = {f"{key}{i}": name for i, name in enumerate(_neighbourhoods(named))}
        if names:
            condition += f" AND neighbourhood {test} ({', '.join(f':{name}' for name in names)})"
            values |= names
    ((total,),) = homes.rows(f"SELECT count(*) {condition}", values)
    rows = homes.rows(f"SELECT number, sales.* {condition} {_ORDER}", values)
    return Matches(total, tuple(Listing(row["number"], home_of(row), row["price"]) for row in rows))


def _neighbourhoods(places: Iterable[Place]) -> Iterable[str]:
    return dict.fromkeys(name for place in places for name in place.neighbourhoods)


def lookup(homes: Homes, asked: str) -> HomeRecord | NoAddresses | None:
    """The home with this listing number or ten-digit parcel number; None if there is none.

    Accepts numbers as people say and write them: "listing 1001", "#1001", "000180-0066". Anything with other words
    in it is taken for an address, which is answered with NoAddresses.
    """
    words = re.findall(r"[^\W\d_]+", asked.lower())
    digits = "".join(re.findall(r"[0-9]", asked))
    if not digits or not set(words) <= _SAID_WITH_NUMBERS:
        return NoAddresses(asked) if words else None
    if len(digits) == _PARCEL_DIGITS:
        return _by_parcel(homes, digits)
    return _by_number(homes, int(digits)) if len(digits) <= _NUMBER_DIGITS else None


def _by_number(homes: Homes, number: int) -> HomeRecord | None:
    rows = homes.rows("SELECT parcel FROM listings JOIN sales ON sales.id = sale_id WHERE number = ?", (number,))
    return _by_parcel(homes, rows[0]["parcel"]) if rows else None


def _by_parcel(homes: Homes, parcel: str) -> HomeRecord | None:
    rows = homes.rows(
        "SELECT number, sales.* FROM sales LEFT JOIN listings ON sale_id = sales.id WHERE parcel = ?"
        " ORDER BY day, sales.id",
        (parcel,),
    )
    if not rows:
        return None
    last = rows[-1]
    home = home_of(last)
    listing = Listing(last["number"], home, last["price"]) if last["number"] is not None else None
    today = homes.market_date.toordinal()
    return HomeRecord(home, tuple(sale_of(row) for row in rows if row["day"] <= today), listing)
