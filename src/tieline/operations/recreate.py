"""Create consumers that were deleted again, so that nothing that was handled is handled again and nothing is lost.

The accountant knows which messages of an agent have a recorded end. So the new consumer begins behind the last one that
was handled, and the messages before it that were not are brought back to the agent, as after a park: with their origin,
so that recorded steps are found. In this order: bring back, then create. A crash between the two repeats the first,
which the server drops by message id.

Not: a consumer that begins at the oldest message without an end. Everything behind it that was handled already would be
delivered again, as a first delivery, for which nothing is looked up in the journal.
"""

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tieline import headers as names
from tieline import subjects
from tieline.errors import BadPayload, BadSettings, NotApplied
from tieline.records.checkpoint import AccountState
from tieline.records.reading import read_ttl
from tieline.runtime.attempt import conversation_for
from tieline.runtime.bus import Bus, whole_seconds
from tieline.runtime.history import Copy, History
from tieline.runtime.park import bring_back
from tieline.services.accounting.checkpoints import Checkpoints
from tieline.services.accounting.keeper import count_now
from tieline.wire.connection import ApiError, NoAnswer
from tieline.wire.feed import Feed
from tieline.wire.stored import Stored, stored_message
from tieline.wire.topology import Consumer, agent_of, consumer_infos, consumers_of, create_consumer, is_waker

__all__ = ["Recreation", "plan_recreations", "recreate"]

_STREAM_MISSING = 10059


@dataclass(frozen=True, slots=True)
class Recreation:
    """A consumer that was deleted. It is created again at sequence ``begin``, and the messages ``bring_back`` before it
    are brought back to its agent. ``why`` says how that is known."""

    consumer: Consumer
    begin: int
    bring_back: tuple[int, ...]
    why: str


async def plan_recreations(bus: Bus, begin: Mapping[str, str]) -> list[Recreation]:
    """The consumers of the pod that are missing and were there before, each with a position that repeats nothing.

    ``begin`` is what an operator decided, by agent: ``stored``, ``new`` or a sequence. Raises `NotApplied` where an
    agent has worked before and its position is not known.
    """
    missing = await _missing(bus)
    if not missing:
        return []
    accounts = await _accounts(bus)
    known = accounts or {}
    found = []
    for consumer, last_seq in missing:
        if consumer.durable in begin:
            found.append(_decided(consumer, begin[consumer.durable], last_seq))
        elif (account := known.get((consumer.stream, consumer.durable))) is not None:
            found.append(_recreation(consumer, account))
        elif accounts is None and await _has_worked(bus, consumer.durable):
            raise NotApplied(_unknown(consumer, last_seq))
    return found


async def recreate(bus: Bus, recreation: Recreation) -> None:
    """Bring back what was not handled, then create the consumer. Safe to interrupt and to run again."""
    consumer = recreation.consumer
    for seq in recreation.bring_back:
        message = await stored_message(bus.connection, consumer.stream, seq)
        if message is None:
            continue  # it was removed, by its age or by hand: there is nothing to handle
        headers = names.carried(message.headers)
        origin = headers.get(names.ORIGIN) or f"{consumer.stream}-{seq}-{int(message.at * 1000):x}"
        headers |= {names.SUBJECT: message.subject, names.ORIGIN: origin}
        if attempts := await _attempts(bus, consumer, message, origin):
            headers[names.PARK] = str(attempts)  # or this copy would be taken for a stale one
        ttl = read_ttl(message.headers.get(names.TTL))
        if ttl is not None:
            headers[names.TTL] = whole_seconds(message.at + ttl - time.time())
        payload = base64.b64encode(message.payload).decode()
        aside = {"stream": consumer.stream, "agent": consumer.durable, "payload": payload, "headers": headers}
        await bring_back(bus, aside, f"recreated {consumer.stream} {seq}")
    await create_consumer(bus.connection, bus.pod, consumer, recreation.begin)


async def _attempts(bus: Bus, consumer: Consumer, message: Stored, origin: str) -> int:
    """How many attempts at the message are on record."""
    conversation = conversation_for(message.headers, message.payload, origin)
    about = (consumer.durable, conversation, origin, message.headers.get(names.RUN, ""))
    past = await History(bus.journal, bus.replica, about, Copy(message.seq)).past()
    return past.next - 1


