"""Edit many dead letters in the same way: each once, whatever interrupts it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tieline import codec
from tieline.errors import BadPayload, first_of
from tieline.runtime.bus import Bus
from tieline.services.letters import editing
from tieline.services.letters.reading import Letter

__all__ = ["EditOrder", "EditTally", "PayloadChange", "changed_fields", "edit_letters"]

_AT_ONCE = 32  # letters

type Check = Callable[[Letter, Any, Any], None]
"""Raises `BadPayload` where the payload after the edit does not fit; it is given the letter, and both payloads."""


@dataclass(frozen=True, slots=True)
class PayloadChange:
    """What to do with the fields of a payload, in this order: rename, set, remove. ``a.b`` is a field of an object.

    Making the change twice comes to the same as making it once.
    """

    renames: tuple[tuple[str, str], ...] = ()
    sets: tuple[tuple[str, Any], ...] = ()
    removes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.renames or self.sets or self.removes)

    def applied(self, content: Any) -> Any:
        """The payload with the change made. Raises `BadPayload` where it has no such fields to change."""
        if not isinstance(content, dict):
            raise BadPayload("the payload is not a JSON object, so it has no fields to change")
        changed: dict[str, Any] = json.loads(json.dumps(content))
        for old, new in self.renames:
            inner, name = _find(changed, old, make=False)
            if inner is not None and name in inner:
                value = inner.pop(name)
                target, last = _find(changed, new, make=True)
                if target is not None:
                    target.setdefault(last, value)
        for path, value in self.sets:
            inner, name = _find(changed, path, make=True)
            if inner is not None:
                inner[name] = value
        for path in self.removes:
            inner, name = _find(changed, path, make=False)
            if inner is not None:
                inner.pop(name, None)
        return changed


def _find(content: dict[str, Any], path: str, *, make: bool) -> tuple[dict[str, Any] | None, str]:
    """The object that holds the field at ``path``, and the field's name in it."""
    *outer, last = path.split(".")
    inner: Any = content
    for name in outer:
        if not make and name not in inner:
            return None, last
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise BadPayload(f"{path}: {name} is not an object")
    return inner, last


def changed_fields(before: Any, after: Any) -> list[str]:
    """The outermost fields that differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else ["payload"]
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOrder:
    """How to edit letters, who does it, and why. ``limit``: after that many were edited, stop."""

    change: PayloadChange
    check: Check
    by: str
    reason: str = ""
    limit: int | None = None
    dry_run: bool = False


@dataclass(slots=True)
class EditTally:
    """What became of the letters. ``held``: how many are left as they are, by reason."""

    seen: int = 0
    done: int = 0
    unchanged: int = 0
    held: Counter[str] = field(default_factory=Counter)
    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # cause, agent, changed fields


async def edit_letters(
    bus: Bus, letters: AsyncIterator[Letter], order: EditOrder, progress: Callable[[EditTally], None] = lambda _: None
) -> EditTally:
    """Edit each letter as ordered; ``progress`` is called after each.

    A letter that does not fit afterwards is counted as held, with the reason, and stays as it is. Safe to interrupt and
    to run again: a letter that was edited is not changed a second time. Raises like `Publisher.publish` if the server
    stays away.
    """
    tally, room = EditTally(), asyncio.Semaphore(_AT_ONCE if order.limit is None else 1)

    async def work(letter: Letter) -> None:
        try:
            await _edit_one(bus, letter, order, tally)
            tally.seen += 1
            progress(tally)
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as group:
            async for letter in letters:
                await room.acquire()
                if order.limit is not None and tally.done >= order.limit:
                    break
                group.create_task(work(letter))
    except BaseExceptionGroup as failed:
        raise first_of(failed) from None
    return tally


async def _edit_one(bus: Bus, letter: Letter, order: EditOrder, tally: EditTally) -> None:
    try:
        payload = await editing.content_of(bus, letter)
        if payload is None:
            raise BadPayload("its payload was too large to keep with its cause, and the message is gone")
        before = _parsed(payload)
        after = order.change.applied(before)
        fields = changed_fields(before, after)
        if not fields:
            tally.unchanged += 1
            return
        order.check(letter, before, after)
    except BadPayload as error:
        tally.held[str(error)] += 1
        return
    if not order.dry_run:
        await editing.edit(bus, letter, codec.to_json(after), fields, by=order.by, reason=order.reason)
    tally.done += 1
    tally.groups[letter.cause, letter.agent, ", ".join(fields)] += 1


def _parsed(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        raise BadPayload("the payload is not JSON") from None
