"""Whether this machine's clock and the server's agree: deadlines, delays, TTLs and signatures go by both."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["disagreement"]

_MOST = 5.0  # seconds


def disagreement(answer: Mapping[str, Any], asked: float, now: float) -> str:
    """What is to be said of a server that answered an info request between ``asked`` and ``now`` (seconds since 1970);
    empty where the clocks agree."""
    try:
        theirs = datetime.fromisoformat(str(answer["ts"])).timestamp()
    except (LookupError, ValueError):
        return ""
    ahead = max(theirs - now, 0.0) or min(theirs - asked, 0.0)  # what the time in between does not explain
    if abs(ahead) <= _MOST:
        return ""
    return (
        f"the server's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: deadlines, "
        "delays, signatures and the ends of credentials go by both. Set them right (timedatectl set-ntp true)"
    )
