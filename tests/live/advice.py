"""A pod whose agent asks a scripted model, and a process of it that ends in the middle of a turn.

    python advice.py URL NOTES

runs everything. The model's third request, the first time it is made, ends the process.
"""

import asyncio
import os
import sys
from pathlib import Path

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tieline import Conversation, Host, Limits, Message, Pod, Settings, ToolRun, connect
from tieline.settings import ConnectionSettings

__all__ = ["Advised", "Question", "advice", "noted"]


class Question(Message, subject="call.intent.question"):
    call_id: str
    text: str = "What is 1042 worth?"


class Advised(Message, subject="call.intent.advised"):
    call_id: str
    text: str


def noted(notes: Path) -> list[str]:
    """What happened, in order, over all processes."""
    return notes.read_text().splitlines() if notes.exists() else []


def note(notes: Path, line: str) -> None:
    with notes.open("a") as file:
        file.write(line + "\n")


def advice(notes: Path, *, dies: bool = False) -> Pod:
    """The pod: an agent ``advisor``, a tool ``price``, and a model that asks for two prices before it answers."""
    pod = Pod("advice", limits=Limits(ack_wait=4.0, first_retry=0.05, longest_retry=0.2, drain=1.0))

    @pod.tool(effect="once")
    async def price(run: ToolRun, home: str) -> int:
        """What a home is worth, in dollars."""
        note(notes, f"price {home}")
        return int(home) * 1000 if run.key else 0

    async def script(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        number = sum(isinstance(message, ModelResponse) for message in messages) + 1
        first = f"request {number}" not in noted(notes)
        note(notes, f"request {number}")
        match number:
            case 1 | 2:
                return ModelResponse([ToolCallPart("price", {"home": "1042" if number == 1 else "1051"})])
            case _ if first and dies:
                os._exit(13)
            case _ if first:
                raise ConnectionError("the provider hung up")
        return ModelResponse([TextPart("The second is worth more.")])

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        text = await call.model(FunctionModel(script), question.text, tools=[price])
        await call.publish(Advised(call_id=question.call_id, text=text))

    return pod


async def main(url: str, notes: Path) -> None:
    pod = advice(notes, dies=True)
    at = Settings(connection=ConnectionSettings(servers=(url,)))
    async with connect(pod, settings=at) as bus:
        await Host(bus, ["advisor", "tools"]).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
