"""`Circuit`: a tool that fails call after call is left alone for a while. Pure: told what happened, it decides."""

from collections.abc import Callable

from tieline.facts import Light
from tieline.settings import Breaker

__all__ = ["Circuit"]


class Circuit:
    """One tool's breaker in one process. ``now`` tells the time in seconds, ``changed`` hears of every change.

    A call enters with `enter`; what became of it is told with the permit it got. The word of a call that entered before
    the last change does not count: it says how things were.
    """

    def __init__(self, breaker: Breaker, now: Callable[[], float], changed: Callable[[Light, str], None]) -> None:
        self._breaker = breaker
        self._now = now
        self._changed = changed
        self._tried = False  # half-open: the one call is under way
        self._until = 0.0  # open: when one call may be tried
        self.state: Light = "closed"
        self.failures = 0  # in a row
        self.permit = 0  # of the present state; each change makes a new one

    def wait(self) -> float:
        """Seconds until a call may enter; 0 where one may enter now."""
        match self.state:
            case "closed":
                return 0.0
            case "open":
                return max(0.0, self._until - self._now())
            case "half-open":
                return min(1.0, self._breaker.reset) if self._tried else 0.0

    def enter(self) -> int:
        """A permit for one call, to be had while `wait` is 0."""
        if self.state == "open":
            self._switch("half-open", "one call is tried")
        self._tried = self.state == "half-open"
        return self.permit

    def succeeded(self, permit: int) -> None:
        """The target answered."""
        if permit != self.permit:
            return
        self.failures = 0
        if self.state == "half-open":
            self._switch("closed", "the call that was tried succeeded")

    def failed(self, permit: int, reason: str) -> None:
        """The call failed in a way that may pass: an exception, or a timeout."""
        if permit != self.permit:
            return
        self.failures += 1
        if self.state == "half-open" or self.failures >= self._breaker.failures:
            self._until = self._now() + self._breaker.reset
            self._switch("open", reason)

    def left(self, permit: int) -> None:
        """The call is over. One that was tried and said nothing of the target makes room for another."""
        if permit == self.permit:
            self._tried = False

    def _switch(self, state: Light, reason: str) -> None:
        self.state = state
        self.permit += 1
        self._tried = False
        self._changed(state, reason)
