"""One NATS connection: requests, sends, listening, and an honest word when it is gone."""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import natsio

from tieline.errors import BadSettings, Unreachable
from tieline.records.reading import read_header, read_integer, read_object, read_text
from tieline.settings import ConnectionSettings
from tieline.wire.alone import Alone
from tieline.wire.credentials import read_credentials
from tieline.wire.parsing import MAX_CONTROL_LINE, read_any_subject
from tieline.wire.unreadable import Unreadable

__all__ = ["ApiError", "Connection", "Forbidden", "Listening", "NoAnswer", "Received", "Unsendable", "headers_of"]

log = logging.getLogger("tieline.connection")

type Received = natsio.Msg

_API = "$JS.API."
_STORED_IN = "Nats-Stream"
_OF_THE_SERVER = (_STORED_IN, "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp")
_NO_LEADER = 10008  # "JetStream system temporarily unavailable": the servers have no leader for now
_RECONNECT_FIRST = 0.1  # seconds; a restarted server is met within this and the jitter
_RECONNECT_LAST = 2.0
_LAST_WORK = 1.0  # seconds that closing waits for `Connection.before_close`
_VIOLATION = re.compile(r'Permissions Violation for (Publish|Subscription) to "(\S+)"', re.IGNORECASE)


def headers_of(received: Received) -> dict[str, str]:
    """The headers of a message, fit to be sent again; empty where it has none. The first value of each name counts.

    Of the headers that the server adds to what it reads from a stream, the last one counts: the sender may have written
    some of the same name.
    """
    headers = received.headers
    if headers is None:
        return {}
    found = {name: read_header(headers[name]) for name in headers}
    if _STORED_IN in found:
        found |= {name: headers.get_all(name)[-1] for name in _OF_THE_SERVER if name in headers}
    return found


class NoAnswer(Exception):
    """A request got no reply in time, or nobody listens. Not a "no": what was asked may still happen."""


class Unsendable(NoAnswer):
    """The request cannot be sent: its subject or a header is not one that NATS carries. It will never happen."""


class Forbidden(NoAnswer):
    """Our credentials do not allow us to publish there. The server says so at once and answers nothing."""


