"""The demo's callers: what they say, turn by turn, and what must come of it."""

from importlib.resources import files

from pydantic import BaseModel

__all__ = ["ScriptedCall", "scripted_calls"]


class ScriptedCall(BaseModel):
    """One caller. ``expects`` are the intents that the call must lead to, in order."""

    id: str
    title: str
    turns: list[str]
    expects: list[str]
    nasty: bool


def scripted_calls() -> list[ScriptedCall]:
    """All of them, in the order of the file."""
    text = files("oneroof").joinpath("calls.jsonl").read_text(encoding="utf-8")
    return [ScriptedCall.model_validate_json(line) for line in text.splitlines() if line.strip()]
