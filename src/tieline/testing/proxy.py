"""A TCP proxy between clients and a server: the wire, as something a test can cut, freeze and slow down."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

__all__ = ["Direction", "Proxy"]

type Direction = Literal["to_server", "to_client"]

_CHUNK = 64 * 1024
_IN_FLIGHT = 256  # chunks on the wire in one direction while it is slow; more stay in the kernel


@dataclass(frozen=True, slots=True)
class _Chunk:
    due: float  # loop time
    data: bytes  # empty: the end


@dataclass(slots=True)
class _Faults:
    """What is wrong with the wire now. Written by the proxy's methods, read by every pump; same loop."""

    cut: bool = False
    delay: float = 0.0
    dropping: bool = False
    open: dict[Direction, asyncio.Event] = field(default_factory=dict)


class Proxy:
    """``async with Proxy(server.url) as proxy``: clients connect to ``proxy.url``; it passes bytes, in order.

    The faults are plain calls that hold from then on for all connections, old and new, until `heal`.
    """

    def __init__(self, target: str) -> None:
        url = urlsplit(target)
        if url.hostname is None or url.port is None:
            raise ValueError(f"a proxy needs the URL of its server with host and port, not {target!r}")
        self._target = (url.hostname, url.port)
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._faults = _Faults(open={"to_server": asyncio.Event(), "to_client": asyncio.Event()})
        self.heal()

    @property
    def url(self) -> str:
        """Where clients connect instead."""
        if self._listener is None:
            raise RuntimeError("the proxy has no port before it is started; use `async with`")
        return f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection, and each new one at once. What was on the wire is lost."""
        self._faults.cut = True
        for link in list(self._links):
            link.reset()

    def hold(self, direction: Direction = "to_client") -> None:
        """Freeze one direction: connections stay, nothing arrives. `heal` delivers what was held, in order."""
        self._faults.open[direction].clear()

    def drop_replies(self) -> None:
        """Swallow what the server sends: it does the work, and the client never hears of it (a lost PubAck).

        `heal` resets the connections that lost bytes, since a stream with a hole in it is no connection.
        """
        self._faults.dropping = True

    def delay(self, seconds: float) -> None:
        """Each byte arrives so much later, in both directions. Latency, not bandwidth: it does not add up."""
        self._faults.delay = seconds

    def heal(self) -> None:
        """Undo every fault."""
        self._faults.cut = self._faults.dropping = False
        self._faults.delay = 0.0
        for link in list(self._links):
            if link.holed:
                link.reset()
        for gate in self._faults.open.values():
            gate.set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.close()
        links = list(self._links)
        self.cut()
        for link in links:
            await link.ended.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses():
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:  # the server is away: to the client, the proxy is too
            writer.transport.abort()
            return
        link = _Link(self._faults, writer, up_writer)
        if self._refuses():  # cut meanwhile
            link.reset()
            return
        self._links.add(link)
        try:
            await link.run(reader, up_reader)
        finally:
            self._links.discard(link)
            link.ended.set()

    def _refuses(self) -> bool:
        return self._faults.cut


class _Link:
    """One client's connection and its other half."""

    def __init__(self, faults: _Faults, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self.holed = False  # bytes were swallowed
        self._faults = faults
        self._client = client
        self._server = server
        self._over = asyncio.Event()

    def reset(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()
        self._over.set()

    async def run(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        """Until either side ends or `reset`."""
        up: asyncio.Queue[_Chunk] = asyncio.Queue(_IN_FLIGHT)
        down: asyncio.Queue[_Chunk] = asyncio.Queue(_IN_FLIGHT)
        try:
            async with asyncio.TaskGroup() as halves:
                pumps = [
                    halves.create_task(self._take(from_client, up)),
                    halves.create_task(self._give(up, self._server, "to_server")),
                    halves.create_task(self._take(from_server, down)),
                    halves.create_task(self._give(down, self._client, "to_client")),
                ]
                await self._over.wait()
                for pump in pumps:
                    pump.cancel()
        finally:
            self.reset()

    async def _take(self, reader: asyncio.StreamReader, wire: asyncio.Queue[_Chunk]) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            try:
                data = await reader.read(_CHUNK)
            except OSError:  # reset by that side: for the other it is an end like any
                data = b""
            await wire.put(_Chunk(loop.time() + self._faults.delay, data))

    async def _give(self, wire: asyncio.Queue[_Chunk], writer: asyncio.StreamWriter, direction: Direction) -> None:
        loop = asyncio.get_running_loop()
        while (chunk := await wire.get()).data:
            await asyncio.sleep(chunk.due - loop.time())
            await self._faults.open[direction].wait()
            if self._faults.dropping and direction == "to_client":
                self.holed = True
                continue
            writer.write(chunk.data)
            with suppress(OSError):  # it went away meanwhile; its reader says so
                await writer.drain()
        writer.close()  # after what is still to be written
        with suppress(OSError):
            await writer.wait_closed()
        self._over.set()
