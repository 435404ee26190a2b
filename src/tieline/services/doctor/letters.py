"""Rules on messages that will not be delivered again: kept, seen, and moved by somebody."""

from collections.abc import Iterator

from tieline.services.doctor.finding import Finding, Rule
from tieline.services.doctor.observation import EXHAUSTED, Observation, StreamSeen

__all__ = ["RULES", "judge"]

WAITING = Rule(
    "dead-letters-waiting",
    "dead letters that nobody moves",
    "each one is work that somebody asked for and that was not done; they go with the stream's max_age",
)
UNCAUGHT = Rule(
    "exhausted-unseen",
    "tries that run out with no stream to keep the server's word of it",
    "when max_deliver is reached the message leaves every counter of its consumer and nobody is told: the advisory is "
    "sent once, to whoever listens at that moment",
)
UNREAD = Rule(
    "advisories-unread",
    "advisories of exhausted tries that nobody reads",
    "the messages they are about stay where they are until their stream drops them",
)
RULES = (WAITING, UNCAUGHT, UNREAD)


def judge(seen: Observation) -> Iterator[Finding]:
    """All findings about dead letters, ours and others'."""
    captured = any(stream.captures for stream in seen.streams)
    for stream in seen.streams:
        if stream.captures:
            yield from _unread(stream)
        elif stream.dead:
            yield from _waiting(stream)
        if not captured:
            yield from _uncaught(stream)
    yield from _limbo(seen)


def _waiting(stream: StreamSeen) -> Iterator[Finding]:
    if not stream.messages:
        return
    moved = any(consumer.waiting or consumer.bound for consumer in stream.durables)
    if stream.ours:
        remedy = "tieline dlq ls shows them by cause; tieline dlq redrive or tieline dlq drop moves them"
    else:
        remedy = f"nats stream view {stream.name} shows them; send them again or: nats stream purge {stream.name}"
    what = f"{stream.messages} dead letters" + (", and a consumer reads them" if moved else "")
    yield WAITING.found("note" if moved else "warning", stream.thing, what, remedy)


def _unread(stream: StreamSeen) -> Iterator[Finding]:
    if stream.messages and not stream.readers:
        yield UNREAD.found(
            "warning",
            stream.thing,
            f"{stream.messages} advisories and no consumer",
            "tieline run POD audit (part of tieline up) makes dead letters of them; or look at each one's stream and "
            "stream_seq: nats stream get STREAM SEQ",
        )


def _uncaught(stream: StreamSeen) -> Iterator[Finding]:
    for consumer in stream.durables:
        if consumer.max_deliver > 0 and consumer.acks == "explicit" and not consumer.pod:
            yield UNCAUGHT.found(
                "warning",
                consumer.thing,
                f"max_deliver {consumer.max_deliver}, and no stream stores {EXHAUSTED}",
                "tieline apply POD makes the stream ADVISORY; or: nats stream add ADVISORY --subjects "
                f"'{EXHAUSTED}' --max-age 7d --defaults",
            )


def _limbo(seen: Observation) -> Iterator[Finding]:
    """On a work queue what is neither to be delivered nor delivered is nobody's. Seen twice, with nothing moving."""
    later = {stream.name: stream for stream in seen.again}
    for first in seen.streams:
        second = later.get(first.name)
        if second is None or not first.durables or first.messages != second.messages:
            continue
        lost = second.unowed
        if lost > 0 and lost == first.unowed:
            yield UNCAUGHT.found(
                "error",
                first.thing,
                f"{lost} of {first.messages} messages of this work queue are with no consumer: their tries ran out, "
                "or no filter takes them",
                f"nats stream view {first.name} shows them; publish them again or delete them: nats stream rmm "
                f"{first.name} SEQ",
            )
