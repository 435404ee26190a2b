"""Hostile messages, made from real ones: a record that Tieline wrote, with one field of it turned into something nasty.

So every decoder is reached, past the first check of what it reads. All of it follows from a seed.
"""

import asyncio
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tieline import headers as names
from tieline.codec import digest

__all__ = ["Frame", "Hostility", "send_raw"]

FRAGMENTS = (
    "null",
    "true",
    "false",
    "-1",
    "0",
    "1",
    "1.5",
    "-1.5",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e18",
    "1e300",
    "9" * 5_000,
    "-" + "9" * 5_000,
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "999999999",
    "99999999999999",
    "-99999999999999",
    '""',
    '" "',
    '"²"',
    '"٣"',
    '"\\ud800"',
    '"\\u0000"',
    '"a\\r\\nb"',
    '"*.>"',
    '"..."',
    '"' + "x" * 20_000 + '"',
    "[]",
    "{}",
    "[[]]",
    '{"a":1}',
    "[" * 400 + "]" * 400,
    "[" * 20_000 + "]" * 20_000,
    '"9999-12-31T23:59:59.999999999Z"',
    '"0001-01-01T00:00:00+23:59"',
    '"CALL_INTENT-' + "9" * 5_000 + '-1"',
    '"CALL_INTENT-²-fff"',
    '"CALL_INTENT-1-ffffffffffffffff"',
    '"-1-1"',
    '"1e400"',
    '"TIELINE/gone"',
    '"step.a.b.c.d"',
    '"STEP"',
    '"DLQ"',
    '"NO_SUCH_STREAM"',
    '"a b"',
)
TEXTS = (
    "",
    " ",
    "²",
    "٣",
    "-1",
    "0",
    "1",
    "999999",
    "999999999",
    "9" * 5_000,
    "1e400",
    "nan",
    "inf",
    "0x10",
    "1_000",
    "+5",
    "never",
    "9999-12-31T23:59:59+00:00",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "2026-02-30T00:00:00Z",
    "yesterday",
    "\x00",
    "a\nb",
    "a\rb",
    "x" * 20_000,
    "*.>",
    "*",
    ">",
    "..",
    "a b",
    "{",
    "[]",
    "null",
    "[" * 20_000,
    "CALL_INTENT-" + "9" * 5_000 + "-1",
    "CALL_INTENT-²-fff",
    "CALL_INTENT-1-ffffffffffffffff",
    "-1-1",
    "TIELINE/gone",
    "TIELINE/",
    "/",
    "NOBUCKET/x",
    "step.a.b.c.d",
    "step.booking.h-1.tool.x",
    "call.intent.book",
    "$JS.API.STREAM.DELETE.CALL_INTENT",
    "%ff%",
    "b_",
    "b_!!!",
    "b_" + "0" * 64,
    "1 X 1 - AAAA id",
    "1 X 99999999999999999999 - AAAA id",
    "1 X ² d AAAA id",
    "\ud800",
)
HEADERS = (
    names.CONVERSATION,
    names.CONVERSATION_NAME,
    names.ORIGIN,
    names.RUN,
    names.CAUSE,
    names.DEADLINE,
    names.STEP,
    names.DEAD,
    names.SUBJECT,
    names.OBJECT,
    names.VERSION,
    names.REDRIVEN,
    names.TRIED,
    names.GUEST,
    names.SIGNATURE,
    names.TRACEPARENT,
    names.TTL,
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Pending-Messages",
    "X-Odd",
    names.PARK,
    names.WOKEN,
    names.EDITED,
    names.AWAKE,
    names.MARKER,
)
TOKENS = (
    "*",
    ">",
    "²",
    "\x0b",
    "é",
    "\\",
    "x" * 3_000,
    "$",
    "b_",
    "b_!!!",
    "a b",
    "-",
    "!",
    "unknown",
    "tool-stamp",
    "!fact",
)
RAW = (b"", b"\xff\xfe", b"{", b"[]", b"null", b"7", b"[" * 50_000, b'{"a":' * 20_000)
_SUFFIX = len(digest(""))


@dataclass(frozen=True, slots=True)
class Frame:
    """One message to publish: as a client writes it, unchecked."""

    subject: str
    headers: tuple[tuple[str, str], ...]
    payload: bytes

    def encode(self) -> bytes:
        block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in self.headers) + "\r\n"
        head, subject = block.encode(errors="surrogatepass"), self.subject.encode(errors="surrogatepass")
        sizes = b" %d %d\r\n" % (len(head), len(head) + len(self.payload))
        return b"HPUB " + subject + sizes + head + self.payload + b"\r\n"


