"""Lets the client library read everything that a server can deliver.

natsio 1.0.1 drops its connection on a subject with a byte beyond printable ASCII, which the server accepts from any
client. A consumer that is given such a message would reconnect, be given it again, and never get past it. Here such
bytes arrive escaped: ``call.é`` is ``call.\\xc3\\xa9``, a subject that can be logged and published to.

It also drops its connection on a payload beyond the server's ``max_payload``. That limits what clients publish; an
answer of the JetStream API may be larger. The subjects of a stream with 100,000 of them are four megabytes.
"""

import re

import natsio._internal.connection as client
from natsio._internal.protocol import Parser, ParserOutput

__all__ = ["MAX_CONTROL_LINE", "escape_subject", "read_any_subject"]

MAX_CONTROL_LINE = 64 * 1024  # bytes. A server delivers a subject of 4 KiB with a reply subject beside it
_MAX_ANSWER = 64 * 1024 * 1024  # bytes

_ODD = re.compile(rb"[^ -~]")


def escape_subject(subject: bytes) -> bytes:
    """``subject`` in printable ASCII; others' bytes become ``\\xNN``."""
    return _ODD.sub(lambda odd: b"\\x%02x" % odd[0][0], subject)


class _AnySubject(Parser):
    __slots__ = ()

    def _dispatch_control(self, line: bytes) -> ParserOutput:
        if _ODD.search(line) is not None and line.startswith((b"MSG ", b"HMSG ")):
            line = escape_subject(line)
        return super()._dispatch_control(line)

    def set_max_payload(self, limit: int) -> None:
        super().set_max_payload(max(limit, _MAX_ANSWER))


def read_any_subject() -> None:
    """Use the parser above for every connection that is made from now on."""
    client.Parser = _AnySubject  # type: ignore[attr-defined]
