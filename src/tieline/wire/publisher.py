"""Publishing: returns when a stream has stored the message, or raises. Never quietly in between."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import natsio

from tieline import headers as names
from tieline.errors import Denied, NotAccepted, Unconfirmed
from tieline.records.reading import read_integer, read_object, read_text
from tieline.settings import PublishSettings
from tieline.wire.connection import Connection, Forbidden, NoAnswer, Unsendable

__all__ = ["PubAck", "Publisher"]

# Reasons that pass: too many requests; the first copy of this id is still on its way in; no leader at the moment;
# the server is short of a resource for now.
_PASSING = frozenset({10167, 10158, 10008, 10009, 10023, 10041})
_MAX_HEADERS = 65_535  # bytes; a stream refuses more
_MAX_SUBJECT = (
    3_900  # characters: a control line of the server holds 4,096 bytes, and a longer one costs the connection
)
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 2.0
_IN_FLIGHT = 512  # publishes of one process that wait for the server at a time; the others wait for their turn


@dataclass(frozen=True, slots=True)
class PubAck:
    """Where the message was stored, after how many tries. ``duplicate``: it was there already, under the same id."""

    stream: str
    seq: int
    duplicate: bool
    tries: int = 1


class Publisher:
    """Publishes to streams over one connection."""

    def __init__(self, connection: Connection, settings: PublishSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._in_flight = _Window(_IN_FLIGHT)
        self.retries = 0  # tries beyond the first, since the start; written here only

    def fits(self, payload: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the server takes a message of this size. One that is larger would cost us the connection."""
        block = 12 + sum(len(name) + len(value.encode(errors="surrogatepass")) + 4 for name, value in headers.items())
        return block <= _MAX_HEADERS and len(payload) + block <= self._connection.max_payload

    async def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> PubAck:
        """The server's acknowledgement. ``headers`` must carry a ``Nats-Msg-Id``.

        While 512 publishes of this process are in flight, it waits for its turn; ``patience`` begins when it is sent
        first. Tries again with the same id through timeouts, missing leaders and ingest limits until that is over, then
        raises `NotAccepted`; at once where trying again cannot help, and `Denied` where our credentials do not
        allow it. Raises `Unreachable` when the connection is closed. A cancelled or timed-out publish may have been
        stored all the same: the id makes a repeat harmless.
        """
        if len(subject) > _MAX_SUBJECT:
            raise NotAccepted(
                f"{subject[:80]}…: a subject of {len(subject):,} characters; at most {_MAX_SUBJECT:,} are carried",
                subject=subject,
            )
        if not self.fits(payload, headers):
            raise NotAccepted(
                f"{subject}: the payload has {len(payload):,} bytes; with its headers that is more than the "
                f"{self._connection.max_payload:,} the server takes, or the headers alone are over {_MAX_HEADERS:,}",
                subject=subject,
            )
        loop = asyncio.get_running_loop()
        until, wait, tries = 0.0, _FIRST_WAIT, 1
        while True:
            try:
                async with self._in_flight.place(again=tries > 1):
                    until = until or loop.time() + self._settings.patience
                    left = min(self._settings.ack_timeout, until - loop.time())
                    ack = await self._once(subject, payload, headers, left)
                return ack if tries == 1 else replace(ack, tries=tries)
            except _Passing as passing:
                if loop.time() + wait >= until:
                    raise self._refused(subject, passing) from passing
            tries += 1
            self.retries += 1
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _once(self, subject: str, payload: bytes, headers: Mapping[str, str], wait: float) -> PubAck:
        try:
            reply = await self._connection.request(subject, payload, headers, max(wait, 0.01))
        except Forbidden as forbidden:
            raise Denied(f"{forbidden}. {_remedy(subject)}", subject=subject) from forbidden
        except Unsendable as error:
            raise NotAccepted(f"this message cannot be sent: {error}", subject=subject) from error
        except NoAnswer as silence:
            raise _Passing(str(silence), 0) from silence
        except natsio.NATSError as error:
            raise NotAccepted(f"{subject}: this message cannot be sent: {error}", subject=subject) from error
        answer = read_object(reply.payload) or {}
        refusal, stream, seq = answer.get("error"), answer.get("stream"), read_integer(answer.get("seq"))
        if refusal is None and isinstance(stream, str) and seq is not None:
            return PubAck(stream, seq, bool(answer.get("duplicate")))
        if not isinstance(refusal, dict):
            raise NotAccepted(f"{subject}: somebody other than a stream answered", subject=subject)
        err_code = read_integer(refusal.get("err_code")) or 0
        description = read_text(refusal.get("description")) or "no reason given"
        if err_code in _PASSING:
            raise _Passing(description, err_code)
        raise NotAccepted(
            f"{subject}: the server refused it: {description} (err_code {err_code})", subject=subject, err_code=err_code
        )

    def _refused(self, subject: str, passing: "_Passing") -> Unconfirmed:
        return Unconfirmed(
            f"{subject}: not acknowledged within {self._settings.patience:g} s ({passing}). It may or may not be "
            f"stored; publishing again with the same {names.MSG_ID} is safe. Does a stream store this subject, and has "
            "it a leader: on a cluster, are most of its servers up? (tieline plan, tieline report)",
            subject=subject,
            err_code=passing.err_code,
        )


def _remedy(subject: str) -> str:
    """What has to be declared for credentials to allow it."""
    first, _, rest = subject.partition(".")
    match first:
        case "tool":
            declare = f"calls=(the tool {rest.removeprefix('call.')},)"
        case "schedule" | "state" | "partial" | "$O":
            uses = {"schedule": "delays", "state": "state", "partial": "models", "$O": "large"}[first]
            declare = f'uses=("{uses}",)'
        case _:
            declare = "publishes=(the message of this subject,)"
    return f"Does the agent declare it, with {declare} in @pod.agent? Then make its credentials anew (tieline creds)"


class _Passing(Exception):
    def __init__(self, reason: str, err_code: int) -> None:
        super().__init__(reason)
        self.err_code = err_code


class _Window:
    """At most ``size`` publishes in flight. First come, first served, but one that was sent before goes first.

    A place is for one try: a publish that pauses before its next try has given its place to another.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def place(self, *, again: bool) -> AsyncIterator[None]:
        """One place in it. ``again``: this publish was sent before, and its time is running."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(again=again)
        try:
            yield
        finally:
            self._hand_on()

    async def _turn(self, *, again: bool) -> None:
        turn = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given a place in the same moment
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
