"""What passes through the seam: the transcript in; what to say and what the caller wants out.

A language model that takes over from the rules answers with the same values, so everything
here is a pydantic model that is written to and read from JSON.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

type HomeType = Literal["house", "townhouse"]


class _Spoken(BaseModel):
    """Frozen, camelCase on the wire, snake_case in Python."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


class Line(_Spoken):
    """One line of a call. ``offers`` are the home numbers that the office named in it, in spoken order."""

    who: Literal["caller", "office"]
    text: str
    offers: list[str] = []


class Search(_Spoken):
    """Homes that fit. Places are in the caller's words; prices in US dollars; areas in square feet.

    A home lies in ``place`` or in one of ``other_places``, and in none of ``not_places``.
    """

    kind: Literal["search"] = "search"
    place: str | None = None
    other_places: tuple[str, ...] = ()
    not_places: tuple[str, ...] = ()
    home_type: HomeType | None = None
    beds: int | None = None
    baths: float | None = None
    max_price: int | None = None
    min_price: int | None = None
    min_sqft: int | None = None
    max_sqft: int | None = None
    waterfront: bool = False
    not_waterfront: bool = False


class Book(_Spoken):
    """A viewing of ``home`` at ``slot`` (America/Los_Angeles) for the caller at ``phone`` (E.164).

    ``instead_of`` is the home whose viewing this one replaces.
    """

    kind: Literal["book"] = "book"
    home: str
    slot: AwareDatetime
    phone: str = Field(repr=False)
    name: str | None = None
    instead_of: str | None = None


class Research(_Spoken):
    """What ``home`` is worth, by comparable sales."""

    kind: Literal["research"] = "research"
    home: str


class Lookup(_Spoken):
    """The facts of one home: a listing number, a parcel number, or an address as it was spoken."""

    kind: Literal["lookup"] = "lookup"
    home: str


class Escalate(_Spoken):
    """A person is wanted, for ``reason``."""

    kind: Literal["escalate"] = "escalate"
    reason: str
    phone: str | None = Field(default=None, repr=False)


class Voicemail(_Spoken):
    """The caller left ``note`` for whoever comes in next."""

    kind: Literal["voicemail"] = "voicemail"
    phone: str | None = Field(default=None, repr=False)
    note: str = Field(repr=False)


type Wish = Annotated[Search | Book | Research | Lookup | Escalate | Voicemail, Field(discriminator="kind")]


class Turn(_Spoken):
    """The office's side of one turn: what it says at once, what it now has to do, whether the call ends.

    ``confirms``: it reads back what it understood, and does it only if the caller says yes.
    """

    say: str = Field(min_length=1)
    wants: tuple[Wish, ...] = ()
    hang_up: bool = False
    confirms: bool = False


class Understanding(Protocol):
    """Works out what a caller wants.

    The transcript, ending with the caller's newest line, is all the state there is: the same
    transcript and ``now`` give the same turn, so a crash can repeat one. Pass the moment the call
    began as ``now``, on every turn: "in two hours" then means the same on each of them.
    """

    async def __call__(self, transcript: Sequence[Line], now: datetime) -> Turn: ...
