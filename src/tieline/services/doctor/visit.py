"""One visit to a server: everything the rules need, read with a reader's rights and leaving nothing behind.

No consumer is made and no message is acknowledged. What is refused is noted, and the visit goes on.
"""

import asyncio
import base64
import json
import math
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tieline import headers as names
from tieline.diagnosis.capacity import alarms
from tieline.errors import NotApplied
from tieline.pod import Pod
from tieline.records.facts import read_fact
from tieline.records.reading import read_digits
from tieline.services.doctor.monitoring import beyond_doubt, likely_url, page
from tieline.services.doctor.observation import (
    ConsumerSeen,
    Monitored,
    Observation,
    ServerSeen,
    StreamSeen,
    Times,
    Unseen,
)
from tieline.services.skipped import Skipped, skipped_records
from tieline.services.storage_watch import plan_of
from tieline.settings import Settings
from tieline.wire.connection import ApiError, Connection, NoAnswer, headers_of
from tieline.wire.topology import Change, consumer_infos, plan, stream_infos

__all__ = ["visit"]

_PAUSE = 2.0  # seconds between the two looks: every reader renews its pull in less
_AT_ONCE = 32  # requests on their way
_SAMPLE = 3  # newest messages of a stream whose headers are read
_FACTS = 5000  # newest facts of the audit
_BATCH = 1000
_AUDIT = "CALL_AUDIT"
_NO_MESSAGE = 10037


async def visit(
    connection: Connection,
    settings: Settings,
    *,
    pod: Pod | None = None,
    monitor: str | None = None,
    pause: float = _PAUSE,
) -> Observation:
    """What there is to see of the account and its server, and where a pod is given, of the pod.

    ``monitor`` is the URL of the server's monitoring pages; without it they are looked for on port 8222 of the same
    host. Streams are looked at again after ``pause`` seconds where something seems to stand still. What the server
    refuses to tell is in ``unseen``. Raises `Unreachable` when the connection is closed and `BadSettings` for a
    ``monitor`` that is no URL.
    """
    return await _Visit(connection).whole(settings, pod, monitor, pause)


