"""OneRoof's homes: the database and its builds, places, search, lookup, and what a valuation may know."""

import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneroof.homes import comparables
from oneroof.homes.database import Homes, ensure_database, open_homes, sold_home_of
from oneroof.homes.places import neighbourhood, places, resolve
from oneroof.homes.price_index import FIRST_DAY
from oneroof.homes.records import Home, HomeRecord, SoldHome, UseType
from oneroof.homes.regression import fit, residuals, weighted_quantile
from oneroof.homes.search import Criteria, NoAddresses, lookup, search
from oneroof.homes.valuation import NotEnoughSales, Valuation, estimate

_BUILD = """
import pathlib, sys
from oneroof.homes.database import ensure_database
ensure_database(pathlib.Path(sys.argv[1]))
"""
# The kernel stops these builds at one megabyte, about a seventh of the file: the first by an error, as a full disk
# does, the second by a signal that kills the process between two writes.
_NO_ROOM = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n{_BUILD}"
_KILLED = (
    "import resource, signal\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    f"signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n{_NO_ROOM}"
)


@pytest.fixture(scope="session")
def database_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_database(tmp_path_factory.mktemp("homes"))


@pytest.fixture(scope="session")
def homes(database_path: Path) -> Iterator[Homes]:
    with open_homes(database_path) as opened:
        yield opened


def _later_sales(homes: Homes, count: int, seed: int) -> list[SoldHome]:
    rows = homes.rows("SELECT * FROM sales WHERE day > ? ORDER BY id", (date(2015, 6, 30).toordinal(),))
    return [sold_home_of(row) for row in random.Random(seed).sample(rows, count)]


