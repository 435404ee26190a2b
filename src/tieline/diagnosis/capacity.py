"""How full streams and their storage are: the two thresholds, what each means, and what to do. Pure.

Report, doctor, metrics, pager, log and `tieline up` all show these alarms.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["CRITICAL", "WARNING", "Alarm", "Level", "account_ratio", "alarms", "planned_bytes", "ratio_of"]

WARNING, CRITICAL, FULL = 0.7, 0.9, 0.98

type Level = Literal["warning", "critical", "full"]

_GROW = (
    "give the pod more room, such as Pod(expects=Expected(conversations_per_day=…)) or Stream(max_bytes=…), and run "
    "`tieline apply POD`; `tieline size POD` shows what that takes"
)
_STORAGE = (
    "give the server more disk (or the account a higher limit), or keep less: shorter ages (Stream(max_age=…)), "
    "redriven or dropped dead letters"
)
_MEANS = {
    "STEP": "no step can be recorded: handlers wait, and no message is taken, until there is room",
    "CALL_AUDIT": "no fact can be stored: handled messages are not acknowledged, and no more are taken, until there is "
    "room",
    "DLQ": "no message can be dead-lettered: it is delivered again until there is room",
    "OBJ_TIELINE": "no large payload or result can be stored",
    "SCHEDULE": "more delayed messages wait than the pod expects; the server stores them as long as the disk has room",
}
_REFUSES = "publishes are refused until messages are too old or there is room"
_FORGETS = "the server drops the oldest entries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One stream, or the storage of all of them, that is nearly full. Bytes, and what to do about it."""

    thing: str
    used: int
    limit: int
    means: str
    remedy: str

    @property
    def ratio(self) -> float:
        """How full it is; 1 is full."""
        return self.used / self.limit

    @property
    def level(self) -> Level:
        """``warning`` from 70 % on, ``critical`` from 90 %, ``full`` from 98 %: one message may be what is left."""
        return "full" if self.ratio >= FULL else "critical" if self.ratio >= CRITICAL else "warning"

    @property
    def threshold(self) -> int:
        """The threshold that it has passed, in percent."""
        return round(100 * {"warning": WARNING, "critical": CRITICAL, "full": FULL}[self.level])

    @property
    def name(self) -> str:
        """The stream's name; ``(account)`` for the storage of all streams."""
        return self.thing.removeprefix("stream ") if self.thing.startswith("stream ") else "(account)"

    @property
    def text(self) -> str:
        """One line for people."""
        when = "now" if self.level == "full" else "when it is full"
        return f"{self.thing} is {min(self.ratio, 9.99):.0%} full; {when}: {self.means}. To do: {self.remedy}"


def ratio_of(info: Mapping[str, Any], planned: Mapping[str, int] | None = None) -> float | None:
    """How full a stream is, by ``$JS.API.STREAM.INFO``; None for one without a limit."""
    used, limit = _bytes(info, planned or {})
    return None if limit is None else used / limit


def account_ratio(account: Mapping[str, Any]) -> float | None:
    """How full an account's storage is, by ``$JS.API.INFO``; None for one without a limit."""
    limit, used = _account(account)
    return None if limit is None else used / limit


def alarms(
    streams: Iterable[Mapping[str, Any]],
    account: Mapping[str, Any] | None = None,
    planned: Mapping[str, int] | None = None,
) -> list[Alarm]:
    """Everything that is 70 % full or more, the fullest first.

    ``streams`` are answers of ``$JS.API.STREAM.INFO``, ``account`` that of ``$JS.API.INFO``. ``planned``: bytes that
    streams without a limit are expected to need, see `planned_bytes`.
    """
    found = []
    for info in streams:
        used, limit = _bytes(info, planned or {})
        if limit is not None and used >= limit * WARNING:
            name = str(info["config"]["name"])
            forgets = info["config"].get("discard", "old") == "old"
            means = _MEANS.get(name, _FORGETS if forgets else _REFUSES)
            found.append(Alarm(thing=f"stream {name}", used=used, limit=limit, means=means, remedy=_GROW))
    storage, used = _account(account or {})
    if storage is not None and used >= storage * WARNING:
        means = "no stream stores anything until there is room"
        found.append(Alarm(thing="the account's storage", used=used, limit=storage, means=means, remedy=_STORAGE))
    return sorted(found, key=lambda alarm: -alarm.ratio)


def planned_bytes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Of what a pod expects: the streams whose size the server does not limit, because a limit would drop messages."""
    return {name: size for name, size in sizes.items() if name == "SCHEDULE"}


def _bytes(info: Mapping[str, Any], planned: Mapping[str, int]) -> tuple[int, int | None]:
    config, used = info["config"], int(info["state"]["bytes"])
    limit = int(config.get("max_bytes", -1))
    return used, limit if limit > 0 else planned.get(str(config["name"]))


def _account(told: Mapping[str, Any]) -> tuple[int | None, int]:
    """The limit and the use of an account's storage on disk; of the tier that is fuller, where it has tiers."""
    parts = [told, *(told.get("tiers") or {}).values()]
    found = [
        (int(limit), int(part.get("storage", 0)))
        for part in parts
        if (limit := (part.get("limits") or {}).get("max_storage", -1)) and int(limit) > 0
    ]
    return max(found, key=lambda pair: pair[1] / pair[0], default=(None, 0))
