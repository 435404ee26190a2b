"""When a started server is ready, and what it recovered."""

import asyncio
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tieline.server.config import Tls

__all__ = ["Ports", "read_ports", "recovered_streams", "streams_on_disk"]

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"0","name":"tieline ready"}\r\n'
_LISTEN = b"SUB _INBOX.tieline.ready 1\r\n"
_ASK = b"PUB $JS.API.INFO _INBOX.tieline.ready 0\r\n\r\n"
_AGAIN = 0.25  # seconds until it is asked again: in a cluster nobody answers until a leader is elected


@dataclass(frozen=True, slots=True)
class Ports:
    """What the server listens on."""

    client: int
    monitor: int | None


def read_ports(data: Path, pid: int) -> Ports | None:
    """The ports the server with this pid has bound; None until it has bound them all.

    The file is the server's own word under its own pid, so it cannot be another server that happens to answer there.
    """
    for path in data.glob(f"*_{pid}.ports"):
        try:
            bound = json.loads(path.read_text())
        except ValueError:  # seen half written
            return None
        client = _port_of(bound.get("nats", []))
        return None if client is None else Ports(client, _port_of(bound.get("monitoring", [])))
    return None


def _port_of(urls: list[str]) -> int | None:
    return urlsplit(urls[0]).port if urls else None


async def recovered_streams(host: str, port: int, tls: Tls | None) -> int | None:
    """How many streams JetStream has, once it answers; None where it does not talk to strangers.

    Raises `OSError` where the connection fails or ends.

    Spoken by hand on a bare socket: one line each way does not need a client.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        info = await reader.readline()  # comes first, and in the clear
        if info.startswith(b"INFO ") and json.loads(info[5:]).get("auth_required"):
            return None  # it is there; who wants to ask more has to say who they are
        if tls is not None:
            await writer.start_tls(_context(tls))
        writer.write(_CONNECT + _LISTEN)
        while line := await _heard(reader, writer):
            if line.startswith(b"MSG "):
                reply = json.loads(await reader.readexactly(int(line.split()[-1])))
                if "streams" in reply:
                    return int(reply["streams"])
                await asyncio.sleep(_AGAIN)  # an error: JetStream is there, and has no leader yet
            if line.startswith(b"-ERR"):
                raise ConnectionError(f"the server refused the connection: {line.decode(errors='replace').strip()}")
        raise ConnectionError("the server closed the connection before JetStream answered")
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the server closed the connection in the middle of an answer") from error
    finally:
        writer.close()


def _context(tls: Tls) -> ssl.SSLContext:
    """For our own child, whose certificate may be for another name than this address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(tls.certificate, tls.key)
    return context


async def _heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The next line, asking until there is one."""
    line = asyncio.ensure_future(reader.readline())
    try:
        while not line.done():
            writer.write(_ASK)
            await asyncio.wait([line], timeout=_AGAIN)
        return line.result()
    finally:
        line.cancel()


def streams_on_disk(data: Path) -> int:
    """How many streams the store should have: what the server finds under ``data`` when it starts."""
    folder = data / "jetstream" / "$G" / "streams"
    return sum(entry.is_dir() for entry in folder.iterdir()) if folder.is_dir() else 0
