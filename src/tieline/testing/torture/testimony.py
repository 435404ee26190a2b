"""What servers and processes say of themselves when something did not hold: without it, a rare stall stays a riddle."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from tieline.services.doctor.monitoring import fetched
from tieline.testing.server import Server
from tieline.testing.torture.field import Field

__all__ = ["testimony"]

_LINES = 40  # the last that the processes said
_PAGE = "/jsz?accounts=1&streams=1&consumers=1&config=1&raft=1"


async def testimony(there: Field) -> list[str]:
    """Each server on its streams and their consumers, who is connected to it, and the last words of the processes."""
    told = await asyncio.gather(*(asyncio.to_thread(_server, node) for node in there.nodes))
    return [*(line for lines in told for line in lines), *(f"said: {line}" for line in there.said[-_LINES:])]


def _server(node: Server) -> list[str]:
    name = node.config.server_name
    try:
        page, connected = fetched(f"{node.monitor_url}{_PAGE}"), fetched(f"{node.monitor_url}/connz")
    except OSError as error:
        return [f"{name}: {error}"]
    names = ", ".join(sorted(str(one.get("name")) for one in connected["connections"]))
    details = [stream for account in page.get("account_details") or () for stream in account.get("stream_detail") or ()]
    lines = (f"{name}: {line}" for stream in details for line in _stream(stream))
    return [f"{name}: meta {page.get('meta_cluster')}", f"{name}: connected are {names}", *lines]


def _stream(stream: Mapping[str, Any]) -> Iterator[str]:
    state = stream["state"]
    yield f"stream {stream['name']}: {_group(stream)}; {state['messages']} messages, last {state['last_seq']}"
    for consumer in stream.get("consumer_detail") or ():
        counts = {name: value for name, value in consumer.items() if name.startswith("num_")}
        yield f"consumer {stream['name']}/{consumer['name']}: {_group(consumer)}; {counts}"


def _group(info: Mapping[str, Any]) -> str:
    cluster = info.get("cluster") or {}
    others = [
        f"{one['name']} {'current' if one.get('current') else 'behind'} lag {one.get('lag', 0)}"
        f"{' offline' if one.get('offline') else ''}"
        for one in cluster.get("replicas") or ()
    ]
    by = f", by {cluster['traffic_account']}" if "traffic_account" in cluster else ""
    return f"led by {cluster.get('leader') or 'nobody'}{by}, {', '.join(others) or 'no replicas'}"