def _builder(folder: Path, program: str = _BUILD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# The database


def test_two_processes_that_build_at_once_leave_one_good_file(tmp_path: Path) -> None:
    builders = [_builder(tmp_path) for _ in range(2)]
    for builder in builders:
        builder.communicate(timeout=60)
    assert [builder.returncode for builder in builders] == [0, 0]
    (only,) = tmp_path.iterdir()
    assert only == ensure_database(tmp_path)
    with closing(sqlite3.connect(only)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_build_is_never_seen_and_is_swept_when_it_is_old(tmp_path: Path) -> None:
    builder = _builder(tmp_path, _KILLED)
    builder.communicate(timeout=60)
    assert builder.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".building"

    long_ago = time.time() - 3600
    os.utime(left, (long_ago, long_ago))
    path = ensure_database(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    with open_homes(path) as homes:
        assert len(homes.price_index.levels) == 84


def test_a_build_still_under_way_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "homes-other.building"
    other.touch()
    ensure_database(tmp_path)
    assert other.exists()


def test_a_build_without_room_fails_and_leaves_nothing(tmp_path: Path) -> None:
    builder = _builder(tmp_path, _NO_ROOM)
    _, errors = builder.communicate(timeout=60)
    assert builder.returncode == 1
    assert "sqlite3.OperationalError" in errors
    assert list(tmp_path.iterdir()) == []


def test_it_is_opened_read_only(homes: Homes) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        homes.rows("DELETE FROM sales")


def test_every_sale_of_the_records_is_there_once(homes: Homes) -> None:
    ((sales, parcels, shortest, longest),) = homes.rows(
        "SELECT count(*), count(DISTINCT parcel), min(length(parcel)), max(length(parcel)) FROM sales"
    )
    assert (parcels, shortest, longest) == (38251, 10, 10)
    assert 43_000 < sales <= 43_313
    ((twice,),) = homes.rows(
        "SELECT count(*) FROM (SELECT 1 FROM sales GROUP BY parcel, day, price HAVING count(*) > 1)"
    )
    assert twice == 0


def test_listings_are_last_sales_after_the_offices_day(homes: Homes) -> None:
    rows = homes.rows(
        "SELECT number, day, (SELECT max(day) FROM sales s WHERE s.parcel = sales.parcel) AS last"
        " FROM listings JOIN sales ON sales.id = sale_id ORDER BY number"
    )
    assert [row["number"] for row in rows] == list(range(1001, 1001 + len(rows)))
    assert all(row["day"] == row["last"] > homes.market_date.toordinal() for row in rows)


# Places


@pytest.mark.parametrize(
    ("spoken", "name"),
    [
        ("ballard", "Ballard"),
        ("Cap Hill", "Capitol Hill"),
        ("queen anne", "Queen Anne"),
        ("something in West Seattle, please", "West Seattle"),
        ("the West Seattle Junction", "West Seattle Junction"),
        ("u-district", "University District"),
        ("balard", "Ballard"),
        ("Wedgewood", "Wedgwood"),
    ],
)
def test_a_spoken_place_is_found(spoken: str, name: str) -> None:
    place = resolve(spoken)
    assert place is not None
    assert place.name == name


@pytest.mark.parametrize("spoken", ["", "   ", "tacoma", "new york", "12345", "a house", "¿qué?"])
def test_what_is_no_place_here_is_none(spoken: str) -> None:
    assert resolve(spoken) is None


def test_every_place_is_found_by_its_own_name_and_nearly_all_have_homes_on_offer(homes: Homes) -> None:
    assert all(resolve(place.name) == place for place in places())
    bare = [place.name for place in places() if search(homes, Criteria(place=place)).total == 0]
    assert bare == ["98104", "Downtown"]  # flats only, which the records leave out


def test_a_position_has_the_name_of_the_nearest_centre() -> None:
    assert neighbourhood(47.6687, -122.3847) == "Ballard"
    assert neighbourhood(47.637, -122.3565) == "Queen Anne"


# Search and lookup

_CRITERIA = st.builds(
    Criteria,
    place=st.none() | st.sampled_from(places()),
    min_beds=st.none() | st.integers(0, 6),
    min_baths=st.none() | st.sampled_from([1.0, 1.75, 2.5]),
    min_price=st.none() | st.integers(100_000, 900_000),
    max_price=st.none() | st.integers(200_000, 2_000_000),
    min_living_sf=st.none() | st.integers(500, 3000),
    max_living_sf=st.none() | st.integers(800, 5000),
    waterfront=st.none() | st.booleans(),
    use_type=st.none() | st.sampled_from(UseType),
    limit=st.integers(1, 20),
)


@given(criteria=_CRITERIA)
def test_every_match_meets_every_criterion(homes: Homes, criteria: Criteria) -> None:
    matches = search(homes, criteria)
    assert len(matches.listings) == min(matches.total, criteria.limit)
    for listing in matches.listings:
        home, price = listing.home, listing.asking_price
        assert criteria.place is None or home.neighbourhood in criteria.place.neighbourhoods
        assert criteria.min_beds is None or home.beds >= criteria.min_beds
        assert criteria.min_baths is None or home.baths >= criteria.min_baths
        assert criteria.min_price is None or price >= criteria.min_price
        assert criteria.max_price is None or price <= criteria.max_price
        assert criteria.min_living_sf is None or home.living_sf >= criteria.min_living_sf
        assert criteria.max_living_sf is None or home.living_sf <= criteria.max_living_sf
        assert criteria.waterfront is None or home.waterfront == criteria.waterfront
        assert criteria.use_type is None or home.use_type is criteria.use_type


def test_a_search_loses_nothing_and_puts_the_beds_asked_for_first(homes: Homes) -> None:
    every = search(homes, Criteria()).total
    assert every == search(homes, Criteria(waterfront=True)).total + search(homes, Criteria(waterfront=False)).total
    assert every == sum(search(homes, Criteria(use_type=use)).total for use in UseType)
    found = search(homes, Criteria(place=resolve("ballard"), min_beds=3, limit=20)).listings
    order = [(listing.home.beds, listing.asking_price) for listing in found]
    assert order == sorted(order)


@pytest.mark.parametrize("limit", [0, -1, 21])
def test_a_limit_out_of_bounds_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        Criteria(limit=limit)


def test_a_listing_is_found_by_both_its_numbers(homes: Homes) -> None:
    listing = search(homes, Criteria(limit=1)).listings[0]
    parcel = listing.home.parcel
    for asked in (f"{listing.number}", f"listing number {listing.number}", f"#{listing.number}", parcel):
        record = lookup(homes, asked)
        assert isinstance(record, HomeRecord)
        assert record.listing == listing
        assert record.home == listing.home
    assert lookup(homes, f"{parcel[:6]}-{parcel[6:]}") == lookup(homes, parcel)


def test_a_record_has_the_sales_before_the_offices_day_and_not_the_stand_in(homes: Homes) -> None:
    ((parcel,),) = homes.rows(
        "SELECT parcel FROM sales GROUP BY parcel HAVING count(*) > 1 AND min(day) <= :day AND max(day) > :day LIMIT 1",
        {"day": homes.market_date.toordinal()},
    )
    record = lookup(homes, parcel)
    assert isinstance(record, HomeRecord)
    assert record.listing is not None
    assert record.sales
    assert all(sale.sold_on <= homes.market_date and sale.parcel == parcel for sale in record.sales)


def test_a_home_that_is_not_on_offer_has_sales_and_no_listing(homes: Homes) -> None:
    record = lookup(homes, "0001800010")
    assert isinstance(record, HomeRecord)
    assert record.listing is None
    assert [sale.price for sale in record.sales] == [289_000]


@pytest.mark.parametrize("asked", ["1", "999999", "9999999999", "123456789012345678901234567890", "", "???"])
def test_an_unknown_number_is_none(homes: Homes, asked: str) -> None:
    assert lookup(homes, asked) is None


@pytest.mark.parametrize("asked", ["1234 Pine Street", "the blue house on the corner", "1600 Pennsylvania Ave NW"])
def test_an_address_is_answered_as_such(homes: Homes, asked: str) -> None:
    assert lookup(homes, asked) == NoAddresses(asked)


# Valuation


def test_an_estimate_names_earlier_comparables_and_lies_in_its_range(homes: Homes) -> None:
    for sold in _later_sales(homes, 10, seed=1):
        valuation = estimate(homes, sold.home, sold.sale.sold_on)
        assert isinstance(valuation, Valuation)
        assert valuation.low <= valuation.price <= valuation.high
        assert len(valuation.comparables) == 6
        for named in valuation.comparables:
            assert named.sold_on < sold.sale.sold_on
            assert named.parcel != sold.home.parcel
            assert homes.rows("SELECT 1 FROM sales WHERE parcel = ? AND price = ?", (named.parcel, named.price))
            assert 0 <= named.distance_km < 8
            assert named.adjusted_price > 0


def test_an_estimate_knows_no_later_sale(homes: Homes, database_path: Path, tmp_path: Path) -> None:
    """Every price from the day on is made absurd, the index with it, and no estimate moves."""
    sold = _later_sales(homes, 5, seed=2)
    for one in sold:
        day = one.sale.sold_on
        tampered = tmp_path / f"{one.home.parcel}.sqlite3"
        tampered.write_bytes(database_path.read_bytes())
        with closing(sqlite3.connect(tampered)) as connection:
            connection.execute(
                "UPDATE sales SET price = price * 9, ln_price = ln_price + 2.2 WHERE day >= ?", (day.toordinal(),)
            )
            month = (day.year - 2010) * 12 + day.month - 1
            connection.execute("UPDATE price_levels SET level = level + 2.2 WHERE month >= ?", (month,))
            connection.commit()
        with open_homes(tampered) as other:
            assert estimate(other, one.home, day) == estimate(homes, one.home, day)


def test_comparables_are_of_the_same_use_within_five_years(homes: Homes) -> None:
    (sold,) = _later_sales(homes, 1, seed=3)
    found = comparables.pick(homes, sold.home, sold.sale.sold_on)
    earliest = sold.sale.sold_on - timedelta(days=5 * 365)
    assert len(found) == comparables.MOST
    assert all(one.sold.home.use_type is sold.home.use_type for one in found)
    assert all(earliest <= one.sold.sale.sold_on < sold.sale.sold_on for one in found)
    assert [one.unlike for one in found] == sorted(one.unlike for one in found)


def test_the_index_of_a_day_does_not_change_when_months_are_added(homes: Homes) -> None:
    day = date(2014, 3, 15)
    before = replace(homes.price_index, levels=homes.price_index.levels[:50])  # to the end of February 2014
    assert before.known(day) == homes.price_index.known(day)
    with pytest.raises(ValueError, match="no price index"):
        homes.price_index.known(FIRST_DAY - timedelta(days=1))


def _absurd(home: Home) -> list[tuple[Home, date]]:
    today = date(2016, 8, 30)
    return [
        (replace(home, living_sf=100_000), today),
        (replace(home, living_sf=0), today),
        (replace(home, latitude=48.8566, longitude=2.3522), today),
        (home, date(2009, 1, 1)),
        (home, date(2040, 1, 1)),
    ]


def test_an_absurd_subject_has_no_valuation(homes: Homes) -> None:
    for home, as_of in _absurd(_later_sales(homes, 1, seed=4)[0].home):
        answer = estimate(homes, home, as_of)
        assert isinstance(answer, NotEnoughSales)
        assert answer.reason


def test_a_larger_home_is_worth_more(homes: Homes) -> None:
    for sold in _later_sales(homes, 5, seed=5):
        larger = replace(sold.home, living_sf=round(sold.home.living_sf * 1.3))
        smaller, greater = (estimate(homes, home, homes.market_date) for home in (sold.home, larger))
        assert isinstance(smaller, Valuation)
        assert isinstance(greater, Valuation)
        assert greater.price > smaller.price


def test_a_small_backtest_stays_sane(homes: Homes) -> None:
    sold = _later_sales(homes, 60, seed=6)
    answers = [(one.sale.price, estimate(homes, one.home, one.sale.sold_on)) for one in sold]
    made = [(price, answer) for price, answer in answers if isinstance(answer, Valuation)]
    assert len(made) >= 58
    assert statistics.median(abs(answer.price / price - 1) for price, answer in made) < 0.15
    assert 0.6 < statistics.fmean(answer.low <= price <= answer.high for price, answer in made) < 0.95


# The fit


def test_a_fit_recovers_a_line_and_falls_back_on_its_prior() -> None:
    ones, slope, absent = [1.0] * 5, [0.0, 1.0, 2.0, 3.0, 4.0], [0.0] * 5
    target = [2.0 + 3.0 * x for x in slope]
    coefficients = fit([ones, slope, absent], target, [1.0] * 5, [(0.0, 1e-9), (0.0, 1e-9), (0.35, 1.0)])
    assert coefficients == pytest.approx([2.0, 3.0, 0.35], abs=1e-6)
    assert residuals([ones, slope, absent], target, coefficients) == pytest.approx([0.0] * 5, abs=1e-6)


def test_a_weighted_quantile_counts_weight() -> None:
    assert weighted_quantile([3.0, 1.0, 2.0], [1.0, 1.0, 1.0], 0.5) == 2.0
    assert weighted_quantile([3.0, 1.0, 2.0], [8.0, 1.0, 1.0], 0.5) == 3.0
    assert weighted_quantile([1.0, 2.0], [1.0, 1.0], 1.0) == 2.0
