"""The demo calls: each of them, at any hour of any day, comes to just the intents that it promises."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.resources import files

import pytest
from pydantic import BaseModel, ConfigDict

from oneroof.office.hours import LOCAL
from oneroof.understanding import Line, Lookup, Research, Rules, Search, Wish

OFFERS = ["1042", "1077", "1103"]


class DemoCall(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    title: str
    turns: list[str]
    expects: list[str]
    nasty: bool


CALLS = [
    DemoCall.model_validate_json(line)
    for line in files("oneroof").joinpath("calls.jsonl").read_text(encoding="utf-8").splitlines()
]


def answers(wants: Sequence[Wish]) -> list[Line]:
    """What the rest of the office would say to these wishes."""
    lines = []
    for wish in wants:
        if isinstance(wish, Search):
            lines.append(Line(who="office", text="I found three homes.", offers=OFFERS))
        if isinstance(wish, Research | Lookup):
            lines.append(Line(who="office", text=f"{wish.home} is a good home.", offers=[wish.home]))
    return lines


async def play(call: DemoCall, now: datetime) -> list[str]:
    transcript: list[Line] = []
    kinds: list[str] = []
    turns = list(call.turns)
    while turns:
        text = turns.pop(0)
        transcript.append(Line(who="caller", text=text))
        turn = await Rules()(transcript, now)
        transcript += [Line(who="office", text=turn.say), *answers(turn.wants)]
        kinds += [wish.kind for wish in turn.wants]
        if turn.hang_up:
            break
        if turn.confirms:
            turns.insert(0, "yes")  # as the demo's callers do
    return kinds


@pytest.mark.parametrize("call", CALLS, ids=[call.id for call in CALLS])
async def test_a_call_comes_to_the_intents_it_promises(call: DemoCall) -> None:
    start = datetime(2026, 11, 23, 0, 10, tzinfo=LOCAL)
    for hours in (2, 14, 41, 63, 90, 115, 24 * 37 + 10):  # night, office hours and evening; every kind of day
        assert await play(call, start + timedelta(hours=hours)) == call.expects


def test_the_calls_are_many_varied_and_partly_nasty() -> None:
    assert len(CALLS) >= 66
    assert len({call.id for call in CALLS}) == len(CALLS)
    assert len({json.dumps(call.turns) for call in CALLS}) == len(CALLS)
    assert all(2 <= len(call.turns) <= 5 for call in CALLS)
    assert 1 / 6 < sum(call.nasty for call in CALLS) / len(CALLS) < 1 / 3
    assert {kind for call in CALLS for kind in call.expects} == {
        "search", "book", "research", "lookup", "escalate", "voicemail",
    }  # fmt: skip
