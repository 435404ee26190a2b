"""A deployment of commit 9a418b6: `apply` upgrades it, and its work goes on."""

import asyncio
from dataclasses import replace
from pathlib import Path

from support.office import at_work, settings
from support.old_deployment import OLD_STREAMS, old_conversations, old_deployment
from support.old_deployment_pod import old_pod, ran

from tieline import connect
from tieline.services import accountant, deadletters
from tieline.services.letters.reading import Selection, letters
from tieline.services.letters.redriving import Order, redrive
from tieline.testing import eventually
from tieline.wire import topology
from tieline.wire.topology import stream_infos

_LARGE = 1024  # as it was recorded


async def test_the_data_is_what_its_description_says(tmp_path: Path) -> None:
    async with old_deployment(tmp_path) as server, connect(old_pod, settings=settings(server.url)) as bus:
        infos = await stream_infos(bus.connection)
        # A due schedule fires when the server starts: what travels on by sourcing has come to its stream.
        for name in ("STEP", "DLQ", "STATE", "OBJ_TIELINE", "CANCELLED", "TOOL_CALL"):
            assert infos[name]["state"]["messages"] == OLD_STREAMS[name] > 0, name
        subjects = (await bus.connection.api("STREAM.INFO.SCHEDULE", {"subjects_filter": ">"}))["state"]["subjects"]
        assert [subject for subject in subjects if subject.startswith("schedule.")], "delayed messages not yet due"
        assert [subject for subject in subjects if subject.startswith("due.")], "what was due and has no TTL"


async def test_apply_upgrades_it_and_its_work_goes_on(tmp_path: Path) -> None:
    ran.clear()
    async with old_deployment(tmp_path) as server:
        chosen = replace(settings(server.url, audit=True), large=_LARGE)
        async with at_work(old_pod, chosen) as office:
            stop = asyncio.Event()
            services = [
                asyncio.create_task(accountant.run(office.bus, stop)),
                asyncio.create_task(deadletters.run(office.bus, stop)),
            ]
            waiting = [call for call in old_conversations("waiting") if not call.startswith("orphan")]
            stamped = {*old_conversations("held", "redrive-waits", "over"), "ask", "ask-within"}
            expected = {*stamped, *waiting} - {"human-late"}  # nobody answered: its handler fails

            def handled() -> bool:
                return {call for agent, call in ran if agent == "worker"} >= expected

            await eventually(handled, what="what was on its way", within=60)
            await eventually(
                lambda: {call for agent, call in ran if agent == "absent"} == {"orphan-1", "orphan-2"},
                what="what its agent never saw",
            )
            chosen_letters = letters(office.bus.connection, Selection(cause="raised"))
            tally = await redrive(office.bus, chosen_letters, Order(by="test"))
            assert tally.done == 2
            await eventually(
                lambda: {("worker", "raise-1"), ("worker", "raise-2")} <= set(ran), what="dead letters handled"
            )
            # Effects that were recorded are found.
            assert not {call for agent, call in ran if agent == "stamp"} & set(expected) - set(
                old_conversations("waiting")
            )
            stop.set()
            await asyncio.gather(*services)
            assert not await topology.plan(office.bus.connection, old_pod)
