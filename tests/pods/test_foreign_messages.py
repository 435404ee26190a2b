"""Messages of a plain NATS client: every intent of the pod, with and without each field, and with wrong types."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import natsio
import pytest

from oneroof.messages import BookViewing, CallerSaid, HomeSearch
from oneroof.office.hours import LOCAL
from oneroof.opening import Place, opened
from tieline.services.letters.reading import Selection, listed
from tieline.testing import eventually

SOON = (datetime.now(LOCAL) + timedelta(days=3)).replace(hour=15, minute=0, second=0, microsecond=0)
SLOT = SOON.strftime("%Y-%m-%dT%H:%M")
PHONE = "+12065550142"

# For each intent: all of its fields, and what is spoken when they are all there.
WHOLE: dict[str, tuple[dict[str, Any], str]] = {
    "call.intent.book": ({"home": "1042", "slot": SLOT, "phone": PHONE, "name": "Ann"}, "You are booked to see home"),
    "call.intent.search": (
        {"place": "Ballard", "beds": 3, "baths": 1, "maxPrice": 900_000, "minPrice": 1, "minSqft": 5},
        "fit",
    ),
    "call.intent.research": ({"home": "1042"}, "is worth about"),
    "call.intent.lookup": ({"home": "1042"}, "That is home 1042"),
    "call.intent.escalate": ({"reason": "wants a person", "phone": PHONE}, "I have asked a colleague"),
    "call.intent.voicemail": ({"note": "the roof leaks", "phone": PHONE}, "Your message is noted"),
    "call.answer.{call}": ({"intent": "lookup", "say": "It is blue.", "offers": ["1042"]}, "It is blue."),
    "call.turn.{call}": (
        {"began": SLOT, "transcript": [{"who": "caller", "text": "tell me about 1042"}]},
        "looking up 1042",
    ),
    "call.intent.late": (
        {"subject": "call.intent.book", "stream": "CALL_INTENT", "seq": 7, "agent": "scheduler", "expired": SLOT}
        | {"shown": {"turn": 2}},
        "that took too long",
    ),
}
# What is spoken when one field is missing, or of a type that makes no sense there.
WITHOUT: dict[tuple[str, str], str] = {
    ("call.intent.book", "home"): "Which home",
    ("call.intent.book", "slot"): "Which day and what time",
    ("call.intent.book", "phone"): "What telephone number",
    ("call.intent.research", "home"): "Which home",
    ("call.intent.lookup", "home"): "Which home",
    ("call.intent.escalate", "phone"): "leave us your number",
    ("call.intent.voicemail", "note"): "Please leave your message",
    ("call.turn.{call}", "transcript"): "How can I help you",
    ("call.answer.{call}", "say"): "",
}
# Wrong values in the place of a right one, and what is spoken then.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("call.intent.book", {"slot": "next week some time"}, "Which day and what time"),
    ("call.intent.book", {"slot": 12}, "Which day and what time"),
    ("call.intent.book", {"slot": "2020-01-01T15:00"}, "is already past"),
    ("call.intent.book", {"slot": "9999-12-31T23:45:00Z"}, "up to a year ahead"),
    ("call.intent.book", {"slot": f"{SLOT[:10]}T03:00"}, "We show homes between nine"),
    ("call.intent.book", {"phone": "blue"}, "I cannot call that number"),
    ("call.intent.book", {"phone": {"home": "x"}}, "What telephone number"),
    ("call.intent.book", {"home": ["1042"]}, "Which home"),
    ("call.intent.book", {"home": 1042}, "You are booked to see home 1042"),
    ("call.intent.book", {"phone": 2065550142}, "You are booked to see home 1042"),
    ("call.intent.book", {"instead_of": "1077"}, "You are booked to see home 1042"),
    ("call.intent.book", {"turn": "first", "name": 7, "mood": "merry"}, "You are booked to see home 1042"),
    ("call.intent.search", {"beds": "a few"}, "I did not understand the number of bedrooms"),
    ("call.intent.search", {"beds": 10**400}, "I did not understand the number of bedrooms"),
    ("call.intent.search", {"maxPrice": "$900,000"}, "fit"),
    ("call.intent.search", {"place": "Balard"}, "Did you mean Ballard?"),
    ("call.intent.search", {"place": "anywhere but Ballard"}, "I don't know a neighbourhood called anywhere but"),
    ("call.intent.search", {"place": None, "notPlaces": ["Ballard", "Fremont"], "homeType": "townhouse"}, "fit"),
    ("call.intent.search", {"otherPlaces": ["fremont", "wallingford"], "maxSqft": 4000, "notWaterfront": True}, "fit"),
    ("call.intent.search", {"homeType": "castle"}, "I did not understand the kind of home"),
    ("call.intent.search", {"place": {"zip": 98103}}, "I did not understand the neighborhood"),
    ("call.intent.research", {"home": {}}, "Which home"),
    ("call.intent.lookup", {"home": None}, "Which home"),
    ("call.intent.escalate", {"phone": "12", "reason": 7}, "I cannot call that number"),
    ("call.intent.voicemail", {"note": ["the roof"]}, "Please leave your message"),
    ("call.turn.{call}", {"transcript": "hello"}, "How can I help you"),
    ("call.turn.{call}", {"transcript": ["tell me about 1042", 7, {"who": "cat"}]}, "looking up 1042"),
    ("call.turn.{call}", {"began": "9999-12-31T23:59:59Z"}, "looking up 1042"),
    ("call.intent.late", {"shown": 5, "subject": [], "seq": "x", "expired": "soon"}, "that took too long"),
]


class Caller:
    """A plain client, and what is spoken to its calls."""

    def __init__(self, client: natsio.Client) -> None:
        self._client = client
        self._spoken: dict[str, list[str]] = {}
        self._count = 0

    async def listen(self) -> None:
        subscription = await self._client.subscribe("call.speech.*")
        async for message in subscription:
            self._spoken.setdefault(message.subject.rpartition(".")[2], []).append(json.loads(message.payload)["text"])

    async def publish(self, subject: str, fields: dict[str, Any] | bytes, **more: Any) -> str:
        """Publish with the header of the article and no other; returns the call's id."""
        self._count += 1
        call = f"foreign-{self._count}"
        if isinstance(fields, dict) and fields.get("slot") == SLOT:  # one home at a time: each call on another day
            fields = fields | {"slot": (SOON + timedelta(days=self._count)).strftime("%Y-%m-%dT%H:%M")}
        payload = fields if isinstance(fields, bytes) else json.dumps({"callId": call, **fields} | more).encode()
        headers = {"Nats-TTL": "300"}
        reply = await self._client.request(subject.replace("{call}", call), payload, headers=headers, timeout=10)
        assert "error" not in json.loads(reply.payload), reply.payload
        return call

    async def spoken(self, call: str, words: str) -> None:
        async def said() -> bool:
            return any(words in text for text in self._spoken.get(call, ()))

        await eventually(said, what=f"{words!r} is spoken to {call}: {self._spoken.get(call)}", within=30)

    async def spoken_anywhere(self, words: str) -> None:
        async def said() -> bool:
            return any(words in text for texts in self._spoken.values() for text in texts)

        await eventually(said, what=f"{words!r} is spoken", within=30)


