"""The server's monitoring pages: what it tells over HTTP and nowhere else."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from tieline.errors import BadSettings
from tieline.services.doctor.observation import Monitored

__all__ = ["Page", "beyond_doubt", "fetched", "likely_url", "page", "varz"]

_PORT = 8222  # where nats-server's documentation and images put it
_WAIT = 2.0  # seconds
_LARGEST = 8 * 1024 * 1024  # bytes of one answer
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """``/varz`` of one server. ``seen`` is None where it says that JetStream is off there."""

    server_id: str
    cluster: str
    skew: float
    seen: Monitored | None


def likely_url(server: str) -> str:
    """Where the pages of a NATS server usually are."""
    host = urlsplit(server).hostname or "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{_PORT}"


async def page(url: str) -> Page:
    """What the server at ``url`` tells. `OSError` where it does not answer, `BadSettings` for what is no such URL."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise BadSettings(f"--monitor {url.rpartition('@')[2]!r} is not a URL; write http://host:8222")
    began = time.time()
    told = await varz(url)
    config = (told.get("jetstream") or {}).get("config")
    name = str(told.get("server_name") or url)
    return Page(
        str(told.get("server_id", "")),
        str((told.get("cluster") or {}).get("name", "")),
        beyond_doubt(datetime.fromisoformat(str(told["now"])), began, time.time()) if "now" in told else 0.0,
        Monitored(
            server=name,
            sync_always=bool(config.get("sync_always")),
            sync_interval=config.get("sync_interval", 0) / _NANO,
        )
        if config
        else None,
    )


async def varz(url: str) -> Mapping[str, Any]:
    """``/varz`` as it is. `OSError` where it does not answer."""
    return await asyncio.to_thread(fetched, url.rstrip("/") + "/varz")


def fetched(url: str) -> Mapping[str, Any]:
    """One monitoring page of a NATS server. Blocks; `OSError` where there is none."""
    # The pages are on the inside: a proxy that the environment names would be asked for the wrong machine.
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=_WAIT) as answer:
            told = json.loads(answer.read(_LARGEST))
    except (ValueError, HTTPException) as error:
        raise OSError(f"it does not answer with JSON over HTTP ({type(error).__name__})") from error
    if not isinstance(told, dict) or "server_id" not in told:
        raise OSError("it is not a monitoring page of a NATS server")
    return told


def beyond_doubt(server: datetime, asked: float, answered: float) -> float:
    """How far a server's clock is ahead of ours, less what the time between asking and answer could explain."""
    there = server.timestamp()
    return there - answered if there > answered else min(0.0, there - asked)
