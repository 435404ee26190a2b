"""Whole dialogues: nothing is booked or searched that nobody asked for, and most callers get what they want."""

import pytest

from oneroof.dialogues import SETS, Dialogue, count, load, play, play_all

ALL = [dialogue for name in SETS for dialogue in load(name)]


@pytest.mark.parametrize("dialogue", ALL, ids=[dialogue.id for dialogue in ALL])
async def test_no_dialogue_goes_wrong(dialogue: Dialogue) -> None:
    result = await play(dialogue)
    told = "\n".join(f"{line.who}: {line.text}" for line in result.lines)
    assert result.verdict != "wrong", f"{told}\ndid {result.done}\nnot {dialogue.wants}"


def test_most_dialogues_are_understood() -> None:
    for name, many, enough in (("dialogues", 60, 45), ("dialogues_later", 26, 20), ("dialogues_last", 24, 18)):
        dialogues = load(name)
        assert len(dialogues) == many
        assert count(play_all(dialogues), "understood") >= enough


def test_the_dialogues_are_different_and_bring_what_they_expect() -> None:
    assert len({tuple(dialogue.turns) for dialogue in ALL}) == len(ALL)
    assert len({dialogue.id for dialogue in ALL}) == len(ALL)
    assert all(dialogue.wants or dialogue.asks for dialogue in ALL)
