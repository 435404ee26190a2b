"""How dead letters are shown, to people and to scripts, and how long work on them is followed."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from pydantic.alias_generators import to_camel
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from tieline.cli.printing import age, line, table
from tieline.services.letters.reading import Letter, Listing
from tieline.services.letters.redriving import Tally

__all__ = ["as_json", "details", "following", "listing", "parsed", "summary", "tally_json"]

_SHOWN = 100  # characters of a reason, for people
_SUBJECTS = 3  # of a group that are named
_HIDDEN = "(redacted)"


def as_json(letter: Letter) -> dict[str, Any]:
    """A letter without its payload."""
    told = {to_camel(name): value for name, value in letter.told.items()}
    own = {
        "id": letter.seq,
        "agent": letter.agent,
        "cause": letter.cause,
        "subject": letter.subject,
        "conversation": letter.conversation,
        "at": letter.died,
        "deaths": letter.deaths,
        "reason": letter.reason,
    }
    return {**told, **own}


def parsed(payload: bytes, redact: frozenset[str] = frozenset()) -> Any:
    """A payload as JSON, without the values of redacted fields; else as text, or as base64 where it is none."""
    try:
        return _without(json.loads(payload), frozenset(to_camel(name) for name in redact) | redact)
    except (ValueError, RecursionError):
        pass
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}


def listing(found: Listing) -> Group:
    """The counts, then the newest letters."""
    groups = [(group.count, group.cause, line(group.agent), _several(group.subjects)) for group in found.groups]
    parts: list[Any] = [table("dead letters by cause", (">count", "cause", "agent", "subjects"), groups)]
    if found.newest:
        rows = [
            (letter.seq, _ago(letter.died), letter.cause, line(letter.agent), line(letter.subject),
             line(letter.conversation), _deaths(letter), _cut(letter.reason))
            for letter in found.newest
        ]  # fmt: skip
        columns = (">id", ">died", "cause", "agent", "subject", "conversation", ">deaths", "reason")
        title = f"\nthe newest {len(rows)} of {found.total:,}" if len(rows) < found.total else "\nletters"
        parts.append(table(title, columns, rows))
    return Group(*parts)


def details(letter: Letter, payload: Any) -> Group:
    """Everything about one letter."""
    told = letter.told
    facts = [
        ("cause", Text(letter.cause, style="red")),
        ("reason", line(letter.reason)),
        ("agent", f"{line(letter.agent)}{f' (version {told["version"]})' if told.get('version') else ''}"),
        ("subject", line(letter.subject)),
        ("message", f"{told.get('stream', '?')} {told.get('seq', '?')}, origin {line(letter.origin)}"),
        ("conversation", line(letter.conversation)),
        ("died", f"{_at(letter.died)}, {_ago(letter.died)}{f', by {told["by"]}' if told.get('by') else ''}"),
        ("deaths", _deaths(letter)),
    ]
    facts += [("edited", f"by {e.get('by')} {_ago(e.get('at'))}: {e.get('reason') or '-'}") for e in _edits(letter)]
    facts += [
        (f"header {name}", line(value)) for name, value in letter.headers.items() if not name.startswith("Tieline")
    ]
    parts: list[Any] = [table(f"dead letter {letter.seq}", ("", ""), facts)]
    tries = [entry for entry in told.get("attempts") or () if isinstance(entry, dict)]
    if tries:
        rows = [
            (e.get("n"), _at(e.get("at")), e.get("by", ""), e.get("end"), _cut(str(e.get("reason", "")))) for e in tries
        ]
        parts.append(table("\nattempts", (">n", "at", "by", "end", "reason"), rows))
    if told.get("traceback"):
        parts += [Text("\ntraceback", style="bold"), Text(str(told["traceback"]).rstrip())]
    shown = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False, indent=2)
    parts += [Text("\npayload", style="bold"), Text(str(told.get("payload") or shown))]
    return Group(*parts)


def summary(tally: Tally, verb: str, *, dry_run: bool) -> Group:
    """What became of the letters, or would."""
    done = f"{'would be ' if dry_run else ''}{verb}"
    rows = [(count, cause, line(agent), line(where)) for (cause, agent, where), count in tally.groups.most_common()]
    parts: list[Any] = [table(done, (">count", "cause", "agent", "to"), rows)] if rows else [Text(f"none {done}")]
    if tally.again:
        parts.append(Text(f"{tally.again} of them had been sent before, by a command that was interrupted", "yellow"))
    parts += [Text(f"{count} held: {reason}", style="yellow") for reason, count in tally.held.most_common()]
    return Group(*parts)


def tally_json(tally: Tally, *, dry_run: bool) -> dict[str, Any]:
    """The same for scripts."""
    groups = [
        {"cause": cause, "agent": agent, "to": where, "count": count}
        for (cause, agent, where), count in tally.groups.most_common()
    ]
    held = [{"reason": reason, "count": count} for reason, count in tally.held.most_common()]
    return {"done": tally.done, "again": tally.again, "held": held, "groups": groups, "dryRun": dry_run}


class Counted(Protocol):
    """Work on letters, counted."""

    @property
    def seen(self) -> int:
        """How many letters were looked at."""


@contextmanager
def following(what: str, total: int | None) -> Iterator[Callable[[Counted], None]]:
    """A progress bar on a terminal's stderr, told of each page; nothing where nobody looks."""
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda tally: bar.update(task, completed=tally.seen)


def _bar() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    errors = Console(stderr=True)
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def _without(value: Any, hidden: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: _HIDDEN if name in hidden else _without(inner, hidden) for name, inner in value.items()}
    return [_without(inner, hidden) for inner in value] if isinstance(value, list) else value


def _edits(letter: Letter) -> list[dict[str, Any]]:
    return [entry for entry in letter.told.get("edits") or () if isinstance(entry, dict)]


def _deaths(letter: Letter) -> Text:
    return Text(str(letter.deaths), style="red" if letter.deaths > 1 else "")


def _several(subjects: tuple[str, ...]) -> str:
    named = ", ".join(line(subject) for subject in subjects[:_SUBJECTS])
    return named if len(subjects) <= _SUBJECTS else f"{named} and {len(subjects) - _SUBJECTS:,} more"


def _cut(text: str) -> str:
    shown = line(text)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def _at(at: object) -> str:
    if not isinstance(at, int | float):
        return "-"
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")


def _ago(at: object) -> str:
    return f"{age(max(0.0, time.time() - at))} ago" if isinstance(at, int | float) else "some time ago"
