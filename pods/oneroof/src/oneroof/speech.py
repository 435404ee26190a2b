"""Figures and lists as they are spoken."""

from collections.abc import Sequence

from oneroof.tools import HomeCard

__all__ = ["dollars", "home_in_words", "listed"]


def dollars(amount: int) -> str:
    """``$845,000``, to the nearest thousand above a hundred thousand."""
    return f"${round(amount, -3):,}" if amount >= 100_000 else f"${amount:,}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def home_in_words(home: HomeCard) -> str:
    """A home in one breath."""
    water = ", on the water" if home.waterfront else ""
    asking = f", at {dollars(home.asking)}" if home.asking is not None else ""
    baths = f"{home.baths:g}"
    return (
        f"home {home.number} in {home.place}, {home.beds} beds, {baths} baths, {home.sqft:,} square feet{water}{asking}"
    )
