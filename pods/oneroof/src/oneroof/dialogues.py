"""Whole conversations with the result that a person would expect of each, and the score of an understanding on them.

A dialogue's caller says its turns, answers "yes" to whatever the office reads back, and gives a telephone number when
asked for one. It is *wrong* if the office does anything that the caller did not ask for, *understood* if the office did
all of it (or asked what it had to ask), and *asked* in between: the office did nothing wrong and asks on.
"""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from oneroof.office.hours import LOCAL
from oneroof.understanding import Line, Rules, Turn, Wish, say_slot

__all__ = ["SETS", "Dialogue", "Result", "count", "load", "play", "play_all"]

SETS: Final = ("dialogues", "dialogues_later", "dialogues_last")
OFFERS: Final = ("1042", "1077", "1103")  # what every search finds
PHONE: Final = "206 555 0142"
_NOW: Final = "2026-11-25T14:00"  # a Wednesday
_MOST_ANSWERS: Final = 6  # that a caller gives beyond the dialogue's turns
_SHOWN: Final = {"kind", "home", "slot", "insteadOf"}  # of a viewing: the phone and the name are not compared

type Verdict = Literal["understood", "asked", "wrong"]


class Dialogue(BaseModel):
    """What a caller says, and what must come of it: ``wants`` in order, and nothing else but ``also``.

    ``asks`` matches what the office says last, ``says`` something that it says.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)

    id: str
    title: str
    turns: list[str]
    wants: list[dict[str, Any]]
    also: list[dict[str, Any]] = []
    asks: str | None = None
    says: str | None = None
    now: datetime = datetime.fromisoformat(_NOW)


@dataclass(slots=True)
class Result:
    """How a dialogue went: the verdict, what was done, and who said what."""

    dialogue: Dialogue
    verdict: Verdict = "asked"
    done: list[dict[str, Any]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)


def load(name: str) -> list[Dialogue]:
    """The dialogues of one of the `SETS`."""
    text = files("oneroof").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [Dialogue.model_validate_json(line) for line in text.splitlines() if line.strip()]


def play_all(dialogues: Iterable[Dialogue]) -> list[Result]:
    """Play each with the offline rules."""
    return [asyncio.run(play(dialogue)) for dialogue in dialogues]


async def play(dialogue: Dialogue) -> Result:
    """Play one dialogue with the offline rules."""
    result, turns, answers = Result(dialogue), list(dialogue.turns), 0
    now = dialogue.now.replace(tzinfo=LOCAL)
    while turns and answers <= _MOST_ANSWERS:
        result.lines.append(Line(who="caller", text=turns.pop(0)))
        turn = await Rules()(result.lines, now)
        result.lines += [Line(who="office", text=turn.say), *map(_answer, turn.wants)]
        result.done += [_plain(wish) for wish in turn.wants]
        if turn.hang_up:
            break
        if reply := _reply(turn, last=not turns):
            answers += 1
            turns.insert(0, reply)
    result.verdict = _judge(result)
    return result


def _reply(turn: Turn, *, last: bool) -> str:
    """What the caller answers to a question that the dialogue need not foresee."""
    if turn.confirms:
        return "yes"
    return PHONE if last and "telephone number" in turn.say else ""


def _answer(wish: Wish) -> Line:
    """What the rest of the office says to a wish."""
    match wish.kind:
        case "search":
            return Line(who="office", text="Three homes fit.", offers=list(OFFERS))
        case "research" | "lookup":
            return Line(who="office", text=f"{wish.home} is a good home.", offers=[wish.home])
        case "book":
            return Line(who="office", text=f"You are booked on {say_slot(wish.slot)}.", offers=[wish.home])
    return Line(who="office", text="A colleague will call you back.")


def _plain(wish: Wish) -> dict[str, Any]:
    """A wish as a dialogue writes it: only what it says."""
    if wish.kind in ("escalate", "voicemail"):
        return {"kind": wish.kind}
    plain = wish.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"kind": wish.kind}
    if wish.kind == "book":
        local = wish.slot.astimezone(LOCAL).isoformat(timespec="minutes")[:16]
        plain = {name: value for name, value in plain.items() if name in _SHOWN} | {"slot": local}
    return plain


def _judge(result: Result) -> Verdict:
    dialogue, said = result.dialogue, [line.text for line in result.lines if line.who == "office"]
    if any(done not in dialogue.wants and done not in dialogue.also for done in result.done):
        return "wrong"
    # a colleague who is asked for twice, the second time with a number, comes once
    done = [one for one, before in zip(result.done, [None, *result.done], strict=False) if one != before]
    if [one for one in done if one in dialogue.wants] != dialogue.wants:
        return "asked"
    asked = dialogue.asks is None or re.search(dialogue.asks, said[-1])
    told = dialogue.says is None or any(re.search(dialogue.says, text) for text in said)
    return "understood" if asked and told else "asked"


def count(results: Sequence[Result], verdict: Verdict) -> int:
    """The number of dialogues with this verdict."""
    return sum(result.verdict == verdict for result in results)
