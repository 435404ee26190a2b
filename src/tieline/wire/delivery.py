"""`Delivery`: a message handed to us once, with the duty to settle it. The only module that acknowledges."""

import json
from collections.abc import Mapping

from tieline import headers as names
from tieline.records.reading import read_short, read_ttl
from tieline.wire.connection import Connection, NoAnswer, Received, headers_of

__all__ = ["Delivery"]

_DIGITS = 20  # of a number in 63 bits, and one more
_FOREVER = 1e9  # seconds; the server counts nanoseconds in 63 bits


class Delivery:
    """One delivery of a stored message.

    ``stream`` and ``seq`` name the message, ``origin`` is who it is across redelivery and redrive, ``count`` is how
    often the server has delivered it (1 is no proof of a first run). ``subject`` is what the message was published to
    first; ``redriven`` says that it was brought back to this consumer alone, under the subject ``stored_as``. ``nth``
    is its place in the consumer's own count of deliveries (a gap is a delivery that never arrived), and ``left`` how
    many messages the consumer had still to deliver after it.
    """

    __slots__ = (
        "_connection",
        "_reply",
        "_stored_ns",
        "count",
        "headers",
        "left",
        "nth",
        "origin",
        "payload",
        "redriven",
        "seq",
        "stored_as",
        "stream",
        "subject",
    )

    def __init__(self, received: Received, connection: Connection) -> None:
        """`ValueError` for what the server did not deliver: anybody may publish to an inbox whose name they know."""
        self.payload = received.payload
        self.headers: Mapping[str, str] = headers_of(received)
        self.stored_as = received.subject
        self.redriven = received.subject.startswith("redrive.")
        self.subject = (self.redriven and read_short(self.headers.get(names.SUBJECT))) or received.subject
        self._connection = connection
        self._reply = received.reply or ""
        # $JS.ACK.<stream>.<consumer>.<delivered>.<seq>.<consumer seq>.<timestamp>.<pending>; the second form of
        # ADR-15 has the domain and the account hash before the stream.
        parts = self._reply.split(".")
        at = 2 if len(parts) < 11 else 4
        if len(parts) < 9 or parts[:2] != ["$JS", "ACK"]:
            raise ValueError("not a delivery of the server")
        self.stream = parts[at]
        self.count, self.seq, self.nth, self._stored_ns, self.left = map(_number, parts[at + 2 : at + 7])
        # Who this message is across redelivery and redrive: its header, else where and when it was first stored.
        # The time is part of it, so that a stream made anew does not find the journal of its predecessor.
        self.origin = (
            read_short(self.headers.get(names.ORIGIN)) or f"{self.stream}-{self.seq}-{self._stored_ns // 1_000_000:x}"
        )

    @property
    def fresh(self) -> bool:
        """Whether nothing suggests that it was handled before. It may have been all the same."""
        return self.count == 1 and not self.redriven

    @property
    def stored(self) -> float:
        """When the message was stored, in seconds since 1970."""
        return self._stored_ns / 1e9

    @property
    def expires(self) -> float | None:
        """When the server removes it for its TTL, in seconds since 1970; None where it has none."""
        ttl = read_ttl(self.headers.get(names.TTL))
        return None if ttl is None else self.stored + ttl

    async def ack(self) -> None:
        """Acknowledge. A crash of this process right after may lose it: the message is then delivered again. It does
        not wait unless the connection's buffer is full, so that many go out in one write."""
        await self._connection.send(self._reply, b"+ACK")

    async def ack_kept(self) -> bool:
        """Acknowledge and wait for the server's word. False where it did not confirm: assume another delivery."""
        try:
            await self._connection.request(self._reply, b"+ACK")
        except NoAnswer:
            return False
        return True

    async def nak(self, delay: float = 0.0) -> None:
        """Hand it back, to be delivered again after ``delay`` seconds (0: at once, to whoever pulls)."""
        body = b"-NAK" if delay <= 0 else b"-NAK " + json.dumps({"delay": int(min(delay, _FOREVER) * 1e9)}).encode()
        await self._connection.send(self._reply, body)

    async def extend(self) -> None:
        """Start its ack wait again: the handler still runs."""
        await self._connection.send(self._reply, b"+WPI")


def _number(digits: str) -> int:
    if len(digits) < _DIGITS and digits.isascii() and digits.isdigit():  # five for every delivery: not a regex
        return int(digits)
    raise ValueError("not a delivery of the server")
