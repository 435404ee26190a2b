"""Models on a real server: what was answered is not asked twice, tools run on the bus, text is heard on the way."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from advice import Question, advice, noted
from pydantic import BaseModel
from pydantic_ai import Agent, RunContext, models
from pydantic_ai.capabilities import ProcessEventStream
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.usage import RequestUsage
from support.office import QUICK, Office, at_work, dead_letters, settings, stored

from oneroof import pod as oneroof
from oneroof.messages import BookViewing, CallerSaid, Spoken
from oneroof.office.hours import LOCAL
from oneroof.understanding import Line
from oneroof.understanding.model import listener
from tieline import BadPayload, BadSettings, Bus, Conversation, Pod, ToolRefused, codec, connect
from tieline.partial import Partial
from tieline.runtime.steps import Steps
from tieline.testing import Server, eventually
from tieline.wire.delivery import Delivery

type Script = list[ModelResponse]


@pytest.fixture(autouse=True)
def _no_real_model() -> Iterator[None]:
    with models.override_allow_model_requests(False):
        yield


@dataclass
class Scripted:
    """A model that answers by a list, and remembers what it was asked."""

    script: Script
    asked: list[list[ModelMessage]] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)

    async def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.asked.append(messages)
        self.tools = [tool.name for tool in info.function_tools]
        given = sum(isinstance(message, ModelResponse) for message in messages)
        return replace(self.script[given], usage=RequestUsage(input_tokens=100, output_tokens=10))

    @property
    def model(self) -> FunctionModel:
        return FunctionModel(self.answer, model_name="gpt-5")

    def seen(self, number: int) -> Any:
        """The last part of what the request of that number, from 1, was asked."""
        return self.asked[number - 1][-1].parts[-1]


def says(text: str) -> ModelResponse:
    return ModelResponse([TextPart(text)])


def calls(*tools: tuple[str, dict[str, Any]]) -> ModelResponse:
    return ModelResponse([ToolCallPart(name, arguments) for name, arguments in tools])


class Price(BaseModel):
    usd: int


async def facts(bus: Bus, kind: str) -> list[dict[str, Any]]:
    told = [json.loads(fact.payload) for fact in await stored(bus, "call.audit.*")]
    return [fact for fact in told if fact["fact"] == kind]


async def records(bus: Bus, kind: str = "model") -> list[dict[str, Any]]:
    return [json.loads(record.payload) for record in await stored(bus, f"step.*.*.{kind}.*")]


async def settled(office: Office, count: int = 1) -> list[dict[str, Any]]:
    """The last words on ``count`` runs."""

    async def told() -> list[dict[str, Any]]:
        ends = await facts(office.bus, "settled")
        return ends if len(ends) >= count else []

    return await eventually(told, what=f"{count} runs settled")


def audited(server: Server) -> Any:
    return settings(server.url, audit=True)


# -- crashes


async def test_a_run_that_failed_in_the_middle_asks_only_for_what_is_missing(
    nats_server: Server, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    async with at_work(advice(notes), audited(nats_server)) as office:
        await office.bus.publish(Question(call_id="c1"))
        advised = await eventually(lambda: stored(office.bus, "call.intent.advised"), what="the advice")
        ends = [end for end in await settled(office, 4) if end["by"] == "advisor"]
        used = await facts(office.bus, "modelused")
    assert json.loads(advised[0].payload)["text"] == "The second is worth more."
    assert [end["outcome"] for end in ends] == ["retry", "done"]
    assert noted(notes) == ["request 1", "price 1042", "request 2", "price 1051", "request 3", "request 3"]
    assert len(used) == 3  # requests that were answered, each once
    assert all(fact["model"].startswith("function:") and fact["outputTokens"] > 0 for fact in used)


async def test_a_process_killed_in_the_middle_pays_for_one_request_again_and_runs_no_tool_twice(
    nats_server: Server, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    pod = advice(notes, dies=True)
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await bus.publish(Question(call_id="c1"))
        command = [sys.executable, str(Path(__file__).parent / "advice.py"), nats_server.url, str(notes)]
        died = await asyncio.to_thread(subprocess.run, command, timeout=60, check=False)
        assert died.returncode == 13
    async with at_work(pod, nats_server.url) as office:
        await eventually(lambda: stored(office.bus, "call.intent.advised"), what="the advice")
        assert len(await records(office.bus)) == 3
    assert noted(notes) == ["request 1", "price 1042", "request 2", "price 1051", "request 3", "request 3"]


async def test_two_replicas_at_once_agree_on_one_answer(nats_server: Server) -> None:
    pod = Pod("office")

    @pod.agent
    async def advisor(_: Question, __: Conversation) -> None: ...

    together = asyncio.Barrier(2)

    async def replica(bus: Bus, delivery: Delivery, says_: str) -> str:
        async def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
            await together.wait()  # both are paid for; one is recorded
            return says(says_)

        desk = Steps(bus, "advisor", "c1", delivery)
        call = Conversation("c1", "advisor", delivery.origin, delivery.stored, desk)
        return await call.model(FunctionModel(answer), "What is 1042 worth?")

    at = audited(nats_server)
    async with connect(pod, settings=at) as one, connect(pod, settings=at) as other:
        await one.apply()
        await one.publish(Question(call_id="c1"))
        [delivery] = await stored(one, "call.intent.question")
        answers = await asyncio.gather(replica(one, delivery, "much"), replica(other, delivery, "little"))
        assert len(await records(one)) == 1

        async def both_told() -> bool:
            return len(await facts(one, "modelused")) == 2

        await eventually(both_told, what="both requests are told of: both were made")
    assert answers[0] == answers[1]


# -- tools


async def test_tools_run_on_the_bus_and_the_model_hears_what_became_of_them(nats_server: Server) -> None:
    pod, ran, answers = Pod("office", limits=QUICK), list[str](), list[str]()

    @pod.tool(effect="once")
    async def crm(phone: str, times: int = 1) -> str:
        """Note a caller."""
        ran.append(phone)
        if phone == "blocked":
            raise ToolRefused("this number is blocked")
        return f"lead-{phone}-{times}"

    model = Scripted(
        [
            calls(("crm", {"phone": "1", "times": "many"})),
            calls(("crm", {"phone": "1"}), ("crm", {"phone": "blocked"}), ("crm", {"phone": "3", "times": 2})),
            says("done"),
        ]
    )

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(model.model, question.text, tools=[crm], instructions="Be brief."))

    async with at_work(pod, audited(nats_server)) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: answers, what="the answer")
        assert len(await stored(office.bus, "tool.call.crm")) == 3
        used = await eventually(lambda: facts(office.bus, "modelused"), what="what was used")
    assert answers == ["done"]
    assert sorted(ran) == ["1", "3", "blocked"]
    misfit = model.seen(2)
    assert misfit.outcome == "retried"
    assert "times" in misfit.content
    first, second, third = [part for part in model.asked[2][-1].parts if isinstance(part, ToolReturnPart)]
    assert (first.content, third.content) == ("lead-1-1", "lead-3-2")
    assert second.outcome == "failed"
    assert "this number is blocked" in str(second.content)
    assert used[0]["inputTokens"] == 100
    assert used[0]["cost"] > 0  # genai-prices knows gpt-5


async def test_calls_made_together_find_their_own_results_in_the_next_run(nats_server: Server) -> None:
    pod, ran, answers = Pod("office", limits=QUICK), list[str](), list[str]()
    together = [("look", {"home": home}) for home in ("3", "1", "2")]
    model = Scripted([calls(*together), calls(*together), says("done")])

    @pod.tool
    async def look(home: str) -> str:
        ran.append(home)
        await asyncio.sleep(0.02 * int(home))  # they end in another order than they began
        return f"home {home}"

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(model.model, question.text, tools=[look]))
        if call.attempt == 1:
            raise ConnectionError("once more")

    async with at_work(pod, audited(nats_server)) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: len(answers) == 2, what="both runs")
        await settled(office, 8)
        found = [fact for fact in await facts(office.bus, "stepped") if fact["found"]]
    assert sorted(ran) == ["1", "1", "2", "2", "3", "3"]
    assert len(model.asked) == 3
    assert len(found) == 9
    assert not any(fact["changed"] for fact in found)


async def test_a_model_is_told_of_a_tool_by_its_signature_and_docstring(nats_server: Server) -> None:
    pod, seen = Pod("office", limits=QUICK), list[AgentInfo]()

    @pod.tool
    async def find_homes(max_price: int, place: str | None = None) -> list[str]:
        """Homes on offer that fit."""
        return [place or "", str(max_price)]

    async def answer(_: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        seen.append(info)
        return says("none")

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        await call.model(FunctionModel(answer), question.text, tools=[find_homes])

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: seen, what="the request")
    [tool] = seen[0].function_tools
    assert (tool.name, tool.description) == ("find-homes", "Homes on offer that fit.")
    assert tool.parameters_json_schema["required"] == ["maxPrice"]
    assert set(tool.parameters_json_schema["properties"]) == {"maxPrice", "place"}


# -- agents


async def test_an_agent_is_taken_as_it_is_with_its_output_dependencies_and_overrides(nats_server: Server) -> None:
    pod, prices = Pod("office", limits=QUICK), list[Price]()
    model = Scripted([calls(("district", {})), calls(("final_result", {"usd": 7}))])
    valuer = Agent("openai:gpt-5", name="valuer", deps_type=Conversation, output_type=Price, defer_model_check=True)

    @valuer.tool
    async def district(ctx: RunContext[Conversation]) -> str:
        return f"district of {ctx.deps.id}"

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        prices.append(await call.model(valuer, question.text, deps=call))

    with valuer.override(model=model.model):  # as its own tests would
        async with at_work(pod, nats_server.url) as office:
            await office.bus.publish(Question(call_id="c1"))
            await eventually(lambda: prices, what="the price")
            subjects = [record.subject for record in await stored(office.bus, "step.*.*.model.*")]
    assert prices == [Price(usd=7)]
    assert model.seen(2).content == "district of c1"
    assert [subject.split(".")[4].split("-")[0] for subject in subjects] == ["valuer", "valuer"]


async def test_a_model_may_ask_a_person_and_the_turn_parks_meanwhile(nats_server: Server) -> None:
    pod, answers = Pod("office", limits=QUICK), list[str]()
    model = Scripted([calls(("ask_owner", {"question": "May we show it?"})), says("Yes, you may.")])
    broker = Agent(name="broker", deps_type=Conversation)

    @broker.tool
    async def ask_owner(ctx: RunContext[Conversation], question: str) -> str:
        return await ctx.deps.ask_human(question)

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(broker, question.text, deps=call))

    with broker.override(model=model.model):
        async with at_work(pod, audited(nats_server)) as office:
            await office.bus.publish(Question(call_id="c1"))
            [parked] = await settled(office)
            [question] = await stored(office.bus, "step.*.*.question.*")
            answer = question.subject.replace(".question.", ".human.")
            await office.bus.journal.write(answer, {"ok": True, "value": "yes"})
            await eventually(lambda: answers, what="the answer")
    assert parked["outcome"] == "parked"
    assert answers == ["Yes, you may."]
    assert len(model.asked) == 2  # one in each run


async def test_two_turns_at_once_have_records_of_their_own(nats_server: Server) -> None:
    pod, answers = Pod("office", limits=QUICK), list[list[str]]()

    async def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        asked.append(str(messages[0].parts[-1].content))  # type: ignore[union-attr]
        return says(f"{asked[-1]}!")

    asked: list[str] = []

    @pod.agent
    async def advisor(_: Question, call: Conversation) -> None:
        model = FunctionModel(answer)
        answers.append(await asyncio.gather(*(call.model(model, text) for text in ("one", "two", "three"))))
        if call.attempt == 1:
            raise ConnectionError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: len(answers) == 2, what="both runs")
    assert answers == [["one!", "two!", "three!"]] * 2
    assert sorted(asked) == ["one", "three", "two"]


async def test_earlier_messages_go_before_the_prompt(nats_server: Server) -> None:
    pod, answers = Pod("office", limits=QUICK), list[str]()
    model = Scripted([says("unused"), says("It is near the lake.")])
    before: list[ModelMessage] = [ModelRequest([UserPromptPart("And 1042?")]), says("Three bedrooms.")]

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(model.model, [*before, question.text]))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Question(call_id="c1", text="Where is it?"))
        await eventually(lambda: answers, what="the answer")
    assert answers == ["It is near the lake."]
    assert len(model.asked[0]) == 3
    assert model.seen(1).content == ["Where is it?"]


async def test_the_setting_names_the_model_of_a_turn_that_has_none(nats_server: Server) -> None:
    pod, answers = Pod("office", limits=QUICK), list[Any]()

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(None, question.text))
        answers.append(await call.model(Agent(output_type=Price), question.text))

    async with at_work(pod, replace(settings(nats_server.url), model="test")) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: len(answers) == 2, what="the answers")
    assert answers == ["success (no tool calls)", Price(usd=0)]


# -- text on the way


async def test_text_is_heard_in_order_while_it_is_produced(nats_server: Server) -> None:
    pod, told = Pod("office", limits=QUICK), asyncio.Event()
    pieces = ["It is ", "worth ", "", "much", "."]

    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[str]:
        for piece in pieces[:-1]:
            yield piece
        await told.wait()  # the listener has them before the answer is whole
        yield pieces[-1]

    answers: list[str] = []

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(FunctionModel(stream_function=stream), question.text))

    heard: list[Partial] = []

    async def listen(bus: Bus) -> None:
        async with aclosing(bus.partials("call 1")) as partials:
            async for partial in partials:
                heard.append(partial)
                if len(heard) == 3:
                    told.set()
                if partial.text == ".":
                    return

    async with at_work(pod, nats_server.url) as office, connect(pod, settings=settings(nats_server.url)) as ear:
        listening = asyncio.create_task(listen(ear))
        await asyncio.sleep(0)
        await ear.connection.flush()
        await office.bus.publish(Question(call_id="call 1"))
        async with asyncio.timeout(20):
            await listening
        await eventually(lambda: answers, what="the answer")
        [record] = await stored(office.bus, "step.*.*.model.*")
    assert answers == ["It is worth much."]
    assert "".join(partial.text for partial in heard) == "It is worth much."
    assert [partial.seq for partial in heard] == list(range(len(heard)))
    assert {(partial.call_id, partial.agent, partial.step) for partial in heard} == {
        ("call 1", "advisor", record.subject)
    }


async def test_an_agent_that_listens_to_its_own_events_gets_them_from_the_record_too(nats_server: Server) -> None:
    pod, runs = Pod("office", limits=QUICK), list[str]()
    asked: list[int] = []

    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        asked.append(1)
        yield {0: DeltaToolCall("final_result", '{"usd": ')}
        yield {0: DeltaToolCall(json_args="7}")}

    async def follow(_: RunContext[None], events: Any) -> None:
        kinds = [event.event_kind async for event in events]
        runs.append(kinds[0])

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        model = FunctionModel(stream_function=stream)
        agent = Agent(model, output_type=Price, capabilities=[ProcessEventStream(follow)])
        assert await call.model(agent, question.text) == Price(usd=7)
        if call.attempt == 1:
            raise ConnectionError("once more")

    async with at_work(pod, audited(nats_server)) as office:
        await office.bus.publish(Question(call_id="c1"))
        ends = await settled(office, 2)
    assert [end["outcome"] for end in ends] == ["retry", "done"]
    assert runs.count("part_start") == 2  # and two more for the tool calls
    assert asked == [1]


async def test_listening_ends_with_the_bus(nats_server: Server) -> None:
    async with connect(Pod("office"), settings=settings(nats_server.url)) as bus:

        async def listen() -> list[Partial]:
            return [partial async for partial in bus.partials("c1")]

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
    assert await asyncio.wait_for(listening, 10) == []


# -- what does not fit


async def test_a_prompt_that_changed_since_it_was_answered_is_reported(
    nats_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pod, answers = Pod("office", limits=QUICK), list[str]()
    model = Scripted([says("first")])

    @pod.agent
    async def advisor(_: Question, call: Conversation) -> None:
        answers.append(await call.model(model.model, "same"))
        answers.append(await call.model(model.model, f"attempt {call.attempt}"))
        if call.attempt == 1:
            raise ConnectionError("once more")

    with caplog.at_level(logging.WARNING, logger="tieline.steps"):
        async with at_work(pod, audited(nats_server)) as office:
            await office.bus.publish(Question(call_id="c1"))
            await settled(office, 2)
            stepped = [fact for fact in await facts(office.bus, "stepped") if fact["found"]]
    assert answers == ["first"] * 4
    assert len(model.asked) == 2
    assert [fact["changed"] for fact in stepped] == [False, True]
    assert "was recorded for other arguments" in caplog.text


class Odd:
    """Something that JSON cannot say."""


async def refused(nats_server: Server, handle: Any, pod: Pod | None = None) -> str:
    """What a handler that asks wrongly is told."""
    pod, told = pod or Pod("office", limits=QUICK), list[str]()

    @pod.agent
    async def advisor(_: Question, call: Conversation) -> None:
        try:
            await handle(call)
        except (BadPayload, BadSettings) as error:
            told.append(str(error))

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: told, what="the error")
        assert await records(office.bus) == []
        assert await dead_letters(office.bus) == []
    return told[0]


async def test_an_answer_that_cannot_be_recorded_is_a_clear_error(nats_server: Server) -> None:
    model = Scripted([ModelResponse([ToolCallPart("crm", {"phone": Odd()})])])
    told = await refused(nats_server, lambda call: call.model(model.model, "note it"))
    assert "the model's answer cannot be recorded as JSON" in told


async def test_a_large_answer_is_found_again_like_any_other(nats_server: Server) -> None:
    pod, answers = Pod("office", limits=QUICK), list[str]()
    model = Scripted([says("x" * 3_000_000)])

    @pod.agent
    async def advisor(question: Question, call: Conversation) -> None:
        answers.append(await call.model(model.model, question.text))
        if call.attempt == 1:
            raise ConnectionError("once more")

    async with at_work(pod, nats_server.url) as office:
        await office.bus.publish(Question(call_id="c1"))
        await eventually(lambda: len(answers) == 2, what="both runs")
    assert [len(answer) for answer in answers] == [3_000_000] * 2
    assert len(model.asked) == 1


async def test_a_tool_of_another_pod_is_a_clear_error_before_anything_is_paid(nats_server: Server) -> None:
    model = Scripted([says("never")])

    @Pod("elsewhere").tool
    async def crm(phone: str) -> str:
        return phone

    told = await refused(nats_server, lambda call: call.model(model.model, "note it", tools=[crm]))
    assert "no tool 'crm'" in told
    assert model.asked == []


async def test_no_model_at_all_is_a_clear_error(nats_server: Server) -> None:
    assert "TIELINE_MODEL" in await refused(nats_server, lambda call: call.model(None, "hello"))


def test_without_pydantic_ai_the_error_names_the_extra() -> None:
    script = (
        "import sys, asyncio; sys.modules['pydantic_ai'] = None; from tieline import models, BadSettings\n"
        "try: asyncio.run(models.run(None, None, None))\n"
        "except BadSettings as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "install tieline[models]" in told.stdout


# -- the reference pod


async def test_the_office_understands_a_booking_through_a_model_where_one_is_set(
    nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEROOF_MODEL", "openai:gpt-5")
    monkeypatch.setenv("ONEROOF_DATA", str(tmp_path))
    began = datetime.now(LOCAL).replace(microsecond=0)  # a turn heard days after its call began would not be believed
    slot = (began + timedelta(days=2)).replace(hour=15, minute=0, second=0)
    night = slot.replace(hour=3).isoformat()
    book = {"kind": "book", "home": "1042", "slot": slot.isoformat(), "phone": "(206) 555-0142"}
    model = Scripted(
        [
            calls(("final_result", {"say": "On it.", "wants": [book | {"slot": night}]})),
            calls(("final_result", {"say": "I am on it.", "wants": [book]})),
        ]
    )
    said = CallerSaid(
        call_id="c1",
        turn=1,
        began=began,
        transcript=[Line(who="caller", text="Book 1042 in two days at three, my number is 206 555 0142")],
    )
    with listener("openai:gpt-5").override(model=model.model):
        async with at_work(oneroof, nats_server.url, "orchestrator") as office:
            await office.bus.publish(said)
            [spoken] = await eventually(lambda: stored(office.bus, "call.speech.*"), what="what the office says")
            [wish] = await stored(office.bus, "call.intent.book")
    intent = codec.decode(BookViewing, wish.payload)
    assert (intent.home, intent.slot, intent.phone) == ("1042", slot, "+12065550142")
    assert codec.decode(Spoken, spoken.payload).text == "I am on it."
    assert "outside the hours" in str(model.seen(2).content)


async def test_the_office_goes_by_its_rules_where_no_model_is_set(
    nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEROOF_MODEL", raising=False)
    monkeypatch.setenv("ONEROOF_DATA", str(tmp_path))
    said = CallerSaid(call_id="c1", turn=1, began=datetime.now(UTC), transcript=[Line(who="caller", text="bye")])
    async with at_work(oneroof, nats_server.url, "orchestrator") as office:
        await office.bus.publish(said)
        [spoken] = await eventually(lambda: stored(office.bus, "call.speech.*"), what="what the office says")
        assert await records(office.bus) == []
    assert codec.decode(Spoken, spoken.payload).hang_up
