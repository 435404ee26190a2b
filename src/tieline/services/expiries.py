"""Telling of messages whose TTL ended unhandled: a fact for each, and the notice that its class asks for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import TielineError
from tieline.facts import Expired
from tieline.messages import Expiry, binding_of
from tieline.runtime.attempt import conversation_of
from tieline.runtime.bus import Bus
from tieline.services.ledger import Account
from tieline.wire.connection import NoAnswer
from tieline.wire.delivery import Delivery

__all__ = ["Expiries"]


_HEARSAY = 60.0  # seconds that the fact of a message may take: it was published while the server was away


@dataclass(frozen=True, slots=True)
class _Mortal:
    """A message with a TTL. ``key`` tells it from others, also of a stream that was made anew."""

    key: str
    conversation: str
    subject: str
    expires: float  # seconds since 1970
    shown: Mapping[str, Any]  # of its payload, where a notice will tell of it


class Expiries:
    """What one accountant knows of messages with a TTL. Several may tell of the same: once it is told."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._own = os.urandom(6).hex()  # two accountants of one process are two
        self._mortals: dict[tuple[str, int], _Mortal] = {}
        self._unheard: dict[tuple[str, int], float] = {}  # vanished, and nobody has said yet that it had a TTL
        models = [model for agent in bus.pod.agents.values() for model in agent.models]
        self._notices = {binding_of(model).filter: binding_of(model).on_expired for model in models}

    async def stored(self, delivery: Delivery, seq: int) -> None:
        """A message ``seq``, or its copy, was read from its stream, without its payload."""
        if delivery.expires is None:
            return
        headers, payload = delivery.headers, b""
        if names.CONVERSATION not in headers and self._notice(delivery.subject) is not None:
            payload = await self._payload(delivery.stream, delivery.seq)  # of another client, who must be told too
        conversation = conversation_of(headers, payload) or f"o-{delivery.origin}"
        key = headers.get(names.MSG_ID) or delivery.origin
        known = self._mortals.get((delivery.stream, seq))
        shown = {} if known is None else known.shown
        self._mortals[delivery.stream, seq] = _Mortal(key, conversation, delivery.subject, delivery.expires, shown)

    def published(self, fact: dict[str, Any]) -> None:
        """A fact says that a message with a TTL was stored: it may have been gone before its stream was read."""
        stream, seq, expires = fact.get("stream"), fact.get("seq"), fact.get("expires")
        if isinstance(stream, str) and isinstance(seq, int) and isinstance(expires, float):
            subject, payload = str(fact.get("subject")), fact.get("payload")
            shown = payload if isinstance(payload, dict) and self._notice(subject) is not None else {}
            mortal = _Mortal(str(fact.get("msgId")), str(fact.get("callId")), subject, expires, shown)
            known = self._mortals.get((stream, seq), mortal)  # its stream knows better, but for the payload
            self._mortals[stream, seq] = replace(known, shown=shown)

    async def tell(self, account: Account, delivered: int, now: float) -> None:
        """Tell of what expired in ``account``. ``delivered``: up to which sequence its consumer has got messages.

        What was delivered may still be under way, and prove the expiry wrong: that has to wait. Raises like a publish;
        what was not told of then is told of at the next call.
        """
        patience = self._patience(account.agent)
        for seq in sorted(account.expired):
            mortal = self._mortals.get((account.stream, seq))
            if mortal is None:
                # Its fact may still be on its way; or it was put aside, and ended as a copy of an older message.
                if now > self._unheard.setdefault((account.stream, seq), now) + _HEARSAY:
                    account.expired.discard(seq)
                    del self._unheard[account.stream, seq]
            elif seq > delivered or now > mortal.expires + patience:
                await self._tell(account, seq, mortal)
                self._unheard.pop((account.stream, seq), None)
                account.expired.discard(seq)

    def forget(self, stream: str, upto: int, accounts: list[Account]) -> None:
        """Messages up to ``upto`` will not be told of again, but for those that wait for it."""
        waiting = set[int]().union(*(account.expired for account in accounts))
        gone = [key for key in self._mortals if key[0] == stream and key[1] <= upto and key[1] not in waiting]
        for key in gone:
            del self._mortals[key]

    async def _tell(self, account: Account, seq: int, mortal: _Mortal) -> None:
        """In this order: a crash between the two repeats the notice, under the same id."""
        bus, agent, conversation = self._bus, account.agent, mortal.conversation
        unique = digest("expired", agent, account.stream, str(seq), mortal.key)
        told = subjects.step(subjects.token(agent), conversation, "expired", unique)
        if await bus.journal.glance([told]):
            return
        notice = self._notice(mortal.subject)
        if notice is not None:
            message = notice(
                call_id=conversation,
                subject=mortal.subject,
                stream=account.stream,
                seq=seq,
                agent=agent,
                expired=datetime.fromtimestamp(mortal.expires, UTC),
                shown=dict(mortal.shown),
            )
            await bus.store(bus.outgoing(message, conversation), unique, mortal.key, "")
        record = {"at": round(mortal.expires, 3), "by": bus.replica, "accountant": self._own}
        if await bus.journal.write(told, record, bus.about(conversation)):
            fact = Expired(conversation, agent, mortal.subject, account.stream, seq, mortal.expires)
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
