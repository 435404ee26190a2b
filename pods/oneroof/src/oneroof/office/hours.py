"""When the office shows homes. The one home of its time zone and its hours."""

from datetime import datetime, time
from zoneinfo import ZoneInfo

LOCAL = ZoneInfo("America/Los_Angeles")
OPENS = time(9)
CLOSES = time(18)
VIEWING_MINUTES = 30


def is_open(slot: datetime, minutes: int = VIEWING_MINUTES) -> bool:
    """Whether a viewing of ``minutes`` that starts at ``slot`` begins and ends inside one day's hours.

    The office opens every day of the week.
    """
    local = slot.astimezone(LOCAL)
    first, last = _minute(OPENS), _minute(CLOSES) - minutes
    return first <= _minute(local.time()) <= last


def _minute(clock: time) -> float:
    return clock.hour * 60 + clock.minute + clock.second / 60
