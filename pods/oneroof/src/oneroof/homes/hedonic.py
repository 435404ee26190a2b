"""What each trait of a home is usually worth, and how far a local fit may depart from that.

The usual values are rules of thumb, round on purpose. A local regression starts from them and moves as far as
the sales near the subject tell it to (a ridge prior), so that two hundred sales without one waterfront among
them still say something sensible about a home on the water.
"""

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

from oneroof.homes.records import Home, SoldHome


@dataclass(frozen=True, slots=True)
class Trait:
    """``usual`` is the change of the log price per unit; ``firmness`` counts like so many sales that show it."""

    name: str
    usual: float
    firmness: float


TRAITS: Final = (
    Trait("level", 0.0, 1e-6),
    Trait("log living area", 0.5, 1.5),
    Trait("grade", 0.08, 2.5),
    Trait("effective age, 30 years", -0.03, 2.5),
    Trait("age, 30 years", 0.0, 2.5),
    Trait("log lot area", 0.12, 1.5),
    Trait("baths", 0.02, 2.5),
    Trait("kilometres east", 0.0, 2.5),
    Trait("kilometres north", 0.0, 2.5),
    Trait("years later", 0.0, 15.0),
    Trait("beds", 0.01, 2.5),
    Trait("waterfront", 0.35, 1.0),
    Trait("new", 0.05, 1.0),
)


def differences(sold: SoldHome, subject: Home, as_of: date) -> list[float]:
    """How the sold home differed from the subject on ``as_of``, in the units and the order of ``TRAITS``."""
    home, sold_on = sold.home, sold.sale.sold_on
    east, north = home.position
    subject_east, subject_north = subject.position
    age, subject_age = home.age(sold_on), subject.age(as_of)
    return [
        1.0,
        math.log(home.living_sf / subject.living_sf),
        home.grade - subject.grade,
        (home.effective_age(sold_on) - subject.effective_age(as_of)) / 30,
        (age - subject_age) / 30,
        math.log(home.lot_sf / subject.lot_sf),
        home.baths - subject.baths,
        east - subject_east,
        north - subject_north,
        (sold_on - as_of).days / 365,
        home.beds - subject.beds,
        home.waterfront - subject.waterfront,
        (age <= 1) - (subject_age <= 1),
    ]
