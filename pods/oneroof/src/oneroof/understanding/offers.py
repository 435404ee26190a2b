"""What the office has named so far, and what the caller's "that one" is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from oneroof.understanding.homes import Mention
from oneroof.understanding.when import slots_in
from oneroof.understanding.wishes import Line


@dataclass(slots=True)
class Offers:
    """Homes and slots that the office named last, and the homes that the caller took up.

    ``focus`` is the home that "it" is. Written by the dialogue that owns it.
    """

    homes: list[str] = field(default_factory=list)
    slots: tuple[datetime, ...] = ()
    focus: str | None = None
    taken_up: list[str] = field(default_factory=list)
    mixed: bool = False  # the office spoke of several homes one after the other: "it" may be any of them
    _answered: bool = False  # the office has spoken of one home since the caller's last line

    def hear(self, line: Line, now: datetime) -> None:
        """Takes note of an office line."""
        homes = [home for home in line.offers if home]
        slots = slots_in(line.text, now)
        if len(homes) > 1 or len(self.homes) < 2:
            self.homes = homes or self.homes
        if homes:
            # the answer about one home leaves the list to pick from, and makes it the one talked about
            self.slots = ()
            if len(homes) == 1:
                self.mixed = self._answered and (self.mixed or homes[0] != self.focus)
                self._answered = True
            self.focus = homes[0] if len(homes) == 1 else self.focus if self.focus in homes else None
        if len(slots) > 1 or (slots and not homes):
            self.slots = slots

    def clear(self) -> None:
        """Forgets what was offered: another search is on its way."""
        self.homes, self.slots, self.focus = [], (), None

    def caller_speaks(self) -> None:
        """The caller has the word: what the office says after it is about something else."""
        self._answered = False

    def take_up(self, home: str) -> None:
        """Makes ``home`` the one talked about."""
        self.focus = home
        self.taken_up = [number for number in self.taken_up if number != home] + [home]

    def resolve(self, mention: Mention, current: str | None) -> str | None:
        """The number of the home meant; None while the office has not named what it points at.

        ``current`` is the home of the open viewing, from which "the other one" is told.
        """
        match mention.kind:
            case "named" | "address":
                return mention.value
            case "pick":
                number = mention.index - 1 if mention.index > 0 else len(self.homes) - 1
                return self.homes[number] if 0 <= number < len(self.homes) else None
            case "other":
                away_from = current or self.focus
                others = [home for home in self.homes if home != away_from]
                before = [home for home in reversed(self.taken_up) if home != away_from]
                return before[0] if before else others[0] if len(others) == 1 else None
            case "both":
                return None  # see `expand`
            case "that" | "it":
                return self.focus or (self.homes[0] if len(self.homes) == 1 else None)

    def expand(self, mentions: Sequence[Mention]) -> list[Mention]:
        """``mentions`` with "both" as the two homes that it stands for, if the office can tell which."""
        out: list[Mention] = []
        for one in mentions:
            several = (self.homes if len(self.homes) == 2 else self.taken_up[-2:]) if one.kind == "both" else []
            out += [Mention("named", one.at, home) for home in several] if len(several) == 2 else [one]
        return out

    def slot_at(self, index: int) -> datetime | None:
        """The slot offered at ``index`` (from 1; -1 is the last)."""
        if not 1 <= abs(index) <= len(self.slots):
            return None
        return self.slots[index - 1 if index > 0 else index]
