"""One call as a timeline: what was said, what was asked of whom, and how it ended, from the bus alone."""

import json
from dataclasses import dataclass

from oneroof.messages import CallerSaid, Spoken
from tieline import Bus

__all__ = ["Moment", "timeline"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened in a call, ``at`` seconds since 1970."""

    at: float
    who: str
    what: str


async def timeline(bus: Bus, call_id: str) -> list[Moment]:
    """Everything the streams hold about a call, in order of time."""
    moments = [
        moment
        async for delivery in bus.feed("call.audit.*", start=1, to_end=True)
        if (fact := json.loads(delivery.payload)).get("callId") == call_id
        if (moment := _of_fact(fact)) is not None
    ]
    async for delivery in bus.feed(f"call.turn.{call_id}", start=1, to_end=True):
        said = CallerSaid.model_validate_json(delivery.payload)
        moments.append(Moment(delivery.stored, "caller", f"“{said.transcript[-1].text}”"))
    async for delivery in bus.feed(f"call.speech.{call_id}", start=1, to_end=True):
        line = Spoken.model_validate_json(delivery.payload)
        moments.append(Moment(delivery.stored, "office", f"“{line.text}”"))
    return sorted(moments, key=lambda moment: moment.at)


def _of_fact(fact: dict[str, object]) -> Moment | None:
    at, by = float(str(fact["at"])), str(fact.get("by") or "line")
    match fact["fact"]:
        case "published" if str(fact["subject"]).startswith("call.intent."):
            return Moment(at, by, f"publishes {fact['subject']} and walks away")
        case "started":
            return Moment(at, by, f"starts again on {fact['subject']} (attempt {fact['attempt']})")
        case "settled" if str(fact["subject"]).startswith("call.intent.") or fact["outcome"] != "done":
            took = f"{float(str(fact['took'])) * 1000:.0f} ms"
            return Moment(at, by, f"{fact['outcome']} with {fact['subject']} after {took} {fact['reason']}".strip())
        case "stepped":
            found = "found in the journal" if fact["found"] else f"{float(str(fact['took'])) * 1000:.0f} ms"
            return Moment(at, by, f"tool {fact['name']}: {'ok' if fact['ok'] else 'failed'}, {found}")
    return None
