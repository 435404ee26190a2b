"""The tools: five ways to the office's books, each run by the tool executor and by nobody else."""

import asyncio
from dataclasses import replace
from datetime import date
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from oneroof import premises
from oneroof.declared import pod
from oneroof.homes import places
from oneroof.homes.records import Home, HomeRecord, Listing, UseType
from oneroof.homes.search import Criteria, NoAddresses, lookup, search
from oneroof.homes.valuation import NotEnoughSales, estimate
from oneroof.office.calendar import Booked
from oneroof.office.hours import VIEWING_MINUTES
from oneroof.understanding.wishes import HomeType
from tieline import ToolRun

__all__ = [
    "Comparable",
    "Comps",
    "HomeCard",
    "SearchPage",
    "Viewing",
    "Wanted",
    "calendar",
    "comps",
    "crm",
    "mls",
    "web",
]

_USE_TYPES: Final[dict[HomeType, UseType]] = {"house": UseType.HOUSE, "townhouse": UseType.TOWNHOUSE}


class _Result(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class HomeCard(_Result):
    """A home in a few words. ``number`` is what to say for it: its listing number, else its parcel number."""

    number: str
    place: str
    beds: int
    baths: float
    sqft: int
    built: int
    waterfront: bool
    asking: int | None
    last_sold: date | None = None
    last_price: int | None = None


class SearchPage(_Result):
    """``total`` homes match; ``homes`` are the first of them.

    ``unknown_place`` is a place that we do not cover, ``resembles`` the one whose name is most like it.
    """

    total: int
    homes: list[HomeCard]
    unknown_place: str | None = None
    resembles: str | None = None


class Viewing(_Result):
    """A viewing at ``slot``, or, where that time is taken, other times."""

    booked: bool
    slot: AwareDatetime
    alternatives: list[AwareDatetime] = []


class Comparable(_Result):
    """A comparable sale. Prices in USD; ``adjusted`` is today's, for a home like the one asked about."""

    parcel: str
    sold_on: date
    price: int
    adjusted: int
    km: float


class Comps(_Result):
    """What a home is worth, in USD; ``low`` to ``high`` holds the price about 8 times in 10."""

    price: int
    low: int
    high: int
    as_of: date
    method: str
    comparables: list[Comparable]


class Wanted(_Result):
    """What a search may name. A home lies in one of ``places`` (anywhere if there are none) and in none of
    ``not_places``. None leaves a trait open; prices in USD, areas in square feet."""

    places: tuple[str, ...] = ()
    not_places: tuple[str, ...] = ()
    home_type: HomeType | None = None
    beds: int | None = None
    baths: float | None = None
    min_price: int | None = None
    max_price: int | None = None
    min_sqft: int | None = None
    max_sqft: int | None = None
    waterfront: bool | None = None


@pod.tool(effect="read")
async def web(wanted: Wanted) -> SearchPage:
    """The listings web: homes on offer that fit. A search that names a place we do not know finds nothing."""
    named = [name for name in (*wanted.places, *wanted.not_places) if places.find_place(name) is None]
    if named and not places.is_everywhere(named[0]):
        nearest = places.resolve(named[0])
        return SearchPage(total=0, homes=[], unknown_place=named[0], resembles=nearest.name if nearest else None)
    criteria = Criteria(
        places=tuple(place for name in wanted.places if (place := places.find_place(name))),
        not_places=tuple(place for name in wanted.not_places if (place := places.find_place(name))),
        min_beds=wanted.beds,
        min_baths=wanted.baths,
        min_price=wanted.min_price,
        max_price=wanted.max_price,
        min_living_sf=wanted.min_sqft,
        max_living_sf=wanted.max_sqft,
        waterfront=wanted.waterfront,
        use_type=_USE_TYPES[wanted.home_type] if wanted.home_type else None,
    )
    found = await asyncio.to_thread(search, premises.homes(), criteria)
    return SearchPage(total=found.total, homes=[_offered(listing) for listing in found.listings])


@pod.tool(effect="read")
async def mls(home: str) -> HomeCard | None:
    """One home by its listing or parcel number; None where there is none, or where only an address was given."""
    match await asyncio.to_thread(lookup, premises.homes(), home):
        case HomeRecord(listing=listing, home=known, sales=sales):
            number = str(listing.number) if listing else known.parcel
            asking = listing.asking_price if listing else None
            last = sales[-1] if sales else None
            return _card(
                known, number, asking, last_sold=last.sold_on if last else None, last_price=last.price if last else None
            )
        case NoAddresses() | None:
            return None


@pod.tool(effect="read")
async def comps(home: str) -> Comps | None:
    """What a home is worth by comparable sales; None where it is unknown or too few sales resemble it."""
    homes = premises.homes()
    record = await asyncio.to_thread(lookup, homes, home)
    if not isinstance(record, HomeRecord):
        return None
    worth = await asyncio.to_thread(estimate, homes, record.home, homes.market_date)
    if isinstance(worth, NotEnoughSales):
        return None
    return Comps(
        price=worth.price,
        low=worth.low,
        high=worth.high,
        as_of=homes.market_date,
        method=worth.method,
        comparables=[
            Comparable(parcel=c.parcel, sold_on=c.sold_on, price=c.price, adjusted=c.adjusted_price, km=c.distance_km)
            for c in worth.comparables
        ],
    )


@pod.tool(effect="once", limits=replace(pod.limits, concurrency=4, timeout=30.0))
async def calendar(
    run: ToolRun, home: str, slot: AwareDatetime, summary: str, instead_of: str | None = None
) -> Viewing:
    """Book a viewing. A call has one viewing of a home: a repeat finds it, a changed mind moves it.

    The call's viewing of ``instead_of`` is given up once this one is booked.
    """
    book = premises.calendar().book
    uid = f"{run.conversation}-{home}"
    replaces = f"{run.conversation}-{instead_of}" if instead_of else ""
    answer = await asyncio.to_thread(book, uid, slot, VIEWING_MINUTES, home, summary, replaces)
    if isinstance(answer, Booked):
        return Viewing(booked=True, slot=answer.slot)
    return Viewing(booked=False, slot=slot, alternatives=list(answer.alternatives))


@pod.tool(effect="once", limits=replace(pod.limits, concurrency=4, timeout=30.0))
async def crm(run: ToolRun, phone: str | None, kind: str, text: str) -> str:
    """Note something about a caller; returns the lead's id. The call's key makes a repeat the same note."""
    return str(await asyncio.to_thread(premises.crm().note, run.key, phone, kind, text, run.conversation))


def _offered(listing: Listing) -> HomeCard:
    return _card(listing.home, str(listing.number), listing.asking_price)


def _card(
    home: Home, number: str, asking: int | None, *, last_sold: date | None = None, last_price: int | None = None
) -> HomeCard:
    return HomeCard(
        number=number,
        place=home.neighbourhood,
        beds=home.beds,
        baths=home.baths,
        sqft=home.living_sf,
        built=home.built,
        waterfront=home.waterfront,
        asking=asking,
        last_sold=last_sold,
        last_price=last_price,
    )
