"""The viewing that a call is putting together, piece by piece."""

from dataclasses import dataclass
from datetime import date, datetime, time

from oneroof.office.hours import LOCAL, is_open
from oneroof.understanding import replies
from oneroof.understanding.homes import Mention
from oneroof.understanding.when import FARTHEST, When, to_slot


@dataclass(slots=True)
class Viewing:
    """Which home and when. ``pick`` is a home named by position before the office had named any.

    Written by the dialogue that owns it; the newest value wins.
    """

    home: str | None = None
    pick: Mention | None = None
    day: date | None = None
    clock: time | None = None
    by_name: bool = False
    wished: bool = False

    def take(self, when: When, now: datetime) -> str:
        """Takes what a line says of the slot; what is wrong with it in words, or nothing if it will do."""
        if when.impossible:
            self.day = None
            return replies.OVER
        if when.day:
            self.day, self.by_name = when.day, when.by_name
        self.clock = when.clock or self.clock
        slot = self.slot(now)
        if slot and (slot <= now or slot > now + FARTHEST):
            self.day = self.clock = None
            return replies.PASSED if slot <= now else replies.OVER
        if self.clock and not is_open(slot or datetime.combine(now.astimezone(LOCAL), self.clock, LOCAL)):
            self.clock = None
            return replies.OUTSIDE
        return ""

    def take_slot(self, slot: datetime) -> None:
        """Takes one of the slots that the office offered."""
        local = slot.astimezone(LOCAL)
        self.day, self.clock, self.by_name = local.date(), local.time(), False

    def slot(self, now: datetime) -> datetime | None:
        """The moment, once both the day and the time are known."""
        if self.day is None or self.clock is None:
            return None
        return to_slot(self.day, self.clock, now, by_name=self.by_name)

    def ask_slot(self) -> str:
        """The question for the half of the slot that is missing."""
        if self.day:
            return replies.ask_time(self.day)
        return replies.ask_day(self.clock) if self.clock else replies.ASK_WHEN
