"""Looks how full the streams are, and logs it when one passes a threshold, in either direction."""

import asyncio
import logging

from tieline.declared.expected import expected_bytes
from tieline.diagnosis.capacity import Alarm, Level, alarms, planned_bytes
from tieline.errors import TielineError
from tieline.pod import Pod
from tieline.runtime.bus import Bus
from tieline.services.stopping import until_stopped
from tieline.wire.connection import ApiError, Connection, NoAnswer
from tieline.wire.infos import stream_infos

__all__ = ["plan_of", "run", "storage_alarms"]

log = logging.getLogger("tieline.storage")

_AGAIN = 600.0  # seconds until a stream that stays full is logged again


def plan_of(pod: Pod | None) -> dict[str, int]:
    """The bytes that a pod expects its unlimited streams to need."""
    if pod is None:
        return {}
    month = 30 * 86_400.0
    return planned_bytes(expected_bytes(pod.expects, {name: s.max_age or month for name, s in pod.streams.items()}))


async def storage_alarms(connection: Connection, pod: Pod | None = None) -> list[Alarm]:
    """What is 70 % full or more, the fullest first. Raises `ApiError` and `NoAnswer`."""
    infos, account = await stream_infos(connection), await connection.api("INFO")
    wanted = infos if pod is None else {name: info for name, info in infos.items() if name in pod.streams}
    return alarms(wanted.values(), account, plan_of(pod))


async def run(bus: Bus, stop: asyncio.Event) -> None:
    """Look every ``pager.every`` seconds until ``stop``."""
    await until_stopped(_watch(bus), bus.connection, stop)


async def _watch(bus: Bus) -> None:
    before: dict[str, tuple[Level, float]] = {}
    while True:
        try:
            before = _logged(await storage_alarms(bus.connection, bus.pod), before)
        except (TielineError, ApiError, NoAnswer) as error:
            log.debug("not known now how full the streams are: %s", error)
        await asyncio.sleep(bus.settings.pager.every)


def _logged(found: list[Alarm], before: dict[str, tuple[Level, float]]) -> dict[str, tuple[Level, float]]:
    now = asyncio.get_running_loop().time()
    after: dict[str, tuple[Level, float]] = {}
    for alarm in found:
        level, said = before.get(alarm.thing, ("", 0.0))
        if level != alarm.level or (alarm.level == "full" and now - said > _AGAIN):
            log.log(logging.WARNING if alarm.level == "warning" else logging.ERROR, "%s", alarm.text)
            said = now
        after[alarm.thing] = (alarm.level, said)
    for thing in before.keys() - after.keys():
        log.warning("%s has room again", thing)
    return after
