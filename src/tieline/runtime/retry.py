"""How long a failed message waits: growing, jittered, without holding a slot."""

import random

from tieline.settings import Limits

__all__ = ["back_off"]

_GROWTH = 4.0


def back_off(limits: Limits, failures: int) -> float:
    """Seconds to wait after the ``failures``-th failed attempt: with the defaults about 1, 4, 16 and 60.

    Jittered between three quarters and all of it, so that what failed together does not come back together.
    """
    wait = min(limits.first_retry * _GROWTH ** (failures - 1), limits.longest_retry)
    return wait * random.uniform(0.75, 1.0)