class Hostility:
    """Makes hostile frames of templates: messages that the pod wrote or was sent."""

    def __init__(self, templates: Sequence[Frame], seed: int) -> None:
        self._templates = sorted(templates, key=lambda frame: frame.subject)
        self._kinds = sorted({_kind(frame) for frame in templates})
        self._random = Random(seed)
        self._number = 0

    def frames(self) -> Iterator[Frame]:
        """Without end. Each kind of record comes as often as any other."""
        while True:
            self._number += 1
            kind = self._random.choice(self._kinds)
            template = self._random.choice([frame for frame in self._templates if _kind(frame) == kind])
            made = self._made(template)
            if len(made.subject.encode(errors="surrogatepass")) < 3_800 and " " not in made.subject:
                yield made
            if self._random.random() < 0.25:
                yield from self._haunted()

    def _made(self, template: Frame) -> Frame:
        mine = self._moved(template)
        match self._random.randrange(8):
            case 0 | 1 | 2:
                return Frame(mine.subject, mine.headers, self._json(mine.payload))
            case 3 | 4:
                return Frame(mine.subject, self._headers(mine.headers), mine.payload)
            case 5:
                return Frame(mine.subject, self._told(mine.headers), mine.payload)
            case 6:
                raw = self._random.choice(
                    (b"", b"\xff\xfe", b"{", b"[]", b"null", b"[" * 50_000, mine.payload[:-3], b"7")
                )
                return Frame(mine.subject, mine.headers, raw)
            case _:
                many = self._random.random() < 0.1
                more = tuple((f"X-{number}", "y") for number in range(2_000)) if many else ()
                return Frame(self._subject(mine.subject), (*mine.headers, *more), mine.payload)

    def _moved(self, template: Frame) -> Frame:
        """The template in a conversation of ours, with an id and a place of its own."""
        mine, subject = f"h-{self._number}", template.subject
        parts = subject.split(".")
        if parts[0] == "step":
            parts[2], parts[4] = mine, f"{self._number}-{parts[4]}"[-128:]
        elif parts[0] in ("state", "schedule", "cancelled") or subject.startswith(("call.audit.", "tool.result.")):
            parts[-1] = mine
        kept = [(name, value) for name, value in template.headers if not name.startswith("Nats-")]
        kept = [(name, mine if name == names.CONVERSATION else value) for name, value in kept]
        schedule = [(name, value) for name, value in template.headers if name.startswith("Nats-Schedule")]
        payload = template.payload.replace(b'"notes":"', b'"nowhere":"')  # what it does is not counted
        return Frame(".".join(parts), (*kept, *schedule, ("Nats-Msg-Id", f"{mine}-{subject}"[:200])), payload)

    def _json(self, payload: bytes) -> bytes:
        try:
            value = json.loads(payload)
        except ValueError:
            return payload + b"\xff"
        return self._nasty(value).encode(errors="surrogatepass")

    def _nasty(self, value: Any) -> str:
        """``value`` as JSON, with one part of it replaced, removed or renamed."""
        if not isinstance(value, dict) or not value:
            return self._random.choice(FRAGMENTS)
        changed = copy.deepcopy(value)
        place, name = changed, self._random.choice(list(changed))
        while isinstance(place[name], dict | list) and place[name] and self._random.random() < 0.7:
            place = place[name]
            name = self._random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place[name] = "@@here@@"
        return json.dumps(changed).replace('"@@here@@"', self._random.choice(FRAGMENTS), 1)

    def _headers(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        name, text = self._random.choice(HEADERS), self._random.choice(TEXTS)
        others = tuple((known, value) for known, value in headers if known != name)
        return ((name, text), *others) if self._random.random() < 0.8 else ((name, text), *headers, (name, text))

    def _told(self, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """The JSON of a dead letter's cause, changed; else another header."""
        dead = dict(headers).get(names.DEAD)
        if dead is None:
            return self._headers(headers)
        changed = self._nasty(json.loads(dead)) if self._random.random() < 0.9 else self._random.choice(TEXTS)
        return (*((name, value) for name, value in headers if name != names.DEAD), (names.DEAD, changed))

    def _subject(self, subject: str) -> str:
        parts = subject.split(".")
        at = self._random.randrange(1, len(parts))
        parts[at] = self._random.choice(TOKENS)
        return ".".join(parts)

    def _haunted(self) -> Iterator[Frame]:
        """A message that is brought back to its agent, and the journal of its earlier run, every record of it changed.

        The journal is read for a message that was delivered before, so this reaches what reads attempts and steps.
        """
        self._number += 1
        mine, origin = f"h-{self._number}", f"CALL_INTENT-{self._number}-1a2b3c4d"
        key = digest(origin, "")
        for template in self._templates:
            parts = template.subject.split(".")
            if parts[0] != "step" or parts[1] != "booking" or self._random.random() < 0.5:
                continue
            suffix = "-end" if parts[4].endswith("-end") else ""
            plain = parts[4].removesuffix(suffix)
            number = plain[plain.rindex("-") :] if parts[3] == "attempt" else ""
            stem = plain.removesuffix(number)[:-_SUFFIX] if parts[3] != "attempt" else ""
            subject = ".".join([*parts[:2], mine, parts[3], f"{stem}{key}{number}{suffix}"])
            yield Frame(subject, ((names.CONVERSATION, mine), (names.ORIGIN, origin)), self._json(template.payload))
        headers = ((names.CONVERSATION, mine), (names.ORIGIN, origin), (names.SUBJECT, "call.intent.book"))
        tried = (names.TRIED, self._random.choice(("1", "2", "999999999", "²", "999999")))
        body = json.dumps({"callId": mine, "number": self._random.randrange(9)}).encode()
        redriven = self._headers((*headers, tried)) if self._random.random() < 0.5 else (*headers, tried)
        yield Frame("redrive.call_intent.booking", redriven, body)


def _kind(frame: Frame) -> str:
    parts = frame.subject.split(".")
    return f"{parts[0]}.{parts[1]}.{parts[3]}" if parts[0] == "step" else ".".join(parts[:2])


async def send_raw(url: str, frames: Sequence[Frame]) -> None:
    """Publish without asking for acknowledgements; returns when the server has read all of it."""
    host, port = url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    for frame in frames:
        writer.write(frame.encode())
        await writer.drain()
    writer.write(b"PING\r\n")
    while not (line := await reader.readline()).startswith(b"PONG"):
        assert line, "the server closed the connection of the hostile client"
    writer.close()
    await writer.wait_closed()
