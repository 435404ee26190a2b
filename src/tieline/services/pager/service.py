"""The pager's loop: count, decide, tell, remember. What was told is on the bus, so that any number may run."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tieline import subjects
from tieline.diagnosis.capacity import Alarm
from tieline.errors import TielineError
from tieline.records.reading import read_time
from tieline.runtime import state
from tieline.runtime.bus import Bus
from tieline.services.letters.reading import STREAM, Group, Letter, Selection, counted, letters, listed
from tieline.services.letters.redriving import Order, redrive
from tieline.services.pager.pages import STORAGE, Page, Saying, Trouble, decide, masked, page_in
from tieline.services.pager.slack import Slack
from tieline.services.pager.targets import Log, NotSent, Target, Webhook
from tieline.services.storage_watch import storage_alarms
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.stored import newest_message

__all__ = ["Pager", "run"]

log = logging.getLogger("tieline.pager")

_STREAM_MISSING = 10059
_KEPT = 30 * 86400.0  # seconds that what was told is remembered
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 300.0  # seconds until somebody who could not be told is told again
_FAREWELL = 3.0  # seconds that letting another pager tell may take at the end
_SHOWN = 10  # letters that Look lists
_CALLED_FOR = frozenset({"cancelled"})  # causes that nobody is paged for: a person wanted these letters
_MANY_SUBJECTS, _COUNTED_EVERY = 10_000, 60.0  # with that many subjects, letters are counted once in so many seconds
_SUBJECTS = 20  # of a group that a page may show
_LONGEST_HOLD = 86_400.0  # seconds for which another pager can say that it tells


class Pager:
    """Tells the pod's people of its dead letters. Several may run: one at a time tells, and the next takes over."""

    def __init__(self, bus: Bus) -> None:
        settings = bus.settings.pager
        self._bus = bus
        self._quiet = settings.quiet_hours
        self._every = settings.every
        self._place = f"tieline-pager-{bus.pod.name}"
        self._me = f"{bus.replica}:{os.urandom(4).hex()}"
        self.targets: list[Target] = []
        self._slack = Slack(settings, bus.pod.name, self._press) if settings.slack_token else None
        if self._slack is not None:
            self.targets.append(self._slack)
        if settings.webhook:
            self.targets.append(Webhook(settings, bus.pod.name))
        if not self.targets:
            self.targets.append(Log())
        self._opening: dict[tuple[str, ...], float] = {}  # pages that could not be opened yet: since when
        self._mine = False
        self._found: list[Trouble] = []
        self._content: tuple[int, ...] = ()  # what DLQ held when the letters were counted
        self._count_after = 0.0
        self._waits: dict[str, tuple[float, float]] = {}  # who could not be told: until when to wait, and how long

    async def work(self) -> None:
        """Look for ever."""
        listening = None if self._slack is None else asyncio.create_task(self._slack.listen(), name="tieline-buttons")
        try:
            while True:
                try:
                    await self.look()
                except (TielineError, ApiError, NoAnswer) as error:
                    log.warning("the pager cannot look now: %s", error)
                await asyncio.sleep(self._every)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.wait((listening,))
            await self.close()

    async def close(self) -> None:
        """Let go of everybody who is told, and let another pager tell them."""
        for target in self.targets:
            await target.close()
        if self._mine:
            with suppress(TielineError, TimeoutError):  # else another one waits a little
                async with asyncio.timeout(_FAREWELL):
                    await self._change(lambda kept: {**kept, "by": None})

    @property
    def failed(self) -> list[str]:
        """Who could not be told at the last try."""
        return list(self._waits)

    async def look(self) -> int:
        """Look once; how much there was to tell. Raises where the bus does not answer."""
        troubles = await self._troubles()
        told = await self._told()
        if not troubles and not any(told.values()):
            return 0
        if not await self._is_mine():
            return 0
        now, told = time.time(), await self._told()
        quiet = self._quiet is not None and self._quiet.holds(now)
        done = 0
        for target in self.targets:
            for saying in decide(troubles, told.get(target.name, ()), now, quiet=quiet):
                done += await self._tell(target, saying)
        return done

    async def _tell(self, target: Target, saying: Saying) -> bool:
        """In this order: tell, then remember. A crash in between tells it twice, and never not at all."""
        until, waited = self._waits.get(target.name, (0.0, 0.0))
        if time.monotonic() < until:
            return False
        opening = (target.name, *saying.page.counts)
        if saying.change == "opened":  # tried again, it is the same page, also to who took it and did not say so
            since = self._opening.setdefault(opening, saying.page.opened)
            saying = replace(saying, page=replace(saying.page, opened=since))
        try:
            page = saying.said(await target.tell(saying))
        except NotSent as error:
            wait = min(waited * 2 or _FIRST_WAIT, _LONGEST_WAIT)
            if not waited:
                log.error("%s was not told, and will be: %s", target.name, error)
            self._waits[target.name] = (time.monotonic() + wait, wait)
            return False
        self._opening.pop(opening, None)
        if self._waits.pop(target.name, None) is not None:
            log.warning("%s is told again", target.name)
        await self._remember(target.name, page, over=saying.change == "cleared")
        return True

    async def _troubles(self) -> list[Trouble]:
        """What fills up, and the dead letters as groups, counted again only if their stream has changed since."""
        now, found = time.monotonic(), await _content(self._bus.connection)
        if found != self._content and now >= self._count_after:
            groups = await counted(self._bus.connection, Selection())
            kept = {(trouble.key, trouble.count): trouble for trouble in self._found}
            self._found = [
                kept.get((f"{group.agent} {group.cause}", group.count)) or await self._trouble(group)
                for group in groups
                if group.cause not in _CALLED_FOR
            ]
            self._content = found
            # To list many subjects is work for the server: then not at every look.
            self._count_after = now + (_COUNTED_EVERY if found[-1] > _MANY_SUBJECTS else 0.0)
        storage = [_storage_trouble(alarm) for alarm in await storage_alarms(self._bus.connection, self._bus.pod)]
        return [*storage, *self._found]

    async def _trouble(self, group: Group) -> Trouble:
        pattern = subjects.dead_letter(group.agent, group.cause, ">")
        newest = await newest_message(self._bus.connection, STREAM, pattern)
        example = "" if newest is None else masked(Letter.of(newest).reason)
        return Trouble(group.agent, group.cause, group.count, group.subjects[:_SUBJECTS], example)

    async def _told(self) -> dict[str, list[Page]]:
        return _said((await state.read(self._bus, self._place)).value)

    async def _is_mine(self) -> bool:
        """Whether it is ours to tell: we do, or whoever did has not said so for a while."""
        now = time.time()

        def claim(kept: dict[str, Any]) -> dict[str, Any]:
            if (
                kept.get("by") in (None, self._me)
                or not now <= (read_time(kept.get("until")) or 0.0) < now + _LONGEST_HOLD
            ):
                kept |= {"by": self._me, "until": now + self._every * 3 + 30.0}
            return kept

        kept = await self._change(claim)
        self._mine = bool(kept["by"] == self._me)
        return self._mine

    async def _remember(self, name: str, page: Page, *, over: bool) -> None:
        def write(kept: dict[str, Any]) -> dict[str, Any]:
            said = _said(kept)
            others = [
                other
                for other in said.get(name, ())
                if other.opened != page.opened or set(other.counts) != set(page.counts)
            ]
            said[name] = others if over else [*others, page]
            return {**kept, "said": {name: [page.record() for page in pages] for name, pages in said.items()}}

        await self._change(write)

    async def _change(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Write what is remembered, over what anybody wrote before."""
        key = os.urandom(8).hex()
        became: dict[str, Any] = await state.update(
            self._bus, self._place, lambda value: change(dict(value) if isinstance(value, dict) else {}), key, _KEPT
        )
        return became

    async def _press(self, verb: str, agent: str, cause: str, who: str) -> str:
        """Do what a button says; the answer for who pressed it."""
        selection = Selection(agent=agent, cause=cause)
        try:
            return await (self._shown(selection) if verb == "look" else self._redriven(selection, who))
        except (TielineError, ApiError, NoAnswer) as error:
            log.warning("%s of %s (%s) for %s: %s", verb, agent, cause, who, error)
            return f"that did not work: {masked(str(error))}"

    async def _shown(self, selection: Selection) -> str:
        listing = await listed(self._bus.connection, selection, _SHOWN)
        lines = (f"{letter.seq}  {letter.subject}  {masked(letter.reason)}" for letter in listing.newest)
        return "\n".join([f"{listing.total} dead letters", *lines])

    async def _redriven(self, selection: Selection, who: str) -> str:
        order = Order(by=who, reason="pressed Redrive in Slack")
        tally = await redrive(self._bus, letters(self._bus.connection, selection), order)
        held = [f"{count} held: {reason}" for reason, count in tally.held.items()]
        return "; ".join([f"{tally.done} sent again", *held])


def _storage_trouble(alarm: Alarm) -> Trouble:
    """Counted by its threshold: a page changes when the next one is passed, not with every message."""
    return Trouble(alarm.name, STORAGE, alarm.threshold, (), alarm.text)


def _said(kept: object) -> dict[str, list[Page]]:
    """What each receiver was told. Anybody who may write states can have written it: the rest is passed over."""
    said = kept.get("said") if isinstance(kept, dict) else None
    receivers = said.items() if isinstance(said, dict) else ()
    return {
        str(name): [page for record in pages if (page := page_in(record)) is not None]
        for name, pages in receivers
        if isinstance(pages, list)
    }


async def _content(connection: Connection) -> tuple[int, ...]:
    """What tells one state of DLQ from another: if it is the same, so are the letters. The last is the number of
    subjects."""
    try:
        state = (await connection.api(f"STREAM.INFO.{STREAM}"))["state"]
    except ApiError as error:
        if error.err_code == _STREAM_MISSING:
            return (0,)
        raise
    return tuple(int(state.get(name) or 0) for name in ("first_seq", "last_seq", "messages", "bytes", "num_subjects"))


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Page until ``stop``."""
    work = asyncio.create_task(Pager(bus).work(), name="tieline-pager")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        work.result()
    work.cancel()
    await asyncio.wait((work,))
