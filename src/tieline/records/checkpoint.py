"""`Checkpoint`: everything an accountant knows, with the positions up to which it read each stream.

Positions and state are one value: whoever loads it goes on exactly where its writer stood. It is one or more messages
on ``accounting.<pod>`` and ``accounting.<pod>.<n>``, stored in one atomic batch. Each begins with a line of JSON: the
format, a digest of the whole, the number of the part and of all parts. The rest is JSON compressed by zlib, in which
sets of sequences are ranges.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from tieline.errors import BadPayload
from tieline.records.ranges import pack, pack_ranges, unpack, unpack_ranges
from tieline.records.reading import read_integer, read_number, read_object, read_text

__all__ = ["FORMAT", "AccountState", "Answer", "Checkpoint", "Due", "Position", "UnseenState", "Verdict"]

FORMAT: Final = 1
"""Raised with every change that an older accountant could not read. A checkpoint of another format is not used."""

type Verdict = Literal["done", "dead", "expired", "unaccounted", "accepted", "before"]
type Answer = Literal["dead", "parked", "superseded", "expired", "lost", "before"]
type Due = tuple[float, float | None, str]
"""Of one delivery: when it was stored, when its TTL ends (None without one, infinity for never), and its subject."""

_VERDICTS: tuple[str, ...] = get_args(Verdict.__value__)
_ANSWERS: tuple[str, ...] = get_args(Answer.__value__)
_EARLY = ("done", "over", "dead", "parked", "superseded")
_MOST_BYTES = 512 * 1024 * 1024  # of a whole checkpoint, unpacked
_MOST_PARTS = 1_000
_MOST_NAMES = 100_000  # accounts, streams, subjects
_MARKS = 100
_HEADER = 256  # bytes left for the first line


@dataclass(frozen=True, slots=True)
class Position:
    """Up to which sequence a stream was read, and when that stream was created (seconds since 1970).

    ``life`` is when its sequences began: earlier than ``created`` for a stream that was restored from a backup.
    """

    seq: int
    created: float
    life: float


@dataclass(slots=True)
class AccountState:
    """One account. ``closed``, ``answers`` and ``early`` are sets of sequences by verdict or answer; ``copies`` maps a
    copy to its message; ``owed`` and ``unreported`` say of each sequence when it was stored and when it expires."""

    stream: str
    agent: str
    low: int = 0
    published: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    pending: list[int] = field(default_factory=list)
    closed: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    early: dict[str, list[int]] = field(default_factory=dict)
    copies: dict[int, int] = field(default_factory=dict)
    aside: list[int] = field(default_factory=list)
    accepted: list[tuple[int, int]] = field(default_factory=list)
    earlier: int = 0
    owed: dict[int, Due] = field(default_factory=dict)
    unreported: dict[int, Due] = field(default_factory=dict)
    reports_facts: bool = False
    since: float = 0.0
    first: int = 0


@dataclass(slots=True)
class UnseenState:
    """The sequences of one stream that were gone before they were read, and between which times they were stored."""

    upto: int = 0
    upto_at: float = 0.0
    gone: list[tuple[int, int]] = field(default_factory=list)
    accepted: list[tuple[int, int]] = field(default_factory=list)
    since: float = 0.0
    until: float = 0.0
    earlier: int = 0
    earlier_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``at`` is when it was written, ``since`` when accounting began: what was stored before is not judged.
    ``marks`` say how far each stream was read at earlier times."""

    at: float
    since: float
    positions: Mapping[str, Position]
    accounts: Sequence[AccountState]
    unseen: Mapping[str, UnseenState]
    marks: Sequence[tuple[float, dict[str, int]]] = ()

    def encode(self, most: int) -> list[bytes]:
        """The payloads of the messages, each at most ``most`` bytes."""
        body = {
            "at": self.at,
            "since": self.since,
            "positions": {name: [place.seq, place.created, place.life] for name, place in self.positions.items()},
            "accounts": [_packed_account(account) for account in self.accounts],
            "unseen": {name: _packed_unseen(unseen) for name, unseen in self.unseen.items()},
            "marks": self.marks,
        }
        whole = zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 3)
        size = most - _HEADER
        chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
        told = {"format": FORMAT, "sha256": hashlib.sha256(whole).hexdigest(), "parts": len(chunks)}
        return [json.dumps(told | {"part": part}).encode() + b"\n" + chunk for part, chunk in enumerate(chunks)]

    @staticmethod
    def parts(payload: bytes) -> int:
        """How many messages the checkpoint has whose first one is ``payload``. `BadPayload` where it cannot be read."""
        return _head(payload)[2]

    @classmethod
    def decode(cls, payloads: Sequence[bytes]) -> "Checkpoint":
        """The checkpoint in ``payloads``, its messages in order. `BadPayload` says why one cannot be used."""
        heads = [_head(payload) for payload in payloads]
        if not heads or [head[1:] for head in heads] != [(part, len(heads), heads[0][3]) for part in range(len(heads))]:
            raise BadPayload("the parts of the checkpoint do not belong together")
        whole = b"".join(payload.partition(b"\n")[2] for payload in payloads)
        if hashlib.sha256(whole).hexdigest() != heads[0][3]:
            raise BadPayload("the checkpoint is damaged: its digest is another")
        unzip = zlib.decompressobj()
        try:
            text = unzip.decompress(whole, _MOST_BYTES)
            body = json.loads(text) if unzip.eof else None
            return _checkpoint(body if isinstance(body, dict) else {})
        except (
            zlib.error,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise BadPayload(f"the checkpoint is damaged: {type(error).__name__}: {error}") from None


class _Unreadable(ValueError):
    pass


def _head(payload: bytes) -> tuple[int, int, int, str]:
    """The format, the part, how many parts there are, and the digest of all."""
    head = read_object(payload[:_HEADER].partition(b"\n")[0]) or {}
    form, digest = read_integer(head.get("format")), read_text(head.get("sha256"), 64)
    part = read_integer(head.get("part"), most=_MOST_PARTS)
    parts = read_integer(head.get("parts"), least=1, most=_MOST_PARTS)
    if form is None or part is None or parts is None:
        raise BadPayload("not a checkpoint")
    if form != FORMAT:
        raise BadPayload(f"a checkpoint of format {form}; this version reads format {FORMAT}")
    return form, part, parts, digest


def _checkpoint(body: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        at=_time(body["at"]),
        since=_time(body["since"]),
        positions={
            name: Position(_integer(place[0]), _time(place[1]), _time(place[2]))
            for name, place in _few(body["positions"]).items()
        },
        accounts=[_account(packed) for packed in body["accounts"][:_MOST_NAMES]],
        unseen={name: _unseen(packed) for name, packed in _few(body["unseen"]).items()},
        marks=[
            (_time(at), {name: _integer(seq) for name, seq in _few(upto).items()})
            for at, upto in body["marks"][:_MARKS]
        ],
    )


def _packed_account(state: AccountState) -> dict[str, Any]:
    return {
        "stream": state.stream,
        "agent": state.agent,
        "low": state.low,
        "published": state.published,
        "ends": {verdict: count for verdict, count in state.ends.items() if count},
        "pending": pack(state.pending),
        "closed": {verdict: pack(seqs) for verdict, seqs in state.closed.items() if seqs},
        "answers": {answer: pack(seqs) for answer, seqs in state.answers.items() if seqs},
        "early": {answer: pack(seqs) for answer, seqs in state.early.items() if seqs},
        "copies": [pack(state.copies), [state.copies[seq] for seq in sorted(state.copies)]],
        "aside": pack(state.aside),
        "accepted": pack_ranges(state.accepted),
        "earlier": state.earlier,
        "owed": _packed_due(state.owed),
        "unreported": _packed_due(state.unreported),
        "facts": state.reports_facts,
        "since": state.since,
        "first": state.first,
    }


def _account(packed: dict[str, Any]) -> AccountState:
    copies = _sequences(packed["copies"][0])
    originals = [_integer(of) for of in packed["copies"][1]]
    return AccountState(
        stream=read_text(packed["stream"], 255),
        agent=read_text(packed["agent"], 255),
        low=_integer(packed["low"]),
        published=_integer(packed["published"]),
        ends={verdict: _integer(packed["ends"].get(verdict, 0)) for verdict in _VERDICTS},
        pending=_sequences(packed["pending"]),
        closed={verdict: _sequences(seqs) for verdict, seqs in packed["closed"].items() if verdict in _VERDICTS},
        answers={answer: _sequences(seqs) for answer, seqs in packed["answers"].items() if answer in _ANSWERS},
        early={answer: _sequences(seqs) for answer, seqs in packed["early"].items() if answer in _EARLY},
        copies=dict(_pairs(copies, originals)),
        aside=_sequences(packed["aside"]),
        accepted=_ranges(packed["accepted"]),
        earlier=_integer(packed["earlier"]),
        owed=_due(packed["owed"]),
        unreported=_due(packed["unreported"]),
        reports_facts=packed["facts"] is True,
        since=_time(packed["since"]),
        first=_integer(packed["first"]),
    )


def _packed_due(dues: Mapping[int, Due]) -> list[Any]:
    """Times in milliseconds, each as the difference to the one before; subjects as numbers in a list of them."""
    seqs = sorted(dues)
    subjects = list(dict.fromkeys(dues[seq][2] for seq in seqs))
    number = {subject: at for at, subject in enumerate(subjects)}
    stored, ttls, before = [], [], 0
    for seq in seqs:
        at, expires, _ = dues[seq]
        milliseconds = round(at * 1000)
        stored.append(milliseconds - before)
        before = milliseconds
        ttls.append(None if expires is None else -1 if math.isinf(expires) else max(0, round((expires - at) * 1000)))
    return [pack(seqs), stored, ttls, subjects, [number[dues[seq][2]] for seq in seqs]]


def _due(packed: list[Any]) -> dict[int, Due]:
    seqs, stored, ttls, subjects, numbers = packed
    if not len(_sequences(seqs)) == len(stored) == len(ttls) == len(numbers):
        raise _Unreadable("times without messages")
    named = [read_text(subject) for subject in subjects[:_MOST_NAMES]]
    found: dict[int, Due] = {}
    milliseconds = 0
    for seq, step, ttl, number in zip(_sequences(seqs), stored, ttls, numbers, strict=True):
        milliseconds += _integer(step, least=-(2**53))
        at = milliseconds / 1000
        lasts = None if ttl is None else _integer(ttl, least=-1)
        expires = None if lasts is None else math.inf if lasts < 0 else at + lasts / 1000
        found[seq] = (at, expires, named[_integer(number, most=len(named) - 1)])
    return found


def _packed_unseen(state: UnseenState) -> list[Any]:
    counts = [state.upto, state.earlier, state.earlier_accepted]
    return [counts, [state.upto_at, state.since, state.until], pack_ranges(state.gone), pack_ranges(state.accepted)]


def _unseen(packed: list[Any]) -> UnseenState:
    counts, times, gone, accepted = packed
    upto, earlier, earlier_accepted = (_integer(count) for count in counts)
    upto_at, since, until = (_time(time) for time in times)
    return UnseenState(upto, upto_at, _ranges(gone), _ranges(accepted), since, until, earlier, earlier_accepted)


def _ranges(packed: object) -> list[tuple[int, int]]:
    found = unpack_ranges(packed)
    if found is None:
        raise _Unreadable("sequences are not ranges")
    return found


def _sequences(packed: object) -> list[int]:
    found = unpack(packed)
    if found is None:
        raise _Unreadable("sequences are not ranges")
    return found


def _pairs(copies: list[int], originals: list[int]) -> list[tuple[int, int]]:
    if len(copies) != len(originals):
        raise _Unreadable("copies without messages")
    return list(zip(copies, originals, strict=True))


def _few(named: dict[str, Any]) -> dict[str, Any]:
    if len(named) > _MOST_NAMES:
        raise _Unreadable("too many streams")
    return named


def _integer(value: object, *, least: int = 0, most: int = 2**63 - 1) -> int:
    found = read_integer(value, least=least, most=most)
    if found is None:
        raise _Unreadable(f"{value!r:.80} is not a number that can be here")
    return found


def _time(value: object) -> float:
    found = read_number(value, least=0.0, most=1e12)
    if found is None:
        raise _Unreadable(f"{value!r:.80} is not a time")
    return found