class _Visit:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unseen: list[Unseen] = []
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def whole(self, settings: Settings, pod: Pod | None, monitor: str | None, pause: float) -> Observation:
        told = self._connection.server
        server = ServerSeen(
            name=str(told.get("server_name") or told.get("server_id") or "?"),
            version=str(told.get("version", "")),
            cluster=str(told.get("cluster") or ""),
            account=str(told.get("remote_account") or "$G"),
        )
        monitored, clock = await self._monitored(settings.connection.servers[0], monitor)
        began = time.time()
        infos = await self._asked("streams", "STREAM.LIST", stream_infos(self._connection))
        seen = Observation(
            server=server, monitored=monitored, skew=clock, pod=pod, publish_patience=settings.publish.patience
        )
        if infos is None:
            return replace(seen, listed=False, unseen=tuple(self._unseen))
        skews = [beyond_doubt(datetime.fromisoformat(i["ts"]), began, time.time()) for i in infos.values() if "ts" in i]
        streams = await self._streams(infos)
        account = await self._asked("the account's limits", "INFO", self._connection.api("INFO")) or {}
        return replace(
            seen,
            alarms=tuple(alarms(infos.values(), account, plan_of(pod))),
            streams=streams,
            skew=max(skews, key=abs, default=clock),
            storage_limit=max(0, int((account.get("limits") or {}).get("max_storage", 0))),
            times=await self._times(infos.get(_AUDIT)),
            changes=await self._changes(pod),
            skipped=await self._skipped(infos),
            again=await self._again(streams, pause),
            unseen=tuple(self._unseen),
        )

    async def _asked[T](self, thing: str, endpoint: str, answer: Awaitable[T]) -> T | None:
        """The answer; None, and a note of it, where the server refuses or is silent."""
        try:
            async with self._gate:
                return await answer
        except ApiError as error:
            why = f"the server refuses $JS.API.{endpoint}: {error}"
        except NoAnswer as silence:
            why = f"no answer to $JS.API.{endpoint}: {silence}"
        remedy = (
            f"a user who may publish to $JS.API.{endpoint} and listen on its own inbox; JetStream on in the account"
        )
        self._unseen.append(Unseen(thing, why, remedy))
        return None

    async def _streams(self, infos: Mapping[str, Mapping[str, Any]]) -> tuple[StreamSeen, ...]:
        known = await self._asked("streams", "STREAM.NAMES", self._connection.api("STREAM.NAMES")) or {}
        for name in sorted(set(known.get("streams") or ()) - set(infos)):
            remedy = f"nats stream info {name}; start the servers that hold its replicas"
            self._unseen.append(Unseen(f"stream {name}", "it has no leader that answers", remedy))
        return tuple(await asyncio.gather(*(self._stream(info) for _, info in sorted(infos.items()))))

    async def _stream(self, info: Mapping[str, Any]) -> StreamSeen:
        name = info["config"]["name"]
        consumers = await self._consumers(name)
        return StreamSeen.of(info, consumers, await self._expiring(info))

    async def _consumers(self, stream: str) -> tuple[ConsumerSeen, ...]:
        endpoint = f"CONSUMER.LIST.{stream}"
        found = await self._asked(f"consumers of {stream}", endpoint, consumer_infos(self._connection, stream)) or []
        return tuple(ConsumerSeen.of(info) for info in found)

    async def _expiring(self, info: Mapping[str, Any]) -> tuple[str, ...]:
        """Subjects of the newest messages that carry a TTL where the stream allows none. Payloads are not looked at."""
        state, name = info["state"], info["config"]["name"]
        if info["config"].get("allow_msg_ttl") or not state["messages"]:
            return ()
        newest = range(max(state["first_seq"], state["last_seq"] - _SAMPLE + 1), state["last_seq"] + 1)
        found = []
        for seq in newest:
            endpoint = f"STREAM.MSG.GET.{name}"
            answer = await self._asked(f"messages of {name}", endpoint, self._message(endpoint, seq))
            if answer is None:
                break  # not for us to read: the others neither
            lines = base64.b64decode(answer.get("hdrs", "")).decode(errors="replace").lower().splitlines()
            if any(line.startswith(f"{names.TTL.lower()}:") for line in lines):
                found.append(str(answer["subject"]))
        return tuple(found)

    async def _message(self, endpoint: str, seq: int) -> Mapping[str, Any]:
        try:
            message: dict[str, Any] = (await self._connection.api(endpoint, {"seq": seq}))["message"]
        except ApiError as error:
            if error.err_code == _NO_MESSAGE:
                return {}
            raise
        return message

    async def _times(self, audit: Mapping[str, Any] | None) -> dict[tuple[str, str], Times]:
        """How long handlers took, by the newest facts."""
        if audit is None or not audit["state"]["messages"]:
            return {}
        last = int(audit["state"]["last_seq"])
        took: dict[tuple[str, str], list[float]] = {}
        at = max(1, last - _FACTS)
        while at <= last:
            body = json.dumps({"seq": at, "next_by_subj": ">", "batch": _BATCH}).encode()
            endpoint = f"DIRECT.GET.{_AUDIT}"
            asked = self._connection.request_all(f"$JS.API.{endpoint}", body)
            replies = await self._asked("handler times", endpoint, asked) or []
            facts = [reply for reply in replies if reply.status is None]
            if not facts:
                break
            for reply in facts:
                _note_settled(reply.payload, took)
            at = (read_digits(headers_of(facts[-1]).get("Nats-Sequence")) or last) + 1
        return {key: Times(len(all_), _p99(all_)) for key, all_ in took.items()}

    async def _skipped(self, infos: Mapping[str, Mapping[str, Any]]) -> tuple[Skipped, ...]:
        if _AUDIT not in infos:
            return ()
        notes = skipped_records(self._connection)
        return await self._asked("records that were skipped", f"DIRECT.GET.{_AUDIT}", notes) or ()

    async def _changes(self, pod: Pod | None) -> tuple[Change, ...]:
        if pod is None:
            return ()
        try:
            found = await self._asked(f"pod {pod.name}", "STREAM.INFO.*", plan(self._connection, pod))
        except NotApplied as error:
            self._unseen.append(Unseen(f"pod {pod.name}", str(error), "tieline plan POD, as a user who may read it"))
            return ()
        return tuple(found or ())

    async def _again(self, streams: Iterable[StreamSeen], pause: float) -> tuple[StreamSeen, ...]:
        """A second look, where the first saw something that a moment may explain."""
        still = [s.name for s in streams if s.unowed > 0 or any(consumer.unheard for consumer in s.durables)]
        if not still:
            return ()
        await asyncio.sleep(pause)
        infos = await self._asked("streams, a second time", "STREAM.LIST", stream_infos(self._connection)) or {}
        return tuple([StreamSeen.of(infos[name], await self._consumers(name)) for name in still if name in infos])

    async def _monitored(self, server: str, monitor: str | None) -> tuple[Monitored | None, float | None]:
        """What the monitoring pages say, and the clock there. Pages that were not asked for must be this server's."""
        told, url = self._connection.server, monitor or likely_url(server)
        shown = f"the monitoring page at {url.rpartition('@')[2]}"
        try:
            found = await page(url)
        except OSError as error:
            if monitor is not None:
                self._unseen.append(
                    Unseen(
                        "monitoring", f"{shown} cannot be read: {error}", "the `http:` address of the server, as a URL"
                    )
                )
            return None, None
        same = found.server_id == told.get("server_id") or (found.cluster and found.cluster == told.get("cluster"))
        if not same:
            if monitor is not None:
                why = f"{shown} belongs to another server than the one we are connected to"
                self._unseen.append(Unseen("monitoring", why, "--monitor URL of the same server or cluster"))
            return None, None
        return found.seen, found.skew


def _note_settled(payload: bytes, took: dict[tuple[str, str], list[float]]) -> None:
    """Anybody may write to the audit's subjects: what is not a fact of ours is passed over."""
    match read_fact(payload):
        case {"fact": "settled", "stream": str(stream), "by": str(by), "took": int() | float() as seconds}:
            took.setdefault((stream, by), []).append(float(seconds))


def _p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]
