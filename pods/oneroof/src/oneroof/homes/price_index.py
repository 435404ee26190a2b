"""How prices moved, month by month: a constant-quality index of Seattle home prices.

Each month's level is the median, over that month's sales, of the log price less what the home's traits are
usually worth (``hedonic``) and less the level of its assessor's area in 2010. A month's level depends on that
month and on 2010 alone, so cutting the series off at a date leaves exactly what was known at that date.
"""

import sqlite3
import statistics
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from typing import Final

BASE_YEAR: Final = 2010
FIRST_DAY: Final = date(BASE_YEAR + 1, 1, 1)  # before it the base year is not complete, and nothing is indexed
_FEWEST_IN_BASE: Final = 30  # sales of an area in the base year, below which its level would be chance
_TREND_MONTHS: Final = 6
_AHEAD: Final = 1.5  # months from the middle of the last smoothed pair of months to the running one

# ln price less the usual worth of the traits; the figures are those of hedonic.TRAITS.
_QUALITY_FREE: Final = """
SELECT area, day, ln_price - 0.5 * ln_living - 0.12 * ln_lot - 0.08 * grade + 0.001 * effective_age
       - 0.02 * baths - 0.01 * beds - 0.35 * waterfront - (CASE use_type WHEN 'townhouse' THEN 0.1 ELSE 0 END)
FROM sales
"""


def month_number(day: date) -> int:
    """Months since January of the base year."""
    return (day.year - BASE_YEAR) * 12 + day.month - 1


def monthly_levels(connection: sqlite3.Connection) -> list[float]:
    """The log level of each month from the base year's January to the last sale, from a filled ``sales`` table.

    A month without sales keeps the level of the month before.
    """
    rows = [
        (area, month_number(date.fromordinal(day)), level) for area, day, level in connection.execute(_QUALITY_FREE)
    ]
    by_area: defaultdict[int, list[float]] = defaultdict(list)
    for area, month, level in rows:
        if month < 12:
            by_area[area].append(level)
    bases = {area: statistics.median(levels) for area, levels in by_area.items() if len(levels) >= _FEWEST_IN_BASE}
    by_month: defaultdict[int, list[float]] = defaultdict(list)
    for area, month, level in rows:
        if area in bases:
            by_month[month].append(level - bases[area])
    levels: list[float] = []
    for month in range(max(by_month) + 1):
        levels.append(statistics.median(by_month[month]) if by_month[month] else levels[-1])
    return levels


@dataclass(frozen=True, slots=True)
class KnownIndex:
    """The index as it was known on a day: ``levels`` has each full month before it, then the running month."""

    levels: tuple[float, ...]

    def growth(self, sold_on: date) -> float:
        """The change of the log price level from ``sold_on`` to the day of this index."""
        return self.levels[-1] - self.levels[min(month_number(sold_on), len(self.levels) - 1)]


@dataclass(frozen=True, slots=True)
class PriceIndex:
    """Log price levels by month, from January of the base year."""

    levels: tuple[float, ...]

    def known(self, as_of: date) -> KnownIndex:
        """The index from full months before ``as_of``'s alone, smoothed over three months.

        The running month continues the trend of the last half year. ``as_of`` must not be before ``FIRST_DAY``.
        """
        if as_of < FIRST_DAY:
            raise ValueError(f"no price index before {FIRST_DAY}: {as_of} was asked for")
        full = self.levels[: month_number(as_of)]
        smooth = [statistics.fmean(full[max(0, month - 1) : month + 2]) for month in range(len(full))]
        trend = (smooth[-1] - smooth[-1 - _TREND_MONTHS]) / _TREND_MONTHS
        return KnownIndex((*smooth, smooth[-1] + _AHEAD * trend))