async def _missing(bus: Bus) -> list[tuple[Consumer, int]]:
    """The consumers of agents and tools that are not there, and the last sequence of their stream: only where that
    stream exists and has had a message."""
    found = []
    there: dict[str, set[str]] = {}
    for consumer in consumers_of(bus.pod):
        if not _takes_messages(consumer):
            continue
        if consumer.stream not in there:
            infos = await consumer_infos(bus.connection, consumer.stream)
            there[consumer.stream] = {info["name"] for info in infos}
        if consumer.durable in there[consumer.stream]:
            continue
        try:
            last = int((await bus.connection.api(f"STREAM.INFO.{consumer.stream}"))["state"]["last_seq"])
        except ApiError as error:
            if error.err_code == _STREAM_MISSING:
                continue
            raise
        if last:
            found.append((consumer, last))
    return found


def _takes_messages(consumer: Consumer) -> bool:
    """Whether it is the consumer of an agent's or a tool's own messages: neither answers nor what is brought back."""
    return not is_waker(consumer.durable) and agent_of(consumer.durable) == consumer.durable


async def _accounts(bus: Bus) -> dict[tuple[str, str], AccountState] | None:
    """What the newest checkpoint and everything recorded since say of each agent that had an account. An agent that has
    none is new. None where there is no checkpoint."""
    try:
        checkpoint = await Checkpoints(bus.connection, bus.pod.name).load()
    except (BadPayload, NoAnswer, ApiError):
        return None
    if checkpoint is None:
        return None
    known = {(state.stream, state.agent) for state in checkpoint.accounts}
    try:
        books = (await count_now(bus.connection, bus.pod)).books
    except (NoAnswer, ApiError) as error:
        raise NotApplied(f"what was handled cannot be read now, run it again: {error}") from error
    return {key: account.state() for key, account in books.accounts.items() if key in known}


def _recreation(consumer: Consumer, state: AccountState) -> Recreation:
    """Behind the last message that was handled; those before it that were not are brought back."""
    owed = sorted(seq for seq in state.owed if seq not in state.copies)
    waiting = {*state.pending} - {*owed}  # parked: there is a record that brings each back
    handled = max([state.low, state.first - 1, *waiting, *(seq for seqs in state.closed.values() for seq in seqs)])
    back = tuple(seq for seq in owed if seq < handled)
    why = f"sequence {handled:,} is the last one with a recorded end"
    if back:
        why += f"; {len(back):,} before it have none and are brought back"
    return Recreation(consumer, handled + 1, back, why)


def _decided(consumer: Consumer, begin: str, last_seq: int) -> Recreation:
    match begin:
        case "stored":
            return Recreation(consumer, 1, (), "as --begin says: everything that is stored is handled again")
        case "new":
            return Recreation(consumer, last_seq + 1, (), "as --begin says: nothing that is stored is handled")
    if not (begin.isascii() and begin.isdecimal() and 0 < int(begin[:19]) < 2**62):
        raise BadSettings(f"--begin {consumer.durable}={begin}: write stored, new, or a sequence of {consumer.stream}")
    return Recreation(consumer, int(begin[:19]), (), "as --begin says")


async def _has_worked(bus: Bus, name: str) -> bool:
    """Whether the agent or tool has left a trace: a record or a dead letter. One that has another consumer for messages
    takes them from this stream for the first time."""
    for stream in bus.pod.streams:
        if name in {info["name"] for info in await consumer_infos(bus.connection, stream)}:
            return False
    for stream, pattern in (("STEP", subjects.steps_of(name)), ("DLQ", subjects.dead_letter(name, "*", ">"))):
        try:
            if (await Feed(bus.connection, stream, [pattern], start=1).position())[0]:
                return True
        except NotApplied:
            continue  # there is no such stream
    return False


def _unknown(consumer: Consumer, last_seq: int) -> str:
    return (
        f"consumer {consumer.stream}/{consumer.durable} was deleted, and it is not known what it had handled: there is "
        "no checkpoint of the accountant (the process audit). It is not created again, because from the beginning it "
        f"would repeat everything that {consumer.stream} holds. Say where it begins: `tieline apply POD --begin "
        f"{consumer.durable}=new` (behind sequence {last_seq:,}), `={last_seq}` or another sequence, or `=stored` "
        "(handle everything again)"
    )
