"""Reporting messages that expired unhandled, by their TTL or by their stream's age: a fact for each, and the notice
that its class asks for."""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import TielineError
from tieline.facts import Expired
from tieline.messages import Expiry, binding_of
from tieline.records.checkpoint import Due
from tieline.records.reading import read_integer, read_object, read_text, read_time
from tieline.runtime.attempt import conversation_of
from tieline.runtime.bus import Bus
from tieline.services.accounting.account import Account
from tieline.wire.connection import ApiError, NoAnswer
from tieline.wire.delivery import Delivery
from tieline.wire.feed import Feed
from tieline.wire.stored import stored_message

__all__ = ["Expiries"]

log = logging.getLogger("tieline.accountant")

_AHEAD = 30.0  # seconds before a message expires, at which what must be known of it is read
_AT_ONCE = 200  # messages that are read so at one look
_UNDECIDED = 1.5  # seconds that the server may take to remove a message whose TTL is over
_MANY = 1_000
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Mortal:
    """What a notice says of a message. ``cause`` is its id, ``shown`` what may be shown of its payload."""

    cause: str
    conversation: str
    subject: str
    shown: Mapping[str, Any]


class Expiries:
    """What one accountant knows of messages that may expire. Several may report the same message: once it is told."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._own = os.urandom(6).hex()  # two accountants of one process are two
        self._mortals: dict[tuple[str, int], _Mortal] = {}
        self._asked: set[tuple[str, int]] = set()  # that the audit was searched for
        models = [model for agent in bus.pod.agents.values() for model in agent.models]
        self._notices = {binding_of(model).filter: binding_of(model).on_expired for model in models}

    async def stored(self, delivery: Delivery) -> None:
        """A message, or a copy of one, was read from its stream, without its payload."""
        if names.TTL in delivery.headers:
            seq = delivery.seq
            if delivery.redriven and delivery.origin.startswith(f"{delivery.stream}-"):
                seq = int(delivery.origin.rsplit("-", 2)[1])
            await self._note(delivery.stream, seq, delivery.subject, delivery.headers, delivery.origin)

    def told(self, fact: Mapping[str, Any]) -> None:
        """A fact. Who published a message with a TTL says what may be shown of it, and the message may be gone."""
        stream, seq = fact.get("stream"), read_integer(fact.get("seq"), least=1)
        if fact.get("fact") == "published" and fact.get("expires") is not None and isinstance(stream, str) and seq:
            self._learn(stream, seq, fact)

    async def prepare(self, account: Account, now: float, max_age: float | None) -> None:
        """Read what must be known of messages that expire soon, while they are still there."""
        soon = (
            (seq, due)
            for seq, due in account.due_before(now + _AHEAD, max_age)
            if (account.stream, account.message_of(seq)) not in self._mortals
        )
        for seq, _ in list(soon)[:_AT_ONCE]:
            try:
                found = await stored_message(self._bus.connection, account.stream, seq)
            except (ApiError, NoAnswer):
                return
            if found is not None:
                subject = found.headers.get(names.SUBJECT, found.subject)
                origin = found.headers.get(names.ORIGIN) or _origin(account.stream, seq, found.at)
                of = account.message_of(seq)
                await self._note(account.stream, of, subject, found.headers, origin, found.payload)

    async def report(self, account: Account, created: float, in_hand: range, now: float) -> None:
        """Report what expired in ``account``, of the stream ``created`` then.

        What is ``in_hand`` may still be handled, and prove the expiry wrong: that has to wait. Raises like a
        publish; what was not reported then is reported at the next call.
        """
        expired = account.expired()
        patience = self._patience(account.agent)
        ready = [
            (seq, due) for seq, due in expired if now > (due[1] or 0.0) + (patience if seq in in_hand else _UNDECIDED)
        ]
        await self._recall(account.stream, [(seq, due) for seq, due in ready if self._lacks(account.stream, seq)])
        for seq, due in ready:
            await self._report(account, seq, due, created)
            account.unreported.pop(seq, None)

    def forget(self, accounts: Iterable[Account]) -> None:
        """Keep only what may still have to be reported."""
        if len(self._mortals) < _MANY:
            return
        wanted = set[tuple[str, int]]()
        for account in accounts:
            owed = account.owed_between(1, 2**63)
            wanted.update((account.stream, account.message_of(seq)) for seq in owed)
            wanted.update((account.stream, seq) for seq in account.unreported)
        self._mortals = {key: mortal for key, mortal in self._mortals.items() if key in wanted}
        self._asked &= wanted

    async def _note(
        self, stream: str, seq: int, subject: str, headers: Mapping[str, str], origin: str, payload: bytes = b""
    ) -> None:
        if not payload and names.CONVERSATION not in headers and self._notice(subject) is not None:
            payload = await self._payload(stream, seq)  # of another client, who must be told too
        conversation = conversation_of(headers, payload) or f"o-{origin}"
        known = self._mortals.get((stream, seq))
        shown = {} if known is None else known.shown
        self._mortals[stream, seq] = _Mortal(headers.get(names.MSG_ID) or origin, conversation, subject, shown)

    def _learn(self, stream: str, seq: int, fact: Mapping[str, Any]) -> None:
        subject, payload = read_text(fact.get("subject")), fact.get("payload")
        shown = payload if isinstance(payload, dict) and self._notice(subject) is not None else {}
        mortal = _Mortal(read_text(fact.get("msgId")), read_text(fact.get("callId")), subject, shown)
        known = self._mortals.get((stream, seq), mortal)  # its stream knows better, but for the payload
        self._mortals[stream, seq] = replace(known, shown=shown)

    def _lacks(self, stream: str, seq: int) -> bool:
        known = self._mortals.get((stream, seq))
        if known is None:
            return (stream, seq) not in self._asked
        return not known.shown and self._notice(known.subject) is not None and (stream, seq) not in self._asked

    async def _recall(self, stream: str, wanted: list[tuple[int, Due]]) -> None:
        """Search the audit for who published these messages: it was read before this accountant was there."""
        if not wanted:
            return
        left = {seq for seq, _ in wanted}
        self._asked.update((stream, seq) for seq in left)
        start = datetime.fromtimestamp(max(0.0, min(due[0] for _, due in wanted) - 1.0), UTC)
        feed = Feed(self._bus.connection, "CALL_AUDIT", ["call.audit.*"], start=start, to_end=True)
        async for delivery in feed:
            if b'"published"' not in delivery.payload:
                continue
            fact = read_object(delivery.payload) or {}
            seq = read_integer(fact.get("seq"), least=1)
            if fact.get("fact") == "published" and fact.get("stream") == stream and seq in left and seq is not None:
                self._learn(stream, seq, fact)
                left.discard(seq)
                if not left:
                    return

    async def _report(self, account: Account, seq: int, due: Due, created: float) -> None:
        """In this order: a crash between the two repeats the notice, under the same id."""
        bus, agent = self._bus, account.agent
        stored, end, subject = due
        origin = _origin(account.stream, seq, stored)
        mortal = self._mortals.get((account.stream, seq)) or _Mortal(origin, f"o-{origin}", subject or _UNKNOWN, {})
        expired = read_time(end) or stored
        unique = digest("expired", agent, account.stream, str(seq), f"{math.floor(created * 1000):x}")
        at = subjects.step(subjects.token(agent), mortal.conversation, "expired", unique)
        if await bus.journal.glance([at]):
            return
        notice = self._notice(mortal.subject)
        if notice is not None:
            message = notice(
                call_id=mortal.conversation,
                subject=mortal.subject,
                stream=account.stream,
                seq=seq,
                agent=agent,
                expired=datetime.fromtimestamp(expired, UTC),
                shown=dict(mortal.shown),
            )
            await bus.store(bus.outgoing(message, mortal.conversation), unique, mortal.cause, "")
        record = {"at": round(expired, 3), "by": bus.replica, "accountant": self._own}
        if await bus.journal.write(at, record, bus.about(mortal.conversation)):
            fact = Expired(mortal.conversation, agent, mortal.subject, account.stream, seq, expired)
            bus.observe(lambda: fact)

    def _notice(self, subject: str) -> type[Expiry] | None:
        return next((n for pattern, n in self._notices.items() if subjects.covers(pattern, subject)), None)

    def _patience(self, agent: str) -> float:
        declared = self._bus.pod.agent_on_bus(agent)
        limits = self._bus.pod.limits if declared is None else declared.limits
        return limits.timeout + limits.ack_wait

    async def _payload(self, stream: str, seq: int) -> bytes:
        try:
            reply = await self._bus.connection.request(f"$JS.API.DIRECT.GET.{stream}", b'{"seq":%d}' % seq)
        except (NoAnswer, TielineError):
            return b""  # the fact will not know its conversation
        return b"" if reply.status is not None else reply.payload


def _origin(stream: str, seq: int, stored: float) -> str:
    return f"{stream}-{seq}-{math.floor(stored * 1000):x}"