class ApiError(Exception):
    """The JetStream API answered with an error. Go by ``err_code`` (ADR-7), never by ``code``."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        self.code = read_integer(error.get("code")) or 0
        self.err_code = read_integer(error.get("err_code")) or 0
        self.description = read_text(error.get("description")) or "unknown error"
        super().__init__(f"{self.description} (err_code {self.err_code})")


class _Asking:
    """One request on its way. The server's no to a publish names the subject only, so all that wait for one hear it.

    Like `asyncio.timeout`, but raises `Forbidden`.
    """

    __slots__ = ("_all", "_before", "_forbidden", "_subject", "_task")

    def __init__(self, everyone: dict[str, list["_Asking"]], subject: str) -> None:
        self._all = everyone
        self._subject = subject
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()
        self._forbidden = False

    def forbid(self) -> None:
        if self._task is not None and not self._forbidden:
            self._forbidden = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._all.setdefault(self._subject, []).append(self)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        others = self._all[self._subject]
        others.remove(self)
        if not others:
            del self._all[self._subject]
        if self._forbidden and self._task is not None:
            left = self._task.uncancel()
            if kind is asyncio.CancelledError and left <= self._before:
                raise Forbidden(f"{self._subject}: the credentials of this process do not allow it") from None


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

    Reconnects are seen by ``on_reconnect`` listeners, and by ``on_forbidden`` ones each subject that our credentials do
    not let us publish to or listen on. `lost` is done with `Unreachable` when it will not come back,
    so a process can end with an error instead of idling for ever.
    """

    def __init__(self, client: natsio.Client, settings: ConnectionSettings) -> None:
        self._client = client
        self._settings = settings
        self._budget: asyncio.TimerHandle | None = None
        self._closing = False
        self._refused = ""  # the server's words, where it does not take our credentials
        several = len(settings.servers) > 1 or len(client.server_info.get("connect_urls") or ()) > 1
        self.alone = Alone(client.force_reconnect if several else None)
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unreadable = Unreadable(self.send)
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_forbidden: list[Callable[[str], None]] = []
        self.before_close: list[Callable[[], Awaitable[object]]] = []  # work that `close` finishes; must not raise
        self._asking: dict[str, list[_Asking]] = {}  # by subject: the server names that of what it does not allow
        self._told: set[str] = set()  # what was not allowed and is in the log
        self._watch = asyncio.create_task(self._follow(), name="tieline-connection")

    @classmethod
    async def open(cls, settings: ConnectionSettings, name: str) -> "Connection":
        """A connection called ``name`` in the server's lists. `Unreachable` names the servers that did not answer."""
        inbox = _inbox(settings)
        options = natsio.ConnectOptions(
            servers=settings.servers,
            name=name,
            connect_timeout=settings.connect_timeout,
            request_timeout=settings.request_timeout,
            inbox_prefix=inbox,
            credentials=settings.credentials,
            tls=_tls(settings),
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_FIRST,
            reconnect_time_wait_max=_RECONNECT_LAST,
            ping_interval=settings.ping_interval,
            permission_err_on_subscribe=True,
            max_control_line=MAX_CONTROL_LINE,
        )
        read_any_subject()
        client = natsio.Client(options)
        try:
            async with asyncio.timeout(settings.connect_timeout * max(2, len(settings.servers))):
                await client.connect()
        except (natsio.NATSError, TimeoutError, OSError) as error:
            await client.close()
            where = ", ".join(_without_password(url) for url in settings.servers)
            if "control line" in str(error):
                too_long = f"the server at {where} refuses {settings.credentials}: longer than its max_control_line; "
                raise BadSettings(f"{too_long}set max_control_line: 32768 in its nats.conf and reload it") from error
            if "nonce" in str(error):
                raise BadSettings(
                    f"the server at {where} takes no credentials: it is not in operator mode (tieline up POD --tenant "
                    "NAME); leave TIELINE_CREDENTIALS out, or connect to the one that is"
                ) from error
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
        """The one reply to a request. `NoAnswer` where nobody listens or none came, `Forbidden` (at once) where our
        credentials do not allow it; `Unreachable` when closed."""
        try:
            with _Asking(self._asking, subject):
                reply = await self._client.request(subject, payload, timeout=wait, headers=headers)
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error
        except (natsio.NoRespondersError, natsio.TimeoutError, natsio.ReconnectBufExceededError) as error:
            self.alone.unanswered()
            raise NoAnswer(str(error)) from error
        except (natsio.ConfigError, natsio.BadHeadersError, UnicodeError) as error:
            raise Unsendable(f"{read_text(subject, 200)}: {error}") from error
        if not subject.startswith(_API):
            self.alone.answered()
        return reply

    async def request_all(self, subject: str, payload: bytes) -> list[Received]:
        """All replies of a batched direct get, up to the end-of-batch status (ADR-31). `NoAnswer` where none came."""
        replies: list[Received] = []
        try:
            with _Asking(self._asking, subject):
                async for reply in self._client.request_many(subject, payload, timeout=self._settings.request_timeout):
                    replies.append(reply)
                    if reply.status is not None:
                        return replies
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error
        except natsio.ReconnectBufExceededError as error:
            raise NoAnswer(str(error)) from error
        raise NoAnswer(f"{subject}: {len(replies)} replies and no end of the batch")

    async def api(self, endpoint: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A JetStream API call (``$JS.API.<endpoint>``). `ApiError` for the server's no, `NoAnswer` for silence, and
        where the servers have no leader to ask for now."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.request(f"{_API}{endpoint}", payload)
        answer = read_object(reply.payload)
        if answer is None:
            self.unreadable.skip("answer", f"{_API}{endpoint}", "(no stream)", 0)
            raise NoAnswer(f"{_API}{endpoint}: the answer is not a JSON object")
        if "error" not in answer:
            self.alone.answered(answer.get("cluster"))
            return answer
        error = ApiError(answer["error"] if isinstance(answer["error"], dict) else {})
        if error.err_code == _NO_LEADER:
            self.alone.unanswered()
            raise NoAnswer(str(error))
        self.alone.answered()
        raise error

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, reply: str | None = None
    ) -> None:
        """Hand a core message to the connection; returns when it is buffered. `Unreachable` when closed.

        While the server is away for long, what the buffer has no room for is dropped, as core messages may be: an
        acknowledgement that is lost means another delivery.
        """
        try:
            await self._client.publish(subject, payload, headers=headers, reply=reply)
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error
        except natsio.ReconnectBufExceededError:
            log.debug("no room for a message to %s while the server is away", subject)

    async def flush(self) -> None:
        """Return when the server has read everything sent so far. `NoAnswer` when it does not say so in time."""
        try:
            await self._client.flush(self._settings.request_timeout)
        except natsio.NATSError as error:
            raise NoAnswer(f"the server did not confirm what was sent: {error}") from error

    def listen(self, subject: str, heard: Callable[[Received], None], queue: str | None = None) -> Listening:
        """Call ``heard`` for each message on ``subject`` from now on, in order. Survives reconnects. Each message goes
        to one of those who listen with the same ``queue``.

        `Unreachable` when closed.
        """
        try:
            return Listening(
                self._client.subscribe(subject, queue=queue, cb=heard, pending_msgs_limit=-1, pending_bytes_limit=-1)
            )
        except natsio.ConnectionClosedError as error:
            raise self._gone(error) from error

    async def close(self) -> None:
        """Finish `before_close` (for one second at most), send what is buffered and close. Safe to call twice."""
        if self.before_close and self.connected and not self._closing:
            work = [asyncio.ensure_future(last()) for last in self.before_close]
            _, late = await asyncio.wait(work, timeout=_LAST_WORK)
            for task in late:
                task.cancel()
        self._closing = True
        self.unreadable.close()
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
                    self._refused = ""
                    if self._budget is not None:
                        self._budget.cancel()
                        self._budget = None
                    for listener in self.on_reconnect:
                        listener()
                case natsio.ErrorOccurred(
                    error=natsio.AuthorizationViolationError() | natsio.AuthenticationExpiredError() as error
                ):
                    self._refused = str(error)
                case natsio.ErrorOccurred(error=natsio.PermissionsViolationError() as error):
                    self._forbidden(str(error))
                case natsio.Closed():
                    self._give_up()
                case _:
                    pass

    def _forbidden(self, violation: str) -> None:
        """End what waits for an answer that the server will not give, and say once what it does not allow."""
        found = _VIOLATION.search(violation)
        verb, subject = (found[1].lower(), found[2]) if found else ("", violation)
        if subject not in self._told:
            self._told.add(subject)
            verb = "listen on" if verb == "subscription" else "publish to"
            log.error("the credentials of this process do not let it %s %s (tieline creds --explain)", verb, subject)
        for asking in self._asking.get(subject, ()):
            asking.forbid()
        for listener in list(self.on_forbidden):
            listener(subject)

    def _give_up(self) -> None:
        if self._closing or self.lost.done():
            return
        where = ", ".join(_without_password(url) for url in self._settings.servers)
        if self._refused:
            who = self._settings.credentials or "the user in the URL"
            self.lost.set_exception(
                Unreachable(
                    f"NATS at {where} does not take the credentials any more ({self._refused}): {who}. Revoked, ended, "
                    "or signed by a key that was rotated out? New ones: tieline creds; then start this process again"
                )
            )
            return
        self.lost.set_exception(
            Unreachable(
                f"NATS at {where} stayed away for {self._settings.reconnect:g} s; nothing that was acknowledged is "
                "lost. Start the server again and restart this process (TIELINE_RECONNECT sets how long to wait)"
            )
        )

    def _gone(self, error: Exception) -> Unreachable:
        return Unreachable(f"the NATS connection is closed: {error}")


def _inbox(settings: ConnectionSettings) -> str:
    """The inbox that our credentials give us; what the setting says goes before it. `BadSettings` for credentials that
    have ended."""
    if settings.credentials is None:
        return settings.inbox_prefix
    own = read_credentials(settings.credentials)
    if own.expires is not None and own.expires <= time.time():
        ended = datetime.fromtimestamp(own.expires, UTC).isoformat(" ", "seconds")
        raise BadSettings(
            f"the credentials {settings.credentials} of {own.name} ended {ended}; make new ones (tieline creds), and "
            "see that the clock of this machine is right"
        )
    return own.inbox if settings.inbox_prefix == "_INBOX" else settings.inbox_prefix


def _tls(settings: ConnectionSettings) -> natsio.TLSConfig | None:
    files = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    if not any(files):
        return None
    return natsio.TLSConfig(cafile=settings.tls_ca, certfile=settings.tls_certificate, keyfile=settings.tls_key)


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
