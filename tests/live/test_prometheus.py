"""A real Prometheus, Debian's: it scrapes a pod at work, and takes the rules that ship; promtool tests those."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from debian import program
from scraping import serving
from support.crew import Job, crew
from support.office import at_work, settings

from tieline import Bus
from tieline.cli.main import main
from tieline.services.metrics import alert_rules
from tieline.testing import Server, eventually

_CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}
rule_files: [alerts.yml]
scrape_configs: [{{job_name: tieline, static_configs: [{{targets: ["{target}"]}}]}}]
"""


def test_the_rules_that_ship_alarm_when_they_should_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    promtool = program("promtool")
    monkeypatch.setattr(sys, "argv", ["tieline", "metrics", "--rules"])
    assert main() == 0
    printed = capsys.readouterr().out
    (tmp_path / "alerts.yml").write_text(printed)
    shutil.copy(Path(__file__).with_name("alerts.test.yml"), tmp_path)
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        ran = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    alarmed = re.findall(r"alertname: (\w+)\n +exp_alerts", (tmp_path / "alerts.test.yml").read_text())
    assert {*alarmed} == {*re.findall(r"- alert: (\w+)", printed)}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """The URL of a Prometheus that scrapes ``target`` five times a second."""
    folder.mkdir()
    (folder / "p.yml").write_text(_CONFIG.format(target=target))
    (folder / "alerts.yml").write_text(alert_rules())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--config.file=p.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program("prometheus"), *options], cwd=folder, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait()


async def asked(api: str, path: str) -> Any:
    """What the API answers; None where it does not answer yet."""

    def fetch() -> Any:
        with urlopen(f"{api}/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    try:
        return await asyncio.to_thread(fetch)
    except OSError:
        return None


async def value(api: str, query: str) -> float | None:
    """The one value that a query has now; None where it has none."""
    found = await asked(api, f"query?query={quote(query)}")
    return float(found["result"][0]["value"][1]) if found and found["result"] else None


async def test_prometheus_scrapes_a_pod_at_work_and_sees_its_server_go(nats_server: Server, tmp_path: Path) -> None:
    program("prometheus")
    async with at_work(crew, settings(nats_server.url, audit=True)) as office, serving(office.bus) as url:
        target = url.removeprefix("http://").removesuffix("/metrics")
        with prometheus(tmp_path / "prometheus", target) as api:
            await _watch(api, office.bus, nats_server, tmp_path)


async def _watch(api: str, bus: Bus, nats_server: Server, tmp_path: Path) -> None:
    async def shows(query: str, wanted: float | None) -> bool:
        return await value(api, query) == wanted

    async def eventually_shows(query: str, wanted: float | None) -> None:
        await eventually(lambda: shows(query, wanted), what=f"{query} is {wanted}", within=30, every=0.1)

    await eventually_shows("tieline_up", 1)
    for number in range(3):
        await bus.publish(Job(call_id=f"c{number}", notes=str(tmp_path / "notes")))
    await eventually_shows('tieline_handled_total{agent="worker",subject="call.intent.job"}', 3)
    await eventually_shows('jetstream_stream_total_messages{stream_name="CALL_INTENT"}', 3)
    await eventually_shows('jetstream_consumer_ack_floor_stream_seq{consumer_name="worker"}', 3)
    half = await value(api, 'histogram_quantile(0.5, tieline_handler_duration_seconds_bucket{outcome="done"})')
    assert half is not None
    assert half > 0.01
    rules = (await asked(api, "rules"))["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} == {"ok"}
    [target] = (await asked(api, "targets"))["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")

    nats_server.kill()
    await eventually_shows("tieline_up", 0)
    await eventually_shows("count(jetstream_stream_total_messages)", None)  # marked as stale: an old value is no value
    assert await value(api, 'tieline_handled_total{agent="worker"}') == 3
    await nats_server.restart()
    await eventually_shows("tieline_up", 1)
