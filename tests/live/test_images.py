"""OneRoof as rendered for Docker Compose: the image is built step by step, and its containers run, without Docker."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import tieline
from deployments import is_ok, running, servers
from support.images import Image, built
from support.office import settings

from oneroof import pod
from tieline import connect
from tieline.testing import eventually

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder of the project to render into: an image is built of nothing outside of the project."""
    folder = _ROOT / ".tieline" / f"rendered-{tmp_path.name}-{tmp_path.parent.name}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def container(image: Image, service: dict[str, Any], folder: Path, hosts: dict[str, str]) -> list[str]:
    """The command of one service: its user, mounts, secrets and settings as the compose file has them."""
    mounts = {
        f"/run/secrets/{name}": folder / "secrets" / f"{name.removesuffix('-creds')}.creds"
        for name in service["secrets"]
    }
    for volume in service.get("volumes", ()):
        source, target = volume.split(":")[:2]
        mounts[target] = folder / source
    assert service["read_only"] is True
    environment = {**service["environment"], **hosts}
    environment |= {name: "0" for name in ("TIELINE_HEALTH_PORT", "TIELINE_METRICS_PORT") if name in environment}
    return image.command(service["command"], environment, mounts, service["user"])


@pytest.mark.root
async def test_oneroofs_containers_run_as_rendered_for_compose(place: Path, tmp_path: Path) -> None:
    keys = ["--keys", str(tmp_path / "keys")]
    made = await tieline("deploy", "compose", "oneroof", "--out", str(place), *keys, cwd=_ROOT)
    assert (made.code, made.err) == (0, "")
    found = yaml.safe_load((place / "compose.yaml").read_text())
    services = found["services"]
    build = services["apply"]["build"]
    context = (place / build["context"]).resolve()
    image = await asyncio.to_thread(built, context / build["dockerfile"], context, tmp_path / "image")
    assert not [*image.root.rglob("*.creds")]
    async with servers({"nats-0": (place / "nats-0.conf").read_text()}, "/data", tmp_path) as here:
        url = f"nats://127.0.0.1:{here.clients['nats-0']}"
        hosts = {"TIELINE_SERVERS": url}
        async with running("apply", container(image, services.pop("apply"), place, hosts), {}, tmp_path) as applying:
            assert await applying.process.wait() == 0, applying.said
        services.pop("nats-0")
        assert services.keys() == {*pod.agents, "tools", "audit", "metrics"}
        async with AsyncExitStack() as stack:
            started = [
                await stack.enter_async_context(running(name, container(image, service, place, hosts), {}, tmp_path))
                for name, service in services.items()
            ]
            for one in started:
                page = f"http://127.0.0.1:{await one.port('health at port ')}/ready"
                await eventually(partial(is_ok, page), what=f"{one.name} ready")
            answer = await booked(url, place / "secrets" / "operator.creds")
            assert "You are booked to see home 1103" in answer, answer
            for one in started:
                one.process.terminate()
            assert [(one.name, await one.process.wait()) for one in started] == [(one.name, 0) for one in started]
    assert "Viewing of 1103" in (place / "data/tools/viewings.ics").read_text()  # the volume outlives the container


async def booked(url: str, credentials: Path) -> str:
    """What the office answers to a booking of home 1103 on a Wednesday at ten."""
    day = datetime.now(UTC) + timedelta(days=7)
    day += timedelta(days=(2 - day.weekday()) % 7)
    slot = day.replace(hour=18, minute=0, second=0, microsecond=0)  # 10 or 11 o'clock in Seattle
    intent = {"callId": "c1", "turn": 1, "home": "1103", "phone": "+12065550145", "slot": slot.isoformat()}
    async with connect(pod, settings=settings(url, credentials=credentials)) as bus:
        await bus.publisher.publish("call.intent.book", json.dumps(intent).encode(), {"Nats-Msg-Id": "b1"})
        async for answer in bus.feed("call.answer.*", start=1):
            return str(json.loads(answer.payload)["say"])
    raise AssertionError("no answer")
