"""What probes are told: ``/live`` while this process's event loop turns, ``/ready`` while it takes work.

A server that is away makes a process not ready, and not dead: it reconnects by itself, and restarting it would help
nobody. ``python -m tieline.services.health`` asks the process of this machine, for probes that are commands.
"""

import asyncio
import json
import logging
import sys
import urllib.error
import urllib.request
from typing import Any

from tieline.runtime.bus import Bus
from tieline.runtime.host import Host
from tieline.settings import Settings

__all__ = ["serve", "told"]

log = logging.getLogger("tieline.health")

_LONGEST = 8192  # bytes of a request
_PATIENCE = 5.0  # seconds for a request to come


def told(bus: Bus, host: Host | None) -> dict[str, Any]:
    """Whether it is connected, which consumers it pulls from, and why it takes no work; ``ready`` where all is well."""
    consumers = {} if host is None else host.pulling
    connected, waits = bus.connection.connected, bus.stands_still
    ready = connected and all(consumers.values()) and not waits
    return {"ready": ready, "connected": connected, "consumers": consumers, "waits": waits}


async def serve(bus: Bus, host: Host | None, port: int, stop: asyncio.Event) -> None:
    """Answer probes on ``port`` (0: a free one) of all addresses until ``stop``; not ready from then on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await reader.readuntil(b"\r\n")
            writer.write(_answered(request.split(b" ")[1:2], bus, host))
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked went away, or asks for something else
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", port, limit=_LONGEST)
    log.info("health at port %d: /live, /ready", server.sockets[0].getsockname()[1])
    async with server:
        await stop.wait()


def _answered(path: list[bytes], bus: Bus, host: Host | None) -> bytes:
    match path:
        case [b"/live"]:
            return _response(200, {"live": True})
        case [b"/ready"]:
            found = told(bus, host)
            return _response(200 if found["ready"] else 503, found)
    return _response(404, {"error": "there are /live and /ready"})


def _response(status: int, body: dict[str, Any]) -> bytes:
    payload = json.dumps(body).encode()
    words = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + payload


def _main() -> int:
    """0 where the process at ``TIELINE_HEALTH_PORT`` is ready; what it said otherwise, and 1."""
    port = Settings.from_environment().health_port
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port or 0}/ready", timeout=_PATIENCE):
            return 0
    except urllib.error.HTTPError as unready:
        print(unready.read().decode(errors="replace"), file=sys.stderr)
    except OSError as error:
        print(f"nobody answers at TIELINE_HEALTH_PORT={port}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(_main())