@pytest.fixture
def restored_environment() -> Iterator[None]:
    before = os.environ.get("ONEROOF_DATA")
    yield
    os.environ.pop("ONEROOF_DATA", None)
    if before is not None:
        os.environ["ONEROOF_DATA"] = before


@asynccontextmanager
async def plain_client(folder: Path) -> AsyncIterator[tuple[Caller, Any]]:
    async with opened(Place(data=folder)) as office:
        client = await natsio.connect(office.url)
        caller = Caller(client)
        listening = asyncio.create_task(caller.listen())
        try:
            yield caller, office
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            await client.close()


@pytest.mark.usefixtures("restored_environment")
async def test_every_intent_of_a_plain_client_is_answered(tmp_path: Path) -> None:
    async with plain_client(tmp_path) as (caller, office):
        expected: list[tuple[str, str]] = []
        for subject, (fields, words) in WHOLE.items():
            expected.append((await caller.publish(subject, fields), words))
            for field in fields:
                rest = {name: value for name, value in fields.items() if name != field}
                expected.append((await caller.publish(subject, rest), WITHOUT.get((subject, field), words)))
        for subject, wrong, words in WRONG:
            expected.append((await caller.publish(subject, WHOLE[subject][0] | wrong), words))
        article = {"phone": "+18453884261", "slot": "2026-05-08T15:00"}
        expected.append((await caller.publish("call.intent.book", article), "Which home"))
        expected.append((await caller.publish("call.intent.search", {}), "Which neighborhood"))
        await caller.publish("call.intent.research", b'{"home": "1077"}')
        for call, words in expected:
            if words:
                await caller.spoken(call, words)
        await caller.spoken_anywhere("Home 1077 is worth about")
        assert not (await listed(office.bus.connection, Selection(), limit=10)).newest

        for payload in (b"not json", b'["1042"]', b'"1042"', b""):
            await caller.publish("call.intent.book", payload)

        async def dead() -> bool:
            letters = (await listed(office.bus.connection, Selection(), limit=10)).newest
            return [(one.agent, one.cause) for one in letters] == [("scheduler", "invalid")] * 4

        await eventually(dead, what="what is no JSON object is a dead letter")


def test_a_slot_without_an_offset_is_in_the_offices_time_zone() -> None:
    for text, hours in (("2026-05-08T15:00", -7), ("2026-12-08T15:00", -8), ("2026-05-08 15:00:00", -7)):
        slot = BookViewing.model_validate({"slot": text}).slot
        assert slot is not None
        assert (slot.hour, slot.utcoffset()) == (15, timedelta(hours=hours))
    assert BookViewing.model_validate({"slot": "2026-05-08T22:00Z"}).slot == datetime(2026, 5, 8, 15, tzinfo=LOCAL)


@pytest.mark.parametrize("value", [True, -1, 1.5, float("nan"), "1e400", 10**4000, [3], {"n": 3}, "three", ""])
def test_a_number_that_is_none_is_listed_as_unread(value: object) -> None:
    search = HomeSearch.model_validate({"callId": "c", "beds": value})
    assert (search.beds, search.unread) == (None, ("beds",))


def test_a_calls_id_is_kept_as_it_is() -> None:
    for call in ("a  b\t*.>", " x ", "x" * 1024):
        assert HomeSearch.model_validate({"callId": call}).call_id == call


def test_what_a_client_sends_is_bounded() -> None:
    said = CallerSaid.model_validate({"call_id": "c", "transcript": [{"text": "x" * 9_000}] * 900})
    assert (len(said.transcript), len(said.transcript[0].text)) == (15, 4_000)
    assert len(CallerSaid.model_validate({"transcript": ["hello"] * 900}).transcript) == 500
    assert HomeSearch.model_validate({"place": "x" * 10_000}).unread == ("place",)
