"""Pulling from one durable consumer: never more than asked for, and never in silence.

The client library's own ``fetch`` and ``consume`` listen on ``_INBOX.`` whatever the connection's inbox prefix is,
and ask for information that an agent's credentials need not allow. This loop needs MSG.NEXT, ACK and its own inbox.
"""

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import count
from typing import Any

from natsio import StatusCode

from tieline.errors import ConsumerGone, Unreachable
from tieline.records.reading import read_digits
from tieline.wire.connection import ApiError, Connection, Listening, NoAnswer, Received, headers_of
from tieline.wire.delivery import Delivery

__all__ = ["PullConsumer", "look_for"]

log = logging.getLogger("tieline.consumer")

_EXPIRES = 30.0  # seconds a pull waits at the server
_HEARTBEAT = 2.0  # the server's sign of life on an idle pull
_SILENCE = 2.5 * _HEARTBEAT  # after which a pull is taken for dead and asked again
_BAD_REQUEST = 400
_PAUSE = 0.25  # between asks while the consumer has no leader


class PullConsumer:
    """One process's hold on a durable consumer. `fetch` is for one task at a time."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        durable: str,
        *,
        acked: bool = True,
        on_arrival: Callable[[], None] | None = None,
    ) -> None:
        """``acked``: what is lost on the way comes again. Where it does not, `fetch` says so when something may be.

        ``on_arrival`` is called for each delivery, before it is fetched.
        """
        self.stream = stream
        self.durable = durable
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._arrived: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._asked = 0  # deliveries the server still owes us; written by fetch and the inbox, same loop
        self._pulls = count(1)
        self._since = 0.0  # when the oldest pull that is not known to be alive was sent, or it was last heard of
        self._failure: Exception | None = None
        self._listening: Listening | None = None
        self._inbox = ""
        self._unsure = False  # a pull ended for a reason that may mean the consumer is gone
        self._acked = acked
        self._on_arrival = on_arrival
        self._lossy = False  # something may have been lost that does not come again
        self._stale: list[Listening] = []  # inboxes of forgotten pulls, until none of those can bring anything
        self._beside: set[asyncio.Task[None]] = set()
        connection.on_reconnect.append(self._forget)
        connection.on_forbidden.append(self._forbidden)

    @property
    def silence(self) -> float:
        """Seconds since the server last gave a sign of life on a pull that is out; 0 where none is."""
        return asyncio.get_running_loop().time() - self._since if self._asked else 0.0

    async def fetch(self, most: int) -> list[Delivery]:
        """Between one and ``most`` deliveries, as soon as there is one; at most ``most`` are ever on their way.

        No more than half of ``most`` at once (but one): the other half is on its way while the caller works on these.
        None at all where nothing is acknowledged and a pull broke off: what it brought may be lost.
        Raises `ConsumerGone` within seconds of the consumer's deletion and `Unreachable` when the connection is
        closed. Cancellation leaves what had arrived for `close` to hand back.
        """
        if self._arrived:
            if await self._ask(most):
                await asyncio.sleep(0)  # the pull goes out before the work on these, which may not wait once
        else:
            await self._wait_for_one(most)
        return [self._arrived.popleft() for _ in range(min((most + 1) // 2, len(self._arrived)))]

    def break_off(self) -> None:
        """Let `fetch` return nothing, as if something may have been lost: its caller then makes another consumer."""
        self._lossy = True
        self._wake.set()

    async def _wait_for_one(self, most: int) -> None:
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._lossy:
                self._lossy = False
                return
            self._wake.clear()  # first: what is heard while we ask ends the wait below
            if self._unsure:
                await look_for(self._connection, self.stream, self.durable)
                self._unsure = False
            await self._ask(most)
            try:
                async with asyncio.timeout(_SILENCE):
                    await self._wake.wait()
            except TimeoutError:
                self._connection.alone.unanswered()
                self._forget()  # not even a heartbeat: the pull died with its server

    @property
    def arrived(self) -> int:
        """How many deliveries have arrived and were not fetched yet."""
        return len(self._arrived)

    def keep(self, most: int) -> int:
        """Hand back what has arrived beyond ``most``; how many that were."""
        surplus = [self._arrived.pop() for _ in range(len(self._arrived) - most)]
        self.hand_back(surplus)
        return len(surplus)

    def hand_back(self, deliveries: Iterable[Delivery]) -> None:
        """Hand back what was fetched, at once and without waiting."""
        for delivery in deliveries:
            self._do_beside(self._hand_back(delivery))

    async def close(self) -> None:
        """Stop pulling and hand back at once what arrived and nobody took."""
        if self._forbidden in self._connection.on_forbidden:
            self._connection.on_forbidden.remove(self._forbidden)
        if self._forget in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._forget)
        for listening in (*self._stale, *([self._listening] if self._listening is not None else [])):
            await listening.stop()
        self._stale.clear()
        while self._arrived:
            await self._hand_back(self._arrived.popleft())

    async def _ask(self, most: int) -> bool:
        """Pull what may be on its way and is not; False where that is nothing, or too little to be worth a request."""
        if self._listening is None:
            self._inbox = f"{self._connection.inbox}.{os.urandom(6).hex()}"  # one agent pulls from several streams
            self._listening = self._connection.listen(f"{self._inbox}.*", partial(self._heard, self._inbox))
        held = self._asked + len(self._arrived)
        missing = most - held
        if not self._connection.connected:
            return False  # it would be sent on reconnect, and forgotten then
        # Small top-ups cost a request each; the first ones to finish wait for half of the slots to be free.
        if missing <= 0 or (held and missing < most // 2):
            return False
        if not self._asked:
            self._since = asyncio.get_running_loop().time()
        self._asked += missing
        pull = {"batch": missing, "expires": int(_EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        await self._connection.send(
            self._next,
            json.dumps(pull).encode(),
            reply=f"{self._inbox}.{next(self._pulls)}",
        )
        return True

    def _heard(self, inbox: str, received: Received) -> None:
        current = inbox == self._inbox
        if current:
            self._since = asyncio.get_running_loop().time()
        if received.status is None:
            try:
                delivery = Delivery(received, self._connection)
            except ValueError:
                self._connection.unreadable.skip("answer", received.subject, self.stream, 0)
                return
            if current:
                self._asked -= 1
                self._arrived.append(delivery)
                if self._on_arrival is not None:
                    self._on_arrival()
            else:
                # There may be no slot for it: another pull was sent in place of the forgotten one.
                self._do_beside(self._hand_back(delivery))
        elif current:
            self._told(received.status.code, received.status.description, received)
        self._wake.set()

    def _told(self, code: int, description: str, received: Received) -> None:
        if code == StatusCode.CONTROL:
            return
        left = read_digits(headers_of(received).get("Nats-Pending-Messages"))
        self._asked = 0 if left is None else max(0, self._asked - left)
        if code in (StatusCode.NOT_FOUND, StatusCode.TIMEOUT):
            return  # idle for the whole pull: not an error
        if code == StatusCode.CONFLICT and "deleted" in description.lower():
            self._failure = _gone(self.stream, self.durable)
        elif code == _BAD_REQUEST:
            self._failure = ConsumerGone(f"consumer {self.durable} of {self.stream} refuses pulls: {description}")
        else:  # no responders, leadership change, server shutdown, exceeded max waiting
            log.info("consumer %s of %s: pull ended: %s %s", self.durable, self.stream, code, description)
            self._unsure = True

    def _forget(self) -> None:
        """No pull is outstanding any more: ask anew, on a new inbox so that late answers do not count."""
        self._asked = 0
        self._unsure = True
        self._lossy = not self._acked
        stale, self._listening, self._inbox = self._listening, None, ""
        if stale is not None:
            # A pull that was on its way when the connection broke is answered after all. Who stopped listening would
            # lose what it brings for a whole ack wait.
            self._stale.append(stale)
            asyncio.get_running_loop().call_later(_EXPIRES, self._retire, stale)
        self._wake.set()

    def _forbidden(self, subject: str) -> None:
        if subject == self._next:
            self._failure = ConsumerGone(
                f"consumer {self.durable!r} of stream {self.stream!r} may not be pulled with the credentials of this "
                "process; are they those of another agent? (tieline creds --explain)"
            )
            self._wake.set()

    def _retire(self, stale: Listening) -> None:
        if stale in self._stale:
            self._stale.remove(stale)
            self._do_beside(stale.stop())

    def _do_beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _hand_back(self, delivery: Delivery) -> None:
        try:
            await delivery.nak()
        except Unreachable:
            return  # the ack wait hands it back


async def look_for(connection: Connection, stream: str, durable: str) -> None:
    """Raise `ConsumerGone` if a consumer does not exist, where we may ask; wait a little where it has no leader."""
    try:
        await connection.api(f"CONSUMER.INFO.{stream}.{durable}")
    except ApiError as error:
        if error.err_code in (10014, 10059):
            raise _gone(stream, durable) from error
        await asyncio.sleep(_PAUSE)
    except NoAnswer:
        await asyncio.sleep(_PAUSE)


def _gone(stream: str, durable: str) -> ConsumerGone:
    return ConsumerGone(
        f"consumer {durable!r} of stream {stream!r} does not exist (any more). `tieline plan` shows what is missing; "
        "`tieline apply` and `tieline up` create it again where nothing that was handled is repeated"
    )
