"""Records the fixture ``tests/data/old-deployment.*``: a small pod at work on the code of commit 9a418b6.

Run by hand, never by a test, and only with that commit's own environment::

    git worktree add /tmp/old 9a418b6 && (cd /tmp/old && uv sync)
    PYTHONPATH=tests /tmp/old/.venv/bin/python -m support.old_deployment_recording tests/data

It uses only commands, `connect` and the JetStream API, so that it can be read (and type-checked) beside today's code.
Waits that must not be over last 50 years, the streams keep messages for a century, and the waits described as "over"
ended while the server was stopped.
"""

import asyncio
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.old_deployment_pod import Brief, Job, Orphan, old_pod
from tieline import Bus, Message, Settings, connect
from tieline.server import ServerConfig
from tieline.settings import ConnectionSettings
from tieline.testing import Server, eventually

__all__ = ["record"]

_POD = "support.old_deployment_pod:old_pod"
_COMMAND = str(Path(sys.executable).with_name("tieline"))
_LARGE = 1024  # bytes; what is larger travels in the object store
_HOLDS, _FAILS = {"OLD_DEPLOYMENT_HOLDS": "1"}, {"OLD_DEPLOYMENT_FAILS": "1"}

_DONE = {"plain-1": "plain", "plain-2": "plain", "plain-3": "plain", "large": "large", "delay-done": "delay-done"}
_PARKED = {
    "ask": "ask",
    "ask-within": "ask-within",
    "human": "human",
    "human-within": "human-within",
    "cancelled": "human",
    "sleep": "sleep",
}
_DEAD = {"raise-1": "raise", "raise-2": "raise", "redriven": "raise", "redriven-waits": "raise", "refuse": "refuse"}
_OVER = {"human-late": "human-late", "sleep-over": "sleep-over", "retry-later": "retry-later"}
_DELAYED = {"delay": "delay", "delay-over": "delay-over"}
_HELD = tuple(f"held-{n}" for n in range(1, 9))  # one for each slot of the process
_WAITING = tuple(f"waiting-{n}" for n in range(1, 4))
_ORPHANS = ("orphan-1", "orphan-2")

_STATES = {
    "done": "handled, with facts, steps, a tool call with effect once, and state",
    "dead": "in the dead-letter stream; handled if it is redriven today",
    "redriven": "was a dead letter; handled after a redrive",
    "redrive-waits": "was a dead letter; its redrive is stored and not delivered yet",
    "parked": "its handler waits for an answer or a time",
    "cancelled": "was parked, then cancelled: a dead letter",
    "over": "its wait ended while the server was stopped",
    "held": "its handler was running when the server stopped",
    "waiting": "stored and not delivered yet",
    "expired": "its TTL ended before its agent saw it",
}


