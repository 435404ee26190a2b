"""A record that cannot be read is skipped, counted, and named: by the process that met it, in report and in doctor."""

import json
from pathlib import Path

import pytest
from command_line import started, tieline
from support.office import settings

from tieline import Pod, connect
from tieline.testing import Server, eventually
from tieline.wire.unreadable import KINDS

_HUGE = "9" * 5_000


async def test_every_kind_is_named_in_report_and_doctor_also_after_the_process_ended(
    nats_server: Server, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text("from tieline import Pod\n\npod = Pod('shop')\n")
    async with connect(Pod("shop"), settings=settings(nats_server.url)) as bus:
        await bus.apply()
        bad_fact = f'{{"fact":"settled","stream":"CALL_INTENT","seq":{_HUGE}}}'.encode()
        await bus.connection.request("call.audit.c1", bad_fact)
        await bus.connection.request("call.audit.c1", b'{"fact":"settled","seq":"one"}')
        await bus.connection.request("DLQ.x.raised.call.intent.book", b"{}", {"Tieline-Dead": "[" * 1_000})
        advisory = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CALL_INTENT.x"
        await bus.connection.request(advisory, b'{"stream":"CALL_INTENT","consumer":"x","stream_seq":1e400}')
        async with started("run", "shop", "audit", cwd=tmp_path, url=nats_server.url) as program:

            async def noted() -> bool:
                text = (await tieline("report", "--json", cwd=tmp_path, url=nats_server.url)).out
                return {one["kind"] for one in json.loads(text)["skipped"]} >= {"fact", "dead letter", "advisory"}

            await eventually(noted, what="the notes", within=60)
            program.process.terminate()
            assert (await program.ended()).code == 0
        text = (await tieline("report", cwd=tmp_path, url=nats_server.url)).out
        assert "could not be read and were skipped" in text
        found = json.loads((await tieline("doctor", "--json", cwd=tmp_path, url=nats_server.url)).out)["findings"]
        things = {one["thing"] for one in found if one["rule"] == "unreadable-records"}
        assert things == {"stream CALL_AUDIT", "stream DLQ", "stream ADVISORY"}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_words_that_fit_a_subject(kind: str) -> None:
    assert kind.replace(" ", "").isalpha()
