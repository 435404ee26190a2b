"""What a home is worth on a day, from sales before that day alone: the sales comparison approach.

1. Comparables: up to 200 earlier sales of like homes nearby (``comparables``).
2. Time: each price is carried to the day by the price index (``price_index``).
3. Adjustment: a weighted log-linear fit over the comparables says what size, grade, age, lot and the rest are
   worth here and now; sales far from the fit (forced sales, gifts) lose weight.
4. The street: what the fit leaves over at the sales next door counts for the subject too.
5. The home itself: how its own last sale compared with such an estimate tells what no record shows, its condition.
6. Range: the spread that the comparables themselves keep around the fit.

The few constants below were chosen on sales from June 2013 to June 2015; ``bench/valuation.py`` tests on later ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from oneroof.homes import comparables, price_index, regression
from oneroof.homes.comparables import Comparable
from oneroof.homes.database import Homes
from oneroof.homes.hedonic import TRAITS, differences
from oneroof.homes.price_index import KnownIndex
from oneroof.homes.records import Home, SoldHome

_FEWEST: Final = 40
_NEIGHBOURS: Final = 30  # the likeness of the 30th sets how fast weights fall: wide where homes are few or odd
_MOST_UNLIKE: Final = 30.0  # where even the 30th is further off than this, no estimate is honest
_FALL: Final = 0.8
_REWEIGHTINGS: Final = 2
_OUTLIER: Final = 1.5  # spreads from the fit at which a sale begins to lose weight
_MAD_TO_SPREAD: Final = 1.48
_STREET_KM: Final = 0.13
_STREET_FIRMNESS: Final = 0.7  # pulls what the street adds towards nothing, like so many sales on the fit
_LARGEST_RESIDUAL: Final = 0.3
_OWN_ABOVE: Final = 0.8  # share of the own last sale's excess over the fit that lasts
_OWN_BELOW: Final = 0.35  # and of its shortfall: less, because cheap homes get renovated
_FLIP_DAYS: Final = 548  # a shortfall this fresh says nothing: the home was bought to be renovated and sold on
_TAILS: Final = (0.1, 0.9)
_WIDEN: Final = 1.13  # a fit hugs the sales that made it; this much more holds 8 in 10 that did not
_NAMED: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparableSale:
    """A sale that the estimate rests on. ``adjusted_price``: what it says the subject would fetch, in USD."""

    parcel: str
    sold_on: date
    price: int
    adjusted_price: int
    distance_km: float
    living_sf: int
    beds: int


@dataclass(frozen=True, slots=True)
class Valuation:
    """Prices in USD, ``low <= price <= high``; the range holds the true price about 8 times in 10.

    ``comparables`` names the at most six sales that weigh most; ``method`` says in a sentence how many more were used.
    """

    price: int
    low: int
    high: int
    comparables: tuple[ComparableSale, ...]
    method: str


@dataclass(frozen=True, slots=True)
class NotEnoughSales:
    """Too few earlier sales, or too unlike the home, for an honest estimate. ``reason`` is a sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Fit:
    """``level`` is the subject's log price; ``adjusted`` each comparable's, ``leftover`` their difference."""

    coefficients: list[float]
    level: float
    adjusted: list[float]
    leftover: list[float]
    weights: list[float]


def estimate(homes: Homes, subject: Home, as_of: date) -> Valuation | NotEnoughSales:
    """What ``subject`` would sell for on ``as_of``, from sales strictly before it. Takes about 10 ms.

    For a home on offer pass ``homes.market_date``: later, its recorded price would be part of its own history.
    """
    if as_of < price_index.FIRST_DAY:
        return NotEnoughSales(f"the records begin too late for an estimate before {price_index.FIRST_DAY:%B %Y}")
    if subject.living_sf <= 0 or subject.lot_sf <= 0:
        return NotEnoughSales("the records give no size for this home")
    found = comparables.pick(homes, subject, as_of)
    if len(found) < _FEWEST:
        return NotEnoughSales(f"only {len(found)} sales of such homes within a few kilometres in five years")
    if found[_NEIGHBOURS].unlike > _MOST_UNLIKE:
        return NotEnoughSales("the sales on record are of homes too different from this one")
    index = homes.price_index.known(as_of)
    fit = _fit(found, subject, index, as_of)
    distances = [math.dist(one.sold.home.position, subject.position) for one in found]
    level = fit.level + _street(fit, distances)
    last = comparables.prior_sale(homes, subject, as_of)
    if last is not None:
        level += _own(last, subject, index, as_of, (fit.coefficients, level))
    low, high = (_WIDEN * regression.weighted_quantile(fit.leftover, fit.weights, tail) for tail in _TAILS)
    return Valuation(
        price=round(math.exp(level)),
        low=round(math.exp(level + min(low, 0.0))),
        high=round(math.exp(level + max(high, 0.0))),
        comparables=_named(found, fit, distances),
        method=f"{len(found)} earlier sales nearby, indexed by month and adjusted by a local weighted regression"
        + (", with the home's own last sale" if last is not None else ""),
    )


