"""The tools: five ways to the office's books, each run by the tool executor and by nobody else."""

import asyncio
from dataclasses import replace
from datetime import date

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from oneroof import premises
from oneroof.declared import pod
from oneroof.homes import places
from oneroof.homes.records import Home, HomeRecord, Listing
from oneroof.homes.search import Criteria, NoAddresses, lookup, search
from oneroof.homes.valuation import NotEnoughSales, estimate
from oneroof.office.calendar import Booked
from oneroof.office.hours import VIEWING_MINUTES
from tieline import ToolRun

__all__ = ["Comparable", "Comps", "HomeCard", "SearchPage", "Viewing", "calendar", "comps", "crm", "mls", "web"]


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
    """``total`` homes match; ``homes`` are the first of them. ``known_place`` is false for a place we do not cover."""

    total: int
    homes: list[HomeCard]
    known_place: bool = True


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


@pod.tool(effect="read")
async def web(
    place: str | None,
    beds: int | None,
    baths: float | None,
    min_price: int | None,
    max_price: int | None,
    min_sqft: int | None,
    waterfront: bool,
) -> SearchPage:
    """The listings web: homes on offer that fit."""
    where = places.resolve(place) if place else None
    if place and where is None:
        return SearchPage(total=0, homes=[], known_place=False)
    wanted = Criteria(
        place=where,
        min_beds=beds,
        min_baths=baths,
        min_price=min_price,
        max_price=max_price,
        min_living_sf=min_sqft,
        waterfront=waterfront or None,
    )
    found = await asyncio.to_thread(search, premises.homes(), wanted)
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
async def calendar(run: ToolRun, home: str, slot: AwareDatetime, summary: str) -> Viewing:
    """Book a viewing. A call has one viewing of a home: a repeat finds it, a changed mind moves it."""
    book = premises.calendar().book
    uid = f"{run.conversation}-{home}"
    answer = await asyncio.to_thread(book, uid, slot, VIEWING_MINUTES, home, summary)
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
