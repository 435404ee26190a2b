"""How far OneRoof's valuations are from the prices that homes then sold for.

A backtest on random sales after 30 June 2015. Each estimate sees only sales strictly before the day of the sale it
is compared with. Beside it the baseline: the city's median price per square foot of the year before, times the size.

    .venv/bin/python bench/valuation.py [--sample 1000] [--seed 20150630] [--json]
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from oneroof.homes.database import Homes, ensure_database, open_homes, sold_home_of
from oneroof.homes.records import SoldHome
from oneroof.homes.valuation import NotEnoughSales, estimate

AFTER = date(2015, 6, 30)


@dataclass(frozen=True, slots=True)
class Backtest:
    """Errors and coverage are shares of 1, over the sales that got an estimate; times are milliseconds."""

    sample: int
    seed: int
    estimated: int
    median_error: float
    mean_error: float
    within_10_percent: float
    coverage: float
    median_range_width: float
    baseline_median_error: float
    median_ms: float
    slowest_ms: float


def draw(homes: Homes, sample: int, seed: int) -> list[SoldHome]:
    """``sample`` random sales after ``AFTER``; the same ones for the same seed."""
    rows = homes.rows("SELECT * FROM sales WHERE day > ? ORDER BY id", (AFTER.toordinal(),))
    return [sold_home_of(row) for row in random.Random(seed).sample(rows, min(sample, len(rows)))]


def baseline(homes: Homes, sold: SoldHome) -> float:
    """The median price per square foot in the city over the year before the sale, times the home's size."""
    day = sold.sale.sold_on.toordinal()
    rows = homes.rows("SELECT price * 1.0 / living_sf AS rate FROM sales WHERE day < ? AND day >= ?", (day, day - 365))
    rate: float = statistics.median(row["rate"] for row in rows)
    return rate * sold.home.living_sf


def backtest(homes: Homes, sample: int, seed: int) -> Backtest:
    errors, baseline_errors, widths, times, covered = [], [], [], [], 0
    drawn = draw(homes, sample, seed)
    for sold in drawn:
        price = sold.sale.price
        started = time.perf_counter()
        valuation = estimate(homes, sold.home, sold.sale.sold_on)
        times.append((time.perf_counter() - started) * 1000)
        if isinstance(valuation, NotEnoughSales):
            continue
        errors.append(abs(valuation.price / price - 1))
        baseline_errors.append(abs(baseline(homes, sold) / price - 1))
        widths.append((valuation.high - valuation.low) / valuation.price)
        covered += valuation.low <= price <= valuation.high
    return Backtest(
        sample=len(drawn),
        seed=seed,
        estimated=len(errors),
        median_error=statistics.median(errors),
        mean_error=statistics.fmean(errors),
        within_10_percent=sum(error <= 0.1 for error in errors) / len(errors),
        coverage=covered / len(errors),
        median_range_width=statistics.median(widths),
        baseline_median_error=statistics.median(baseline_errors),
        median_ms=statistics.median(times),
        slowest_ms=max(times),
    )


def table(result: Backtest) -> str:
    rows = (
        ("sales after 2015-06-30, drawn with seed", f"{result.sample:,}, {result.seed}"),
        ("with an estimate", f"{result.estimated:,}"),
        ("median absolute error", f"{result.median_error:.2%}"),
        ("  baseline: city median per square foot", f"{result.baseline_median_error:.2%}"),
        ("mean absolute error", f"{result.mean_error:.2%}"),
        ("within 10 % of the price", f"{result.within_10_percent:.1%}"),
        ("price inside the range", f"{result.coverage:.1%}"),
        ("median width of the range", f"{result.median_range_width:.1%}"),
        ("time for an estimate, median / slowest", f"{result.median_ms:.1f} / {result.slowest_ms:.1f} ms"),
    )
    return "\n".join(f"{name:<42}{value:>16}" for name, value in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Backtest OneRoof's valuations on sales it has not seen.")
    parser.add_argument("--sample", type=int, default=1000, help="how many sales to estimate")
    parser.add_argument("--seed", type=int, default=20150630, help="which sales are drawn")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open_homes(ensure_database(Path(folder))) as homes:
        result = backtest(homes, options.sample, options.seed)
    print(json.dumps(asdict(result)) if options.json else table(result))


if __name__ == "__main__":
    main()
