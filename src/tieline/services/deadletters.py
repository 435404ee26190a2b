"""Dead letters for consumers that are not Tieline's: from the server's advisories, and from what those miss.

Such a consumer leaves a message to the server, which stops delivering it after ``max_deliver`` tries, or when the
consumer terminates it, and says so once, in an advisory. The stream ADVISORY keeps those. An advisory is lazy (with
nobody pulling it is not sent: a probe pull, which takes no message, makes the server send it) and lossy (a server that
dies sends none: on work queues a sweep finds what was left behind).

The server sends the same advisory, MSG_TERMINATED, when it removes a message that a consumer was given and has not
acknowledged: its TTL or its age ended, or somebody deleted it. Nobody gave up on such a message. It is not a dead
letter: its handler may still finish, and the accountant decides from facts and records whether it did or expired.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from tieline import codec, subjects
from tieline import headers as names
from tieline.errors import ConsumerGone, NotAccepted
from tieline.records.reading import read_header, read_integer, read_name, read_object, read_text, read_timestamp
from tieline.runtime.bus import Bus
from tieline.services.letters.burials import Burials
from tieline.services.letters.reading import STREAM
from tieline.services.stopping import until_stopped
from tieline.wire.connection import ApiError, NoAnswer
from tieline.wire.consumer import PullConsumer
from tieline.wire.delivery import Delivery
from tieline.wire.stored import Stored, remove, stored_message
from tieline.wire.topology import consumer_infos, stream_infos

__all__ = ["DURABLE", "DeadLetters", "run"]

log = logging.getLogger("tieline.deadletters")

DURABLE = "dead-letters"  # of ADVISORY: one for the account, shared by the pods that are up in it

_ADVISORIES = "ADVISORY"
_EVERY = 60.0  # seconds between looks at the consumers
_BATCH = 64
_AGAIN = 15.0  # seconds until an advisory that could not be dealt with comes again
_REMEMBERED = 540.0  # seconds for which the server surely knows an id: its window is ten minutes
_EXISTS = frozenset({10148, 10013})
_CONSUMER_MISSING = frozenset({10014, 10059})
_SWEPT = 256  # messages of one consumer in one look
_PROBE = json.dumps({"batch": 1, "no_wait": True, "max_bytes": 1}).encode()  # no message is as small: none is taken
_OURS = frozenset({STREAM, _ADVISORIES})  # what is dead there is in DLQ already, or tells of what is
_REMOVED = "Unacknowledged message was deleted"  # the server's reason for a message that it removed itself


@dataclass(frozen=True, slots=True)
class _Death:
    """What the server says, or the sweep found: ``consumer`` will not get message ``seq`` of ``stream`` again.

    ``client_reason`` is what an advisory gives as the reason of the client that terminated the message, if anything.
    """

    stream: str
    consumer: str
    seq: int
    cause: str
    reason: str
    deliveries: int | None
    at: float
    client_reason: str = ""


class DeadLetters:
    """Follows the advisories, and looks every ``every`` seconds for what they miss. Several may run at once."""

    def __init__(self, bus: Bus, every: float = _EVERY) -> None:
        self._bus = bus
        self._every = every
        self._burials = Burials(bus.connection)
        self._suspects: set[tuple[str, str, int]] = set()  # found by the last sweep

    async def work(self) -> None:
        """Follow and look for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._look_for_ever())

    async def _follow(self) -> None:
        while True:
            consumer = PullConsumer(self._bus.connection, _ADVISORIES, DURABLE)
            try:
                await self._make()
                while True:
                    for advisory in await consumer.fetch(_BATCH):
                        await self._advised(advisory)
            except (ConsumerGone, ApiError, NoAnswer) as error:
                log.warning("advisories cannot be read now: %s", error)
                await asyncio.sleep(min(self._every, _AGAIN))
            finally:
                await consumer.close()

    async def _make(self) -> None:
        config = {
            "durable_name": DURABLE,
            "name": DURABLE,
            "ack_policy": "explicit",
            "ack_wait": 60_000_000_000,
            "metadata": {"tieline.service": DURABLE},
        }
        body = {"stream_name": _ADVISORIES, "config": config, "action": "create"}
        try:
            await self._bus.connection.api(f"CONSUMER.CREATE.{_ADVISORIES}.{DURABLE}", body)
        except ApiError as error:
            if error.err_code not in _EXISTS:
                raise

    async def _advised(self, advisory: Delivery) -> None:
        """In this order: the letter, then the advisory's acknowledgement. A crash in between repeats the letter, which
        the server drops by its id, or which is found in DLQ where the id may be forgotten."""
        death = _read_advisory(advisory)
        if death is None:
            self._bus.connection.unreadable.skip("advisory", advisory.subject, advisory.stream, advisory.seq)
        try:
            if death is not None:
                await self._bury(death)
            await advisory.ack_kept()
        except (ApiError, NoAnswer, NotAccepted) as error:
            log.warning("the advisory %d comes again: %s", advisory.seq, error)
            await advisory.nak(_AGAIN)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self.look()
            except (ApiError, NoAnswer, NotAccepted) as error:
                log.warning("consumers cannot be looked at now: %s", error)

    async def look(self) -> None:
        """Probe every consumer that is not ours and that nobody pulls; sweep those of work queues.

        What a sweep finds is dead if the next one finds it as well: until then its removal may only be on its way.
        """
        found: dict[tuple[str, str, int], _Death] = {}
        streams = await stream_infos(self._bus.connection)
        for stream in sorted(set(streams) - _OURS):
            for info in await consumer_infos(self._bus.connection, stream):
                if not _is_foreign(info):
                    continue
                await self._probe(info)
                if streams[stream]["config"].get("retention") == "workqueue":
                    found |= {(d.stream, d.consumer, d.seq): d for d in await self._left_behind(info)}
        for key in found.keys() & self._suspects:
            await self._bury(found[key])
        self._suspects = set(found)

    async def _probe(self, info: dict[str, Any]) -> None:
        if info["config"].get("deliver_subject") or info.get("num_waiting") or not info["num_ack_pending"]:
            return  # somebody pulls, or nothing is owed: the server has said what there is to say
        where = f"$JS.API.CONSUMER.MSG.NEXT.{info['stream_name']}.{info['name']}"
        try:
            await self._bus.connection.request(where, _PROBE)
        except NoAnswer as silence:
            log.info("consumer %s of %s: no answer to a probe: %s", info["name"], info["stream_name"], silence)

    async def _left_behind(self, info: dict[str, Any]) -> list[_Death]:
        """Messages of a work queue that were delivered, are not owed any more, and are still there."""
        stream, consumer, config = info["stream_name"], info["name"], info["config"]
        upto = int(info["ack_floor" if info["num_ack_pending"] else "delivered"]["stream_seq"])
        found: list[_Death] = []
        for pattern in config.get("filter_subjects") or [config.get("filter_subject") or ">"]:
            seq = 0
            while len(found) < _SWEPT:
                message = await stored_message(self._bus.connection, stream, seq + 1, pattern)
                if message is None or message.seq > upto:
                    break
                seq = message.seq
                reason = (
                    f"consumer {consumer} is owed it no more and did not acknowledge it (max_deliver {_limit(info)})"
                )
                found.append(_Death(stream, consumer, seq, "exhausted", reason, None, message.at))
        return found

    async def _bury(self, death: _Death) -> None:
        """Write the letter, once; then, on a work queue, remove the message, which nobody can get any more."""
        if death.stream in _OURS:
            log.warning(
                "consumer %s gave up message %d of %s, which stays there", death.consumer, death.seq, death.stream
            )
            return
        connection = self._bus.connection
        message = await stored_message(connection, death.stream, death.seq)
        own = await self._is_ours(death)
        if message is None and death.client_reason in (_REMOVED, *([""] if own else [])):
            log.info(
                "message %d of %s is gone; consumer %s did not give it up", death.seq, death.stream, death.consumer
            )
            return
        unsure = own or message is None or time.time() - death.at > _REMEMBERED  # whether the id tells a repeat
        if unsure and await self._burials.has(death.consumer, death.stream, death.seq, death.at):
            return
        await self._write(death, message, own)
        if message is not None and await self._is_queue(death.stream):
            await remove(connection, death.stream, [death.seq])

    async def _write(self, death: _Death, message: Stored | None, own: bool) -> None:
        sent = {} if message is None else message.headers
        origin = f"{death.stream}-{death.seq}-{0 if message is None else int(message.at * 1000):x}"
        if own:  # what the runtime would have written
            origin = sent.get(names.ORIGIN, origin)
        told = _told(death, message, origin, self._bus.replica)
        if own:
            told["subject"] = sent.get(names.SUBJECT, told["subject"])
        unique = codec.digest("dead", death.consumer, origin, sent.get(names.RUN, ""), sent.get(names.REDRIVEN, ""))
        payload = b"" if message is None else message.payload
        conversation = codec.conversation_in(payload) or f"o-{origin}"
        headers = {names.CONVERSATION: subjects.token(conversation)} | names.carried(sent)
        headers |= {names.MSG_ID: unique, names.ORIGIN: read_header(origin), names.DEAD: json.dumps(told)}
        if not self._bus.publisher.fits(payload, headers):
            told["payload"] = f"not carried, too large beside its cause: message {death.seq} of {death.stream}"
            payload, headers[names.DEAD] = b"", json.dumps(told)
        subject = subjects.dead_letter(death.consumer, death.cause, told["subject"])
        ack = await self._bus.publisher.publish(subject, payload, headers)
        if not ack.duplicate:
            log.warning("consumer %s of %s dead letter: %s", death.consumer, death.stream, death.reason)

    async def _is_ours(self, death: _Death) -> bool:
        try:
            info = await self._bus.connection.api(f"CONSUMER.INFO.{death.stream}.{death.consumer}")
        except ApiError as error:
            if error.err_code in _CONSUMER_MISSING:
                return False
            raise
        return not _is_foreign(info)

    async def _is_queue(self, stream: str) -> bool:
        config = (await self._bus.connection.api(f"STREAM.INFO.{stream}"))["config"]
        return bool(config.get("retention") == "workqueue")


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Work until ``stop`` is set. Raises `Unreachable` when the connection is lost."""
    await until_stopped(DeadLetters(bus).work(), bus.connection, stop)


def _read_advisory(advisory: Delivery) -> _Death | None:
    """What an advisory says; None where it cannot be read. Anybody who may publish there can have written it."""
    said = read_object(advisory.payload) or {}
    stream, consumer = read_name(said.get("stream")), read_name(said.get("consumer"))
    seq, at = read_integer(said.get("stream_seq"), least=1), read_timestamp(said.get("timestamp"))
    deliveries = read_integer(said.get("deliveries", 0))
    if stream is None or consumer is None or seq is None or at is None or deliveries is None:
        return None
    if ".MSG_TERMINATED." in advisory.subject:
        given = read_text(said.get("reason"))
        reason = f"consumer {consumer} terminated it: {given or 'it gave no reason'}"
        return _Death(stream, consumer, seq, "terminated", reason, deliveries, at, given)
    reason = f"consumer {consumer} did not acknowledge it in {deliveries} deliveries (its max_deliver)"
    return _Death(stream, consumer, seq, "exhausted", reason, deliveries, at)


def _told(death: _Death, message: Stored | None, origin: str, replica: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "cause": death.cause,
        "reason": death.reason,
        "error": "",
        "traceback": "",
        "agent": death.consumer,
        "version": "",
        "subject": "unknown" if message is None else message.subject,
        "stream": death.stream,
        "seq": death.seq,
        "origin": origin,
        "ttl": "" if message is None else message.headers.get(names.TTL, ""),
        "at": round(death.at, 3),
        "by": replica,
        "attempts": [],
        "deliveries": death.deliveries,
    }
    if message is None:
        told["payload"] = f"not carried: message {death.seq} of {death.stream} was gone when this was written"
    return told


def _is_foreign(info: dict[str, Any]) -> bool:
    """Whether a consumer may give messages up without Tieline's runtime knowing."""
    metadata = info["config"].get("metadata") or {}
    return not any(key.startswith("tieline.") for key in metadata) and info["config"].get("ack_policy") != "none"


def _limit(info: dict[str, Any]) -> Any:
    return info["config"].get("max_deliver", -1)