async def record(into: Path) -> None:
    """Write ``old-deployment.tar.gz`` and ``old-deployment.json`` to ``into``."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(ServerConfig(data=Path(folder) / "nats", sync="2m"))
        async with server:
            url = server.url
            _command("apply", _POD, "--server", url)
            settings = Settings(connection=ConnectionSettings(servers=(url,)), large=_LARGE)
            async with connect(old_pod, settings=settings) as bus:
                beside = _process(url, ["audit", "tools", "after"])
                try:
                    running, stored = await _fill(bus, url)
                    # The server first: what the processes hold is in flight when it stops.
                    await server.stop()
                finally:
                    _kill(beside)
                _kill(running)
        with tarfile.open(into / "old-deployment.tar.gz", "w:gz", compresslevel=9) as archive:
            archive.add(Path(folder) / "nats" / "jetstream", arcname="jetstream")
    described = {"commit": "9a418b6", "states": _STATES, "conversations": _described(), "streams": stored}
    (into / "old-deployment.json").write_text(json.dumps(described, indent=2) + "\n")


async def _fill(bus: Bus, url: str) -> tuple["subprocess.Popen[bytes]", dict[str, int]]:
    await _poison(bus, url)
    worker = _process(url, ["worker"], _HOLDS | _FAILS)
    await _publish_jobs(bus, _DONE | _PARKED | _DEAD)
    await bus.publish(Brief(call_id="brief"), id="brief")
    await bus.publisher.publish("call.intent.job", b'{"callId":"invalid","kind":7}', {"Nats-Msg-Id": "invalid"})
    await eventually(lambda: _letters(bus, 7), what="the dead letters")
    await eventually(lambda: _parked(bus, 5), what="parked records")
    await eventually(lambda: _acknowledged(bus, "worker"), what="everything settled")
    _kill(worker)
    worker = _process(url, ["worker"], _HOLDS)
    _command("dlq", "redrive", "--conversation", "redriven", "--server", url)
    _command("calls", "cancel", "cancelled", "--server", url)
    await eventually(lambda: _letters(bus, 7), what="one redriven, one cancelled")
    for name in _ORPHANS:
        await bus.publish(Orphan(call_id=name), id=name)
    await eventually(lambda: _acknowledged(bus, "worker"), what="everything settled")
    await eventually(lambda: _acknowledged(bus, "after"), what="everything settled")
    await _publish_jobs(bus, _OVER | _DELAYED)  # from here on it must be quick: 20 seconds
    await eventually(lambda: _parked(bus, 6), what="the late question parked")
    await eventually(lambda: _acknowledged(bus, "worker"), what="everything settled")
    await eventually(lambda: _acknowledged(bus, "after"), what="everything settled")
    await _publish_jobs(bus, dict.fromkeys(_HELD, "hold"))
    await eventually(lambda: _in_flight(bus, "worker", len(_HELD)), what="eight handlers that hold")
    await _publish_jobs(bus, dict.fromkeys(_WAITING, "plain"))
    _command("dlq", "redrive", "--conversation", "redriven-waits", "--server", url)
    streams = (await bus.connection.api("STREAM.LIST", {}))["streams"]
    return worker, {info["config"]["name"]: info["state"]["messages"] for info in streams}


async def _poison(bus: Bus, url: str) -> None:
    """A message that kills its process, until it is a dead letter."""
    await _publish_jobs(bus, {"poison": "poison"})
    while not await _letters(bus, 1):
        process = _process(url, ["worker"], _HOLDS)

        async def ended(of: "subprocess.Popen[bytes]" = process) -> bool:
            return of.poll() is not None or await _letters(bus, 1)

        await eventually(ended, what="the poison at work", within=60)
        _kill(process)


async def _publish_jobs(bus: Bus, jobs: dict[str, str]) -> None:
    for call, kind in jobs.items():
        text = "a long story. " * 300 if kind == "large" else ""
        await bus.publish(Job(call_id=call, kind=kind, text=text), id=call)


async def _letters(bus: Bus, count: int) -> bool:
    info = await bus.connection.api("STREAM.INFO.DLQ")
    return int(info["state"]["messages"]) == count


async def _parked(bus: Bus, count: int) -> bool:
    subjects = await bus.journal.subjects("step.worker.*.park.*")
    return len(list(subjects)) == count


async def _acknowledged(bus: Bus, durable: str) -> bool:
    return await _in_flight(bus, durable, 0)


async def _in_flight(bus: Bus, durable: str, count: int) -> bool:
    info: dict[str, Any] = await bus.connection.api(f"CONSUMER.INFO.CALL_INTENT.{durable}")
    return info["num_ack_pending"] == count and not info["num_pending"]


def _process(url: str, names: Iterable[str], environ: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tieline.services.process", _POD, *names, "--server", url]
    return subprocess.Popen(command, env=os.environ | {"TIELINE_LARGE": str(_LARGE)} | (environ or {}))


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def _command(*arguments: str) -> None:
    subprocess.run([_COMMAND, *arguments], check=True)


def _described() -> list[dict[str, str]]:
    states: dict[str, tuple[str, type[Message], dict[str, str]]] = {}

    def say(
        calls: Iterable[str], state: str, message: type[Message] = Job, kinds: dict[str, str] | None = None
    ) -> None:
        states.update({call: (state, message, kinds or {}) for call in calls})

    say(_DONE, "done", kinds=_DONE)
    say(_PARKED, "parked", kinds=_PARKED)
    say(_DEAD, "dead", kinds=_DEAD)
    say(("poison", "invalid"), "dead", kinds={"poison": "poison"})
    say(("cancelled",), "cancelled", kinds=_PARKED)
    say(("redriven",), "redriven", kinds=_DEAD)
    say(("redriven-waits",), "redrive-waits", kinds=_DEAD)
    say(_OVER, "over", kinds=_OVER)
    say(_DELAYED, "done", kinds=_DELAYED)
    say(_HELD, "held", kinds=dict.fromkeys(_HELD, "hold"))
    say(_WAITING, "waiting", kinds=dict.fromkeys(_WAITING, "plain"))
    say(_ORPHANS, "waiting", Orphan)
    say(("brief",), "expired", Brief)
    return [
        {"id": call, "message": message.__name__, "kind": kinds.get(call, ""), "state": state}
        for call, (state, message, kinds) in states.items()
    ]


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
