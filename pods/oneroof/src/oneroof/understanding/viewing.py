"""The viewing that a call is putting together, piece by piece."""

from dataclasses import dataclass
from datetime import date, datetime, time

from oneroof.office.hours import LOCAL, is_open
from oneroof.understanding import replies
from oneroof.understanding.homes import Mention
from oneroof.understanding.when import FARTHEST, When, say_clock, say_day, to_slot


@dataclass(slots=True)
class Viewing:
    """Which home and when. ``pick`` is a home named by position before the office had named any.

    ``instead_of`` is a home whose viewing was wished and that this one replaces. ``unsure``: something in what the
    caller said was not understood, or could be understood otherwise, so the viewing is read back before it is wished;
    ``odd`` are the words. Written by the dialogue that owns it; the newest value wins.
    """

    home: str | None = None
    pick: Mention | None = None
    day: date | None = None
    clock: time | None = None
    by_name: bool = False
    wished: bool = False
    instead_of: str | None = None
    unsure: bool = False
    odd: str = ""

    def take(self, when: When, now: datetime) -> str:
        """Takes what a line says of the slot; what is wrong with it in words, or nothing if it will do."""
        if when.impossible:
            self.day = None
            return replies.OVER
        problem = self._take_day(when) or self._take_clock(when)
        slot = self.slot(now)
        if slot and (slot <= now or slot > now + FARTHEST):
            self.day = self.clock = None
            return replies.PASSED if slot <= now else replies.OVER
        if self.clock and not is_open(slot or datetime.combine(now.astimezone(LOCAL), self.clock, LOCAL)):
            self.clock = None
            return replies.OUTSIDE
        return problem

    def _take_day(self, when: When) -> str:
        if when.day:
            self.day, self.by_name = when.day, when.by_name
        elif when.days:
            self.day = None
            self._take_clock(when)
            return replies.which_of([say_day(day) for day in when.days])
        elif when.some_day or self.day in when.not_days:
            self.day = None
        return ""

    def _take_clock(self, when: When) -> str:
        if when.clocks:
            self.clock = None
            return replies.which_of([say_clock(clock) for clock in when.clocks])
        self.clock = None if when.some_time else when.clock or self.clock
        return ""

    def doubt(self, odd: str) -> None:
        """The viewing has to be read back, because of the words ``odd`` if there are any."""
        self.unsure = True
        self.odd = odd or self.odd

    def trust(self) -> None:
        """The caller said yes, or said everything once more."""
        self.unsure, self.odd = False, ""

    def forget_slot(self) -> None:
        """The caller said no to what was read back."""
        self.day = self.clock = None

    def take_slot(self, slot: datetime) -> None:
        """Takes one of the slots that the office offered."""
        local = slot.astimezone(LOCAL)
        self.day, self.clock, self.by_name = local.date(), local.time(), False

    def take_home(self, home: str) -> None:
        """Takes a home. If a viewing of another one was wished, this one replaces it."""
        if self.wished and self.home and home != self.home:
            self.instead_of = self.instead_of or self.home
        self.home, self.pick = home, None

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
