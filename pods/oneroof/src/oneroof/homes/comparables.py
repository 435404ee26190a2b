"""Choose the earlier sales that say most about a home: near it, like it, and recent."""

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

from oneroof.homes.database import Homes, sold_home_of
from oneroof.homes.records import Home, SoldHome

MOST: Final = 200
_YEARS: Final = 5
_REACHES_KM: Final = (2.0, 5.0)  # half the side of the square searched; the second where homes are few
_ENOUGH: Final = 60

# How unlike the subject a sale is: squared differences, each in the unit that costs as much as one kilometre.
_UNLIKE: Final = """
SELECT *, (east_km - :east) * (east_km - :east) + (north_km - :north) * (north_km - :north)
  + (ln_living - :ln_living) * (ln_living - :ln_living) / (0.35 * 0.35) + (grade - :grade) * (grade - :grade)
  + (effective_age - :effective_age) * (effective_age - :effective_age) / (30.0 * 30.0)
  + (ln_lot - :ln_lot) * (ln_lot - :ln_lot) / (0.5 * 0.5) + (day - :day) * (day - :day) / (730.0 * 730.0)
  + (waterfront - :waterfront) * (waterfront - :waterfront) / (0.4 * 0.4) AS unlike
FROM sales
WHERE use_type = :use_type AND parcel <> :parcel AND day < :day AND day >= :first_day
  AND east_km BETWEEN :east - :reach AND :east + :reach AND north_km BETWEEN :north - :reach AND :north + :reach
ORDER BY unlike, id LIMIT :most
"""


@dataclass(frozen=True, slots=True)
class Comparable:
    """A sale of another home before the day of the valuation. ``unlike`` 1 is as far off as a kilometre, 4 as two."""

    sold: SoldHome
    unlike: float


def pick(homes: Homes, subject: Home, as_of: date) -> list[Comparable]:
    """At most 200 sales of other homes of the same use in the five years before ``as_of``, most alike first.

    Weighs distance, living area, grade, effective age, lot, age of the sale and waterfront. Never answers with a sale
    on or after ``as_of``, nor with one of the subject itself.
    """
    east, north = subject.position
    values: dict[str, object] = {
        "east": east,
        "north": north,
        "ln_living": math.log(subject.living_sf),
        "grade": subject.grade,
        "effective_age": subject.effective_age(as_of),
        "ln_lot": math.log(subject.lot_sf),
        "day": as_of.toordinal(),
        "waterfront": subject.waterfront,
        "use_type": subject.use_type,
        "parcel": subject.parcel,
        "first_day": as_of.toordinal() - 365 * _YEARS,
        "most": MOST,
    }
    found: list[Comparable] = []
    for reach in _REACHES_KM:
        found = [Comparable(sold_home_of(row), row["unlike"]) for row in homes.rows(_UNLIKE, values | {"reach": reach})]
        if len(found) >= _ENOUGH:
            break
    return found


def prior_sale(homes: Homes, subject: Home, as_of: date) -> SoldHome | None:
    """The subject's own last sale in the five years before ``as_of``, if there is one."""
    rows = homes.rows(
        "SELECT * FROM sales WHERE parcel = ? AND day < ? AND day >= ? ORDER BY day DESC, id DESC LIMIT 1",
        (subject.parcel, as_of.toordinal(), as_of.toordinal() - 365 * _YEARS),
    )
    return sold_home_of(rows[0]) if rows else None
