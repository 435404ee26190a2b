"""What the office knows about a home: its traits, its sales, and whether it is on offer."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from oneroof.homes.places import kilometres, neighbourhood


class UseType(StrEnum):
    """How the assessor classes a home."""

    HOUSE = "sfr"
    TOWNHOUSE = "townhouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home as the assessor described it at its last sale. Areas are in square feet.

    ``renewed`` is the year from which the assessor counts the effective age: the year of the last thorough
    renovation, or the year built. ``grade`` runs from 4 (plain) to 13 (mansion).
    """

    parcel: str
    use_type: UseType
    living_sf: int
    lot_sf: int
    grade: int
    beds: int
    baths: float
    built: int
    renewed: int
    waterfront: bool
    latitude: float
    longitude: float

    @property
    def neighbourhood(self) -> str:
        """The nearest neighbourhood's name: an approximation from the coordinates."""
        return neighbourhood(self.latitude, self.longitude)

    @property
    def position(self) -> tuple[float, float]:
        """Kilometres east and north of the centre of Seattle."""
        return kilometres(self.latitude, self.longitude)

    def age(self, on: date) -> int:
        """Years since it was built, by calendar year, never negative."""
        return max(0, on.year - self.built)

    def effective_age(self, on: date) -> int:
        """Years since it was built or renewed, by calendar year, never negative."""
        return max(0, on.year - self.renewed)


@dataclass(frozen=True, slots=True)
class Sale:
    """One recorded sale. ``price`` is in USD."""

    parcel: str
    sold_on: date
    price: int


@dataclass(frozen=True, slots=True)
class SoldHome:
    """A sale, and the home as it was described when it was sold."""

    home: Home
    sale: Sale


@dataclass(frozen=True, slots=True)
class Listing:
    """A home on offer at the office, under a number that can be said on the telephone. ``asking_price`` is in USD."""

    number: int
    home: Home
    asking_price: int


@dataclass(frozen=True, slots=True)
class HomeRecord:
    """A home, its sales up to the office's day (oldest first), and its listing if it is on offer."""

    home: Home
    sales: tuple[Sale, ...]
    listing: Listing | None
