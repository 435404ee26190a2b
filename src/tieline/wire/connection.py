"""One NATS connection: requests, sends, listening, and an honest word when it is gone."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import natsio

from tieline.errors import Unreachable
from tieline.settings import ConnectionSettings

__all__ = ["ApiError", "Connection", "Listening", "NoAnswer", "Received", "headers_of"]

type Received = natsio.Msg

_RECONNECT_FIRST = 0.1  # seconds; a restarted server is met within this and the jitter
_RECONNECT_LAST = 2.0


def headers_of(received: Received) -> dict[str, str]:
    """The headers of a message; empty where it has none. The first value counts where a name stands twice."""
    headers = received.headers
    return {} if headers is None else {name: headers[name] for name in headers}


class NoAnswer(Exception):
    """A request got no reply in time, or nobody listens. Not a "no": what was asked may still happen."""


class ApiError(Exception):
    """The JetStream API answered with an error. Go by ``err_code`` (ADR-7), never by ``code``."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))
        self.description = str(error.get("description", "unknown error"))
        super().__init__(f"{self.description} (err_code {self.err_code})")


class Listening:
    """A live core subscription."""

    def __init__(self, subscription: natsio.Subscription) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        """Stop hearing; what has come already is still heard. Safe on a closed connection."""
        try:
            await self._subscription.drain()
        except natsio.ConnectionClosedError:
            return  # the server forgot it with the connection


class Connection:
    """A connection that reconnects by itself for ``settings.reconnect`` seconds and then is lost for good.

    Reconnects are seen by ``on_reconnect`` listeners. `lost` is done with `Unreachable` when it will not come back,
    so a process can end with an error instead of idling for ever.
    """

    def __init__(self, client: natsio.Client, settings: ConnectionSettings) -> None:
        self._client = client
        self._settings = settings
        self._budget: asyncio.TimerHandle | None = None
        self._closing = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_reconnect: list[Callable[[], None]] = []
        self._watch = asyncio.create_task(self._follow(), name="tieline-connection")

    @classmethod
    async def open(cls, settings: ConnectionSettings, name: str) -> "Connection":
        """A connection called ``name`` in the server's lists. `Unreachable` names the servers that did not answer."""
        options = natsio.ConnectOptions(
            servers=settings.servers,
            name=name,
            connect_timeout=settings.connect_timeout,
            request_timeout=settings.request_timeout,
            inbox_prefix=settings.inbox_prefix,
            credentials=settings.credentials,
            tls=_tls(settings),
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_FIRST,
            reconnect_time_wait_max=_RECONNECT_LAST,
            ping_interval=settings.ping_interval,
            permission_err_on_subscribe=True,
        )
        client = natsio.Client(options)
        try:
            async with asyncio.timeout(settings.connect_timeout * max(2, len(settings.servers))):
                await client.connect()
        except (natsio.NATSError, TimeoutError, OSError) as error:
            await client.close()
            where = ", ".join(_without_password(url) for url in settings.servers)
            raise Unreachable(f"no NATS server answers at {where}: {error}; is it running? (tieline up)") from error
        return cls(client, settings)

    @property
    def max_payload(self) -> int:
        """The largest payload the server takes, in bytes."""
        return self._client.max_payload

    @property
    def inbox(self) -> str:
        """The subject prefix that is ours to listen on."""
        return self._client.inbox_prefix

    @property
    def connected(self) -> bool:
        """Whether the connection is up right now."""
        return self._client.is_connected

    @property
    def server(self) -> Mapping[str, Any]:
        """What the server said of itself when we connected: version, name, cluster."""
        return self._client.server_info

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        wait: float | None = None,
    ) -> Received:
        """The one reply to a request. `NoAnswer` where nobody listens or none came; `Unreachable` when closed."""
        try:
            return await self._client.request(subject, payload, timeout=wait, headers=headers)
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error
        except (natsio.NoRespondersError, natsio.TimeoutError, natsio.ReconnectBufExceededError) as error:
            raise NoAnswer(str(error)) from error

    async def request_all(self, subject: str, payload: bytes) -> list[Received]:
        """All replies of a batched direct get, up to the end-of-batch status (ADR-31). `NoAnswer` where none came."""
        replies: list[Received] = []
        try:
            async for reply in self._client.request_many(subject, payload, timeout=self._settings.request_timeout):
                replies.append(reply)
                if reply.status is not None:
                    return replies
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error
        raise NoAnswer(f"{subject}: {len(replies)} replies and no end of the batch")

    async def api(self, endpoint: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JetStream API call (``$JS.API.<endpoint>``). `ApiError` for the server's no, `NoAnswer` for silence."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.request(f"$JS.API.{endpoint}", payload)
        answer: dict[str, Any] = json.loads(reply.payload)
        if "error" in answer:
            raise ApiError(answer["error"])
        return answer

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, reply: str | None = None
    ) -> None:
        """Hand a core message to the connection; returns when it is buffered. `Unreachable` when closed."""
        try:
            await self._client.publish(subject, payload, headers=headers, reply=reply)
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error

    async def flush(self) -> None:
        """Return when the server has read everything sent so far. `NoAnswer` when it does not say so in time."""
        try:
            await self._client.flush(self._settings.request_timeout)
        except natsio.NATSError as error:
            raise NoAnswer(f"the server did not confirm what was sent: {error}") from error

    def listen(self, subject: str, heard: Callable[[Received], None]) -> Listening:
        """Call ``heard`` for each message on ``subject`` from now on, in order. Survives reconnects.

        `Unreachable` when closed.
        """
        try:
            return Listening(self._client.subscribe(subject, cb=heard, pending_msgs_limit=-1, pending_bytes_limit=-1))
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error

    async def close(self) -> None:
        """Send what is buffered and close. Safe to call twice."""
        self._closing = True
        if self._budget is not None:
            self._budget.cancel()
        await self._client.close()
        await self._watch
        if not self.lost.done():
            self.lost.cancel()

    async def _follow(self) -> None:
        async for event in self._client.events():
            match event:
                case natsio.Disconnected() if not self._closing:
                    loop = asyncio.get_running_loop()
                    self._budget = self._budget or loop.call_later(self._settings.reconnect, self._give_up)
                case natsio.Reconnected():
                    if self._budget is not None:
                        self._budget.cancel()
                        self._budget = None
                    for listener in self.on_reconnect:
                        listener()
                case natsio.Closed():
                    self._give_up()
                case _:
                    pass

    def _give_up(self) -> None:
        if self._closing or self.lost.done():
            return
        where = ", ".join(_without_password(url) for url in self._settings.servers)
        self.lost.set_exception(
            Unreachable(
                f"NATS at {where} stayed away for {self._settings.reconnect:g} s; nothing that was acknowledged is "
                "lost. Start the server again and restart this process (TIELINE_RECONNECT sets how long to wait)"
            )
        )

    def _gone(self, error: Exception) -> Unreachable:
        return Unreachable(f"the NATS connection is closed: {error}")


def _tls(settings: ConnectionSettings) -> natsio.TLSConfig | None:
    files = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    if not any(files):
        return None
    return natsio.TLSConfig(cafile=settings.tls_ca, certfile=settings.tls_certificate, keyfile=settings.tls_key)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
