"""`Attempt`: one run of a duty for one delivery, from opening to settlement."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from tieline import codec, subjects
from tieline import headers as names
from tieline.context import Conversation
from tieline.runtime.bus import LONGEST_NAME, Bus
from tieline.runtime.duty import Duty, Incoming
from tieline.runtime.history import NO_PAST, Copy, History, Past
from tieline.runtime.steps import Steps
from tieline.wire.delivery import Delivery

__all__ = ["Attempt", "conversation_for", "conversation_of", "now"]


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A delivery with its payload from the object store. The delivery itself keeps the reference, to travel on."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]
    count: int
    origin: str


class Attempt:
    """Everything that running and settling needs to know. One task's own.

    ``past`` is what earlier attempts came to; nothing is read for it on a first delivery. ``begun``: it has a number,
    so that its end is recorded. ``leased``: until when the server surely keeps the delivery from others, by `now`.
    """

    __slots__ = ("_bus", "begun", "call", "delivery", "duty", "leased", "past", "steps")

    def __init__(self, bus: Bus, duty: Duty, delivery: Delivery) -> None:
        """Cheap, and never fails: what is wrong with a payload is found by running."""
        conversation = conversation_for(delivery.headers, delivery.payload, delivery.origin)
        self._bus = bus
        self.duty = duty
        self.delivery = delivery
        self.past = NO_PAST
        self.begun = delivery.fresh
        self.leased = math.inf
        self.steps = Steps(bus, duty.name, conversation, delivery)
        self.call = Conversation(conversation, duty.name, delivery.origin, delivery.stored, self.steps)
        self.call.guest = delivery.headers.get(names.GUEST)

    @property
    def version(self) -> str:
        """The version of the pod whose code runs."""
        return self._bus.pod.version

    @property
    def refers(self) -> bool:
        """Whether the delivery carries a reference to its payload instead of the payload."""
        return names.OBJECT in self.delivery.headers

    async def whole(self) -> Incoming:
        """A delivery that `refers`, with its payload. `ObjectGone` where that is no longer to be had."""
        delivery = self.delivery
        payload = await self._bus.objects.get(delivery.headers[names.OBJECT])
        return _Whole(delivery.subject, payload, delivery.headers, delivery.count, delivery.origin)

    def history(self) -> History:
        """The journal of the attempts at this message."""
        told, call = self.delivery.headers, self.call
        about = (self.duty.name, call.id, call.origin, told.get(names.RUN, ""))
        copy = Copy(
            self.delivery.seq,
            names.count_in(told, names.PARK) or None,
            told.get(names.WOKEN),
            names.count_in(told, names.EDITED),
        )
        history = History(self._bus.journal, self._bus.replica, about, copy)
        history.before = names.count_in(told, names.TRIED)
        return history

    @property
    def doubtful(self) -> bool:
        """Whether another process may have got this delivery meanwhile: the lease was not renewed in time."""
        return now() >= self.leased

    def comes_after(self, past: Past) -> None:
        """Earlier attempts came to ``past``; this one has the number after them."""
        self.past = past
        self.call.attempt = self.steps.attempt = past.next


def now() -> float:
    """Seconds on a clock that also counts while this process, or the whole machine, is frozen."""
    return time.clock_gettime(_CLOCK)


def conversation_for(headers: Mapping[str, str], payload: bytes, origin: str) -> str:
    """The conversation that a message belongs to; one of its own, named by its origin, if it does not say."""
    conversation = conversation_of(headers, payload) or f"o-{origin}"
    return conversation if len(conversation) <= LONGEST_NAME else subjects.token(conversation)


def conversation_of(headers: Mapping[str, str], payload: bytes) -> str | None:
    """The conversation that a message belongs to, if it says so: in its headers, else in its payload."""
    given = headers.get(names.CONVERSATION)
    if given is None:
        return codec.conversation_in(payload)
    encoded = headers.get(names.CONVERSATION_NAME)
    if encoded:
        try:
            name = unquote(encoded, errors="surrogatepass")
        except UnicodeDecodeError:
            name = ""
        # A name that does not make the token beside it would let a sender into another conversation's journal.
        if name and subjects.token(name) == given:
            return name
    return subjects.named_by(given) or given