def _fit(found: Sequence[Comparable], subject: Home, index: KnownIndex, as_of: date) -> _Fit:
    rows = [differences(one.sold, subject, as_of) for one in found]
    columns = list(zip(*rows, strict=True))
    target = [math.log(one.sold.sale.price) + index.growth(one.sold.sale.sold_on) for one in found]
    width = _FALL * (found[_NEIGHBOURS].unlike + 0.1)
    kernel = [math.exp(-one.unlike / width) for one in found]
    prior = [(trait.usual, trait.firmness) for trait in TRAITS]
    weights = kernel
    coefficients = regression.fit(columns, target, weights, prior)
    leftover = regression.residuals(columns, target, coefficients)
    for _ in range(_REWEIGHTINGS):
        weights = _without_outliers(kernel, leftover)
        coefficients = regression.fit(columns, target, weights, prior)
        leftover = regression.residuals(columns, target, coefficients)
    level = coefficients[0]
    return _Fit(coefficients, level, [level + left for left in leftover], leftover, weights)


def _without_outliers(kernel: Sequence[float], leftover: Sequence[float]) -> list[float]:
    """Huber's weights: full up to so many robust spreads from the fit, then falling."""
    spread = _MAD_TO_SPREAD * sorted(map(abs, leftover))[len(leftover) // 2] + 1e-3
    limit = _OUTLIER * spread
    return [weight * min(1.0, limit / (abs(left) + 1e-9)) for weight, left in zip(kernel, leftover, strict=True)]


def _bounded(leftover: float) -> float:
    return max(-_LARGEST_RESIDUAL, min(_LARGEST_RESIDUAL, leftover))


def _street(fit: _Fit, distances: Sequence[float]) -> float:
    """What sales within a few hundred metres fetched over the fit."""
    near = [
        weight * math.exp(-((distance / _STREET_KM) ** 2))
        for weight, distance in zip(fit.weights, distances, strict=True)
    ]
    excess = math.sumprod(near, [_bounded(left) for left in fit.leftover])
    return excess / (math.fsum(near) + _STREET_FIRMNESS)


def _own(last: SoldHome, subject: Home, index: KnownIndex, as_of: date, expected: tuple[list[float], float]) -> float:
    """What the subject's own last sale adds: the lasting part of its excess over the fit."""
    coefficients, level = expected
    row = differences(last, subject, as_of)
    fitted = level + math.sumprod(row[1:], coefficients[1:])
    excess = _bounded(math.log(last.sale.price) + index.growth(last.sale.sold_on) - fitted)
    if excess > 0:
        return _OWN_ABOVE * excess
    return _OWN_BELOW * excess if (as_of - last.sale.sold_on).days >= _FLIP_DAYS else 0.0


def _named(found: Sequence[Comparable], fit: _Fit, distances: Sequence[float]) -> tuple[ComparableSale, ...]:
    heaviest = sorted(range(len(found)), key=lambda i: -fit.weights[i])[:_NAMED]
    return tuple(
        ComparableSale(
            parcel=found[i].sold.sale.parcel,
            sold_on=found[i].sold.sale.sold_on,
            price=found[i].sold.sale.price,
            adjusted_price=round(math.exp(fit.adjusted[i])),
            distance_km=round(distances[i], 2),
            living_sf=found[i].sold.home.living_sf,
            beds=found[i].sold.home.beds,
        )
        for i in heaviest
    )
