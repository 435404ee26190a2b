"""`tieline size` predicts what a real server then holds."""

import asyncio
from pathlib import Path

from command_line import tieline
from support.messages import Book
from support.office import at_work, settings

from tieline import Bus, Conversation, Pod, Stream, connect
from tieline.services.sizing import Load, remedies, sized
from tieline.testing import Server, eventually
from tieline.wire.topology import stream_infos

_LANES = 100


async def published(bus: Bus, count: int, phone: str) -> None:
    async def lane(first: int) -> None:
        for number in range(first, count, _LANES):
            await bus.publish(Book(call_id=f"call-{number:06}", phone=phone))

    await asyncio.gather(*(lane(first) for first in range(_LANES)))


def close(predicted: float, measured: float) -> bool:
    return abs(predicted - measured) <= measured / 4


async def test_the_disk_that_messages_take(nats_server: Server) -> None:
    pod = Pod("office")
    load = Load(rates={"CALL_INTENT": 20.0}, size=256, tools=0, steps=0, ages={"CALL_INTENT": 1000.0})
    [need] = [need for need in sized(pod, load, 1).needs if need.stream == "CALL_INTENT"]
    async with connect(pod, settings=settings(nats_server.url)) as bus:
        await bus.apply()
        await published(bus, 20_000, "5" * 220)
        state = (await stream_infos(bus.connection))["CALL_INTENT"]["state"]
    await nats_server.stop()  # everything it holds is on the disk now
    folder = nats_server.config.data / "jetstream"
    stored = sum(path.stat().st_size for path in folder.rglob("CALL_INTENT/**/*") if path.is_file())
    assert need.messages == state["messages"] == 20_000
    assert close(need.bytes, state["bytes"]), (need.bytes, state["bytes"])
    assert close(need.bytes, stored), (need.bytes, stored)


async def test_what_the_handling_of_a_message_leaves(nats_server: Server) -> None:
    pod = Pod("office")
    handled: list[str] = []

    @pod.tool
    async def crm(text: str) -> str:
        return text

    @pod.agent
    async def booking(message: Book, call: Conversation) -> None:
        async def effect() -> str:
            return "x" * 100

        for _ in range(2):
            await call.tool(crm, "x" * 100)
        await call.step("effect", effect)
        handled.append(message.call_id)

    async with at_work(pod, settings(nats_server.url, audit=True)) as office:
        await published(office.bus, 500, "5" * 220)
        await eventually(lambda: len(handled) == 500, what="the work", within=30)
        await eventually(lambda: stored_all(office.bus), what="the facts", within=30)
        states = {name: info["state"] for name, info in (await stream_infos(office.bus.connection)).items()}
    load = Load(rates={"CALL_INTENT": 0.5}, size=256, tools=2, steps=1, answer=110, dead=0, conversation=1)
    needs = {need.stream: need for need in sized(pod, load, 1).needs}
    for name in ("CALL_INTENT", "TOOL_CALL", "STEP", "TOOL_RESULT", "CALL_AUDIT"):
        each, expected = needs[name].wanted / needs[name].messages, states[name]["bytes"] / states[name]["messages"]
        assert close(each, expected), (name, each, expected)
        assert round(needs[name].per_second / 0.5) == states[name]["messages"] / 500, name
    subjects = {
        name: needs[name].subjects / (needs[name].bytes / needs[name].wanted) for name in ("STEP", "CALL_AUDIT")
    }
    assert close(subjects["STEP"] / needs["STEP"].messages, states["STEP"]["num_subjects"] / states["STEP"]["messages"])
    assert close(subjects["CALL_AUDIT"] / needs["CALL_AUDIT"].messages, 500 / states["CALL_AUDIT"]["messages"])


async def stored_all(bus: Bus) -> bool:
    return bool((await stream_infos(bus.connection))["CALL_AUDIT"]["state"]["messages"] == 500 * 7)


def test_what_has_no_room_is_said_before_it_happens() -> None:
    pod = Pod("office", streams=(Stream(name="SMALL", subjects=("small.*",), max_age=3600.0, max_bytes=1_000_000),))
    found = sized(pod, Load(rates={"SMALL": 10.0}, size=856, tools=0, steps=0), 3)
    small = next(need for need in found.needs if need.stream == "SMALL")
    assert (small.wanted, small.bytes, small.full_after) == (36_000_000, 1_000_000, 100.0)
    assert any("SMALL is full after 0.0278 h" in line for line in remedies(found))
    fits = sized(pod, Load(rates={"SMALL": 0.1}, size=856, tools=0, steps=0), 3)
    assert not list(remedies(fits))
    assert sized(pod, Load(rates={"SMALL": 0.0}), 1).writes == 0
    large = sized(pod, Load(rates={"SMALL": 0.001}, size=2_000_000), 1)
    assert next(need.wanted for need in large.needs if need.stream == "OBJ_TIELINE") > 2_000_000


async def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from tieline import Pod\npod = Pod('shop')\n")
    said = await tieline("size", "shop", "--rate", "0.05", "--age", "STEP=24h", cwd=tmp_path)
    assert (said.code, said.err) == (0, "")
    assert "fsyncs a second" in said.out
    said = await tieline("size", "shop", "--rate", "CALL_INTENT=50", "--replicas", "1", "--json", cwd=tmp_path)
    assert (said.code, said.json["replicas"]) == (1, 1)
    assert any(line.startswith("STEP is full after") for line in said.json["remedies"])
    said = await tieline("size", "shop", "--rate", "NOPE=5", cwd=tmp_path)
    assert (said.code, "no stream 'NOPE'" in said.err) == (2, True)
    said = await tieline("size", "shop", "--rate", "many", cwd=tmp_path)
    assert (said.code, "'many' is not understood: 'many' is not a number" in said.err) == (2, True)
