"""`Bus`: one process's place on the bus: publishing, listening, and what its workers share."""

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from tieline import codec, subjects
from tieline import headers as names
from tieline.errors import BadDeclaration, BadPayload
from tieline.facts import Fact, Observer, Published, Settled
from tieline.messages import Message, binding_of
from tieline.partial import Partial
from tieline.pod import Pod
from tieline.records.reading import read_timestamp
from tieline.runtime.aside import Aside
from tieline.runtime.audit import Audit, Release
from tieline.runtime.trust import Trust
from tieline.settings import Settings
from tieline.wire import topology
from tieline.wire.connection import Connection, Received
from tieline.wire.feed import Feed
from tieline.wire.journal import Journal
from tieline.wire.objects import Objects
from tieline.wire.publisher import PubAck, Publisher
from tieline.wire.standstill import Standstill
from tieline.wire.topology import Change

__all__ = ["LONGEST_NAME", "Bus", "Outgoing", "connect", "deadline_in", "timing", "whole_seconds"]

_HURRIED = 5.0  # seconds that a cancelled process waits for a stream that stores no facts
_PARTIALS = 10_000  # pieces that wait for a slow reader
LONGEST_NAME = 1024  # characters of a conversation id; it travels in a header

log = logging.getLogger("tieline.bus")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way: where to, what, and its headers but for the id."""

    message: Message
    conversation: str
    subject: str
    payload: bytes
    headers: dict[str, str]


class Bus:
    """A connection to the bus of one pod. Made by `connect`; any number of tasks may use it."""

    def __init__(self, pod: Pod, settings: Settings, connection: Connection) -> None:
        self.pod = pod
        self.settings = settings
        self.connection = connection
        self.replica = f"{socket.gethostname()}:{os.getpid()}"
        self.publisher = Publisher(connection, settings.publish)
        self.objects = Objects(connection, self.publisher, settings.large)
        self.standstill = Standstill(self.publisher)
        self.journal = Journal(connection, self.standstill, self.objects)
        self.aside = Aside(self.journal)
        self.trust = None if settings.signatures == "off" else Trust(pod, settings, connection, self.publisher)
        self.observers: list[Observer] = []
        self.audit = Audit(connection, facts=settings.audit)
        if settings.audit:
            self.observers.append(self.audit)

    async def publish(
        self,
        message: Message,
        *,
        conversation: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's word for it
        after: float | timedelta | None = None,
        deadline: float | timedelta | None = None,
    ) -> str:
        """Publish ``message``; returns its id once the stream has stored it.

        ``conversation`` is the message's ``call_id`` unless given, ``id`` is made unless given: publish again with the
        same one after an error, and the server drops the repeat. ``after`` (seconds, or a timedelta) delays it; the
        server keeps it meanwhile. ``deadline`` (seconds from now, or a timedelta) is when the whole work is due: it
        travels with everything published because of this message, bounds timeouts and TTLs on the way, and work
        that runs into it becomes a dead letter with the cause ``deadline``.

        Raises `NotAccepted` when the stream refused it, or when too many facts of earlier messages wait for
        CALL_AUDIT; `Unconfirmed` when the server did not answer for ``publish.patience`` seconds, `Unreachable` when
        the connection is closed. A cancelled publish may be stored.
        """
        if self.audit.full:
            await self.audit.room(self.settings.publish.patience)
        unique = id or os.urandom(16).hex()
        named = conversation or codec.conversation_of(message) or unique
        wait = after.total_seconds() if isinstance(after, timedelta) else after
        within = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
        due = None if within is None else time.time() + within
        await self.store(self.outgoing(message, named, wait, due), unique, "", "")
        return unique

    async def plan(self, *, force: bool = False) -> list[Change]:
        """What `apply` would do, and what it would leave; empty when the server is as the pod declares."""
        return await topology.plan(self.connection, self.pod, force=force)

    async def apply(self, *, force: bool = False) -> list[Change]:
        """Make the pod's streams and consumers on the server as declared; returns what was done and what was left.

        Idempotent; never deletes or recreates. ``force`` also overrides a newer version of the pod and lowers limits
        that drop stored messages. Raises `NotApplied` with the server's words when it refuses.
        """
        return await topology.apply(self.connection, self.pod, force=force)

    def feed(self, *filters: str, start: int | datetime | None = None, to_end: bool = False) -> Feed:
        """What a stream has stored and will store on ``filters`` (all of one stream), in order, without gaps.

        ``start``: a sequence, a time, or None for what comes from now on. ``to_end`` ends with the last message that
        was there at the beginning. It acknowledges nothing and changes nothing.
        """
        return Feed(self.connection, self.pod.stream_of(filters[0]).name, filters, start=start, to_end=to_end)

    async def messages[M: Message](
        self, model: type[M], *, start: int | datetime | None = None, to_end: bool = False
    ) -> AsyncIterator[M]:
        """The messages of one class that its stream has stored and will store; like `feed`, typed.

        What does not fit the class is passed over with a line in the log, and so is what is gone from the object store.
        """
        async for delivery in self.feed(binding_of(model).filter, start=start, to_end=to_end):
            try:
                reference = delivery.headers.get(names.OBJECT)
                payload = delivery.payload if reference is None else await self.objects.get(reference)
                yield codec.decode(model, payload)
            except BadPayload as error:
                log.warning("%s:%d passed over: %s", delivery.stream, delivery.seq, error)

    async def partials(self, conversation: str) -> AsyncGenerator[Partial]:
        """What models say in ``conversation`` from now on, piece by piece, while they say it.

        Ends when this bus is closed; raises `Unreachable` when the connection is lost for good. Pieces are lost while
        it is away, and where the reader is more than 10,000 behind: what counts is what becomes of the whole answer.
        """
        heard: asyncio.Queue[Partial | None] = asyncio.Queue()

        def hear(received: Received) -> None:
            if heard.qsize() < _PARTIALS:
                with suppress(BadPayload):  # somebody else's idea of a piece
                    heard.put_nowait(codec.decode(Partial, received.payload))

        def lost(_: object) -> None:
            heard.put_nowait(None)

        listening = self.connection.listen(subjects.partial(conversation), hear)
        self.connection.lost.add_done_callback(lost)
        try:
            while (partial := await heard.get()) is not None:
                yield partial
            if not self.connection.lost.cancelled():
                self.connection.lost.result()
        finally:
            self.connection.lost.remove_done_callback(lost)
            await listening.stop()

    def outgoing(
        self, message: Message, conversation: str, after: float | None = None, deadline: float | None = None
    ) -> Outgoing:
        """``message`` ready to be stored in ``conversation``. `BadDeclaration` where no stream stores or delays it.

        ``deadline`` is in seconds since 1970; what lies beyond it is not worth delivering, so it bounds the TTL.
        """
        binding = binding_of(type(message))
        subject = codec.subject_of(message)
        stream = self.pod.stream_of(subject)
        if after is not None and not stream.delays:
            raise BadDeclaration(f"stream {stream.name} delays nothing ({subject}); declare it with delays=True")
        ttl, headers = binding.ttl, self.about(conversation)
        if deadline is not None:
            headers[names.DEADLINE] = datetime.fromtimestamp(deadline, UTC).isoformat(timespec="milliseconds")
            left = deadline - time.time() - (after or 0.0)
            ttl = min(ttl or left, left) if stream.ttls else ttl
        headers |= timing(subject, ttl, after)
        return Outgoing(message, conversation, subject, codec.encode(message), headers)

    async def store(self, outgoing: Outgoing, msg_id: str, cause: str, by: str) -> PubAck:
        """Store what is outgoing under ``msg_id``, and tell the fact. Raises like `publish`."""
        headers = outgoing.headers | {names.MSG_ID: msg_id}
        if cause:
            headers[names.CAUSE] = cause
        delayed = "Nats-Schedule" in headers
        subject = subjects.schedule(msg_id) if delayed else outgoing.subject
        payload, claim = await self.objects.lighten(
            outgoing.conversation, outgoing.payload, {"callId": outgoing.conversation}
        )
        headers |= claim
        if self.trust is not None:
            due = datetime.fromisoformat(headers["Nats-Schedule"].removeprefix("@at ")).timestamp() if delayed else None
            await self.trust.sign(outgoing.subject, payload, headers, due)
        ack = await self.publisher.publish(subject, payload, headers)
        self.observe(lambda: _published(outgoing, by, subject, ack, headers))
        return ack

    def about(self, conversation: str) -> dict[str, str]:
        """The headers that say which conversation a message belongs to."""
        token = subjects.token(conversation)
        if subjects.named_by(token) == conversation:
            return {names.CONVERSATION: token}
        if len(conversation) > LONGEST_NAME:
            raise BadPayload(
                f"conversation id of {len(conversation):,} characters; at most {LONGEST_NAME:,} are carried"
            )
        return {names.CONVERSATION: token, names.CONVERSATION_NAME: quote(conversation, errors="surrogatepass")}

    def observe(self, fact: Callable[[], Fact]) -> None:
        """Tell a fact to whoever listens; it is not even made where nobody does."""
        if self.observers:
            told = fact()
            for observer in self.observers:
                observer(told)

    def conclude(self, settled: Settled, release: Release) -> None:
        """Report how a delivery ended; ``release`` acknowledges it once that is stored."""
        for observer in self.observers:
            if observer is not self.audit:
                observer(settled)
        self.audit.conclude(settled, release)

    @property
    def stands_still(self) -> str:
        """Why this process takes no work now; empty where it does."""
        behind = "CALL_AUDIT does not store facts (tieline report shows whether it is full)" if self.audit.full else ""
        return self.standstill.reason or behind

    async def room(self) -> None:
        """Wait while a stream is full, or the audit so far behind, that no more work should be taken."""
        if self.standstill.reason:
            await self.standstill.over()
        if self.audit.full:
            await self.audit.room()

    async def written(self) -> None:
        """Return when the facts told so far are stored. `Unconfirmed` after ``publish.patience`` seconds."""
        await self.audit.written(self.settings.publish.patience)

    async def close(self, patience: float | None = None) -> None:
        """Write the facts that wait, then close the connection.

        Gives up on facts only when the server stored none for ``patience`` seconds (``publish.patience`` unless given),
        and logs how many.
        """
        await self.audit.close(self.settings.publish.patience if patience is None else patience)
        await self.journal.close()
        await self.connection.close()


def _published(outgoing: Outgoing, by: str, subject: str, ack: PubAck, headers: Mapping[str, str]) -> Published:
    ttl = headers.get(names.TTL)
    reference = headers.get(names.OBJECT)  # a fact has no room for what its message had none for
    shown = {"callId": outgoing.conversation, "tielineObject": reference}
    return Published(
        conversation=outgoing.conversation,
        by=by,
        subject=subject,
        stream=ack.stream,
        seq=ack.seq,
        msg_id=headers[names.MSG_ID],
        cause=headers.get(names.CAUSE, ""),
        payload=codec.redacted(outgoing.message) if reference is None else shown,
        expires=None if ttl is None else time.time() + int(ttl),
        tries=ack.tries,
    )


def timing(subject: str, ttl: float | None, after: float | None) -> dict[str, str]:
    """The headers for a message to ``subject`` that is worth ``ttl`` seconds and delayed by ``after`` seconds.

    A delayed message is published to `subjects.schedule`; its TTL begins when it is due.
    """
    if after is not None and after > 0:
        due = datetime.now(UTC) + timedelta(seconds=after)
        headers = {
            "Nats-Schedule": f"@at {due.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}",
            "Nats-Schedule-Target": subjects.due(subject),
        }
        return headers if ttl is None else headers | {"Nats-Schedule-TTL": whole_seconds(ttl)}
    return {} if ttl is None else {names.TTL: whole_seconds(ttl)}


def whole_seconds(ttl: float) -> str:
    """A TTL as NATS takes it: whole seconds, at least one, never shorter than asked."""
    return str(max(1, math.ceil(ttl)))


def deadline_in(headers: Mapping[str, str]) -> float | None:
    """The deadline a message carries, in seconds since 1970; None where it has none or it cannot be read."""
    return read_timestamp(headers.get(names.DEADLINE))


@asynccontextmanager
async def connect(pod: Pod, *, settings: Settings | None = None, name: str | None = None) -> AsyncIterator[Bus]:
    """The bus of ``pod``, closed at the end of the ``async with``.

    ``settings`` are those of the environment (``TIELINE_*``) unless given; ``name`` is shown in the server's list of
    connections. Raises `Unreachable` when no server answers. It creates no streams; `Bus.apply` does.
    """
    chosen = settings or Settings.from_environment()
    connection = await Connection.open(chosen.connection, name or f"{pod.name}-client")
    bus = Bus(pod, chosen, connection)
    patience = None
    try:
        yield bus
    except asyncio.CancelledError:
        patience = min(chosen.publish.patience, _HURRIED)
        raise
    finally:
        await asyncio.shield(bus.close(patience))
