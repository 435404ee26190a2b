"""Settings: a frozen tree, checked when made. The environment is read here and nowhere else."""

import difflib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, time
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tieline.declared.arguments import Seconds, positive, seconds, whole
from tieline.errors import BadDeclaration, BadSettings

__all__ = ["Breaker", "ConnectionSettings", "Limits", "PagerSettings", "PublishSettings", "Quiet", "Rate", "Settings"]


log = logging.getLogger("tieline.settings")

type Signatures = Literal["off", "sign", "require"]
type LogLevel = Literal["debug", "info", "warning", "error"]
type LogFormat = Literal["text", "json"]

_SINGLE = (
    "TIELINE_METRICS_PORT",
    "TIELINE_METRICS_HOST",
    "TIELINE_HEALTH_PORT",
    "TIELINE_SIGNATURES",
    "TIELINE_SIGNERS",
    "TIELINE_MODEL",
    "TIELINE_JOURNAL_KEEP",
    "TIELINE_LOG",
    "TIELINE_LOG_FORMAT",
)
_GROUPS = ("connection", "publish", "pager")
# What Kubernetes injects for each Service, and the value of <SERVICE>_PORT.
_LINK_NAME = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+:\d+\Z")


LEAST_JOURNAL_KEEP = 600.0
"""Seconds: the duplicate window. A delivery whose acknowledgement was lost comes again long before."""


def _at_least(name: str, value: float, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadSettings(f"{name} must be a number, not {value!r}")
    if not value >= least:
        raise BadSettings(f"{name} must be at least {least:g}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one agent may hold and how long it may take. Durations are seconds, or text such as ``"5m"``."""

    concurrency: int = 8  # handlers at once, in each process; deliveries held never exceed it
    attempts: int = 5  # runs that failed, or died alone, before the message is a dead letter
    timeout: Seconds[float] = Seconds(900.0, BadSettings)  # one run of a handler; after it the run counts as failed
    ack_wait: Seconds[float] = Seconds(30.0, BadSettings)  # until the server delivers again when a process dies
    first_retry: Seconds[float] = Seconds(1.0, BadSettings)  # after the first failure; each further wait is 4 x longer
    longest_retry: Seconds[float] = Seconds(60.0, BadSettings)
    drain: Seconds[float] = Seconds(20.0, BadSettings)  # how long running handlers may finish after SIGTERM

    def __post_init__(self) -> None:
        whole("limits.concurrency", self.concurrency, 1, BadSettings)
        whole("limits.attempts", self.attempts, 1, BadSettings)
        _at_least("limits.timeout", self.timeout, 0.001)
        _at_least("limits.ack_wait", self.ack_wait, 1)
        _at_least("limits.longest_retry", self.longest_retry, self.first_retry)


@dataclass(frozen=True)
class Rate:
    """At most ``calls`` in ``per`` seconds, over all processes that run the tool. ``Rate(600, 60)`` is ten a second.

    Calls are spaced evenly; after a pause up to ``burst`` of them may start at once, so that no ``per`` seconds see
    more than ``calls + burst - 1``.
    """

    calls: float
    per: Seconds[float] = Seconds(1.0, BadSettings)
    burst: int = 1

    def __post_init__(self) -> None:
        _at_least("rate.calls", self.calls, 0)
        if not self.calls > 0:
            raise BadSettings(f"rate.calls must be more than 0, not {self.calls!r}")
        _at_least("rate.per", self.per, 0.001)
        whole("rate.burst", self.burst, 1, BadSettings)

    @property
    def interval(self) -> float:
        """Seconds from one call to the next."""
        return self.per / self.calls


@dataclass(frozen=True)
class Breaker:
    """After ``failures`` failed calls in a row, a tool is left alone for ``reset`` seconds; then one call is tried.

    Each process judges for itself. Calls are handed back meanwhile and do not lose an attempt.
    """

    failures: int = 5
    reset: Seconds[float] = Seconds(30.0, BadSettings)

    def __post_init__(self) -> None:
        whole("breaker.failures", self.failures, 1, BadSettings)
        _at_least("breaker.reset", self.reset, 0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """How a process reaches NATS. ``reconnect`` is how many seconds a lost server may stay away.

    ``tls_ca`` is a PEM file of who may vouch for the servers; ``tls_certificate`` and ``tls_key`` show who we are,
    where they ask. Any of them, or a URL ``tls://…``, makes every connection encrypted. The files are read at each
    (re)connect, so new ones are taken up without a restart.
    """

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    credentials: Path | None = None
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0
    request_timeout: float = 5.0
    reconnect: float = 120.0
    ping_interval: float = 5.0  # two missed pings: a frozen server is noticed in 10 to 15 s, not in minutes

    def __post_init__(self) -> None:
        if not self.servers:
            raise BadSettings("connection.servers is empty; give at least one nats:// URL")
        for url in self.servers:
            if "://" not in url:
                shown = url.rpartition("@")[2]  # what stands before may be a password
                raise BadSettings(f"connection.servers: {shown!r} is not a URL; write nats://host:port")
        if self.tls_key is not None and self.tls_certificate is None:
            raise BadSettings(f"connection.tls_key {str(self.tls_key)!r} has no tls_certificate beside it; give both")
        for name in ("tls_ca", "tls_certificate", "tls_key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise BadSettings(f"connection.{name}: there is no file {str(path)!r}")
        for name in ("connect_timeout", "request_timeout", "reconnect", "ping_interval"):
            _at_least(f"connection.{name}", getattr(self, name), 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSettings:
    """How long `publish` keeps trying. ``patience`` must stay below the streams' duplicate window (10 min)."""

    patience: float = 30.0
    ack_timeout: float = 3.0  # one try; a try that timed out may still have been stored, the id absorbs it

    def __post_init__(self) -> None:
        _at_least("publish.patience", self.patience, 0.1)
        _at_least("publish.ack_timeout", self.ack_timeout, 0.05)
        if self.patience > 540:
            raise BadSettings(
                f"publish.patience must be under 540 s, the duplicate window less a minute: {self.patience}"
            )


_QUIET = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?: (\S+))?\Z")


@dataclass(frozen=True, slots=True)
class Quiet:
    """Hours of every day, such as ``22:00-07:00 Europe/Berlin``; in UTC where no zone is named."""

    start: time
    end: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> "Quiet":
        """`BadSettings` where it cannot be read."""
        found = _QUIET.match(text.strip())
        try:
            if found is None:
                raise ValueError(text)
            hours = [time(int(found[at]), int(found[at + 1])) for at in (1, 3)]
            return cls(hours[0], hours[1], ZoneInfo(found[5] or "UTC"))
        except (ValueError, ZoneInfoNotFoundError):
            raise BadSettings(f"pager.quiet={text!r} is not like '22:00-07:00 Europe/Berlin'") from None

    def holds(self, now: float) -> bool:
        """Whether ``now`` (seconds since 1970) is within them."""
        clock = datetime.fromtimestamp(now, self.zone).time()
        if self.start <= self.end:
            return self.start <= clock < self.end
        return clock >= self.start or clock < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerSettings:
    """Whom to tell of dead letters. Without a token and a webhook, the log.

    ``slack_app_token`` lets buttons work. ``quiet`` is when nothing new is told (see `Quiet`), empty for never.
    """

    slack_token: str = field(default="", repr=False)
    slack_app_token: str = field(default="", repr=False)
    slack_channel: str = ""
    slack_url: str = "https://slack.com/api/"
    webhook: str = field(default="", repr=False)  # such URLs are secrets
    webhook_secret: str = field(default="", repr=False)
    quiet: str = ""
    every: float = 5.0  # seconds between looks

    def __post_init__(self) -> None:
        _at_least("pager.every", self.every, 0.05)
        if self.slack_token and not self.slack_channel:
            raise BadSettings("pager.slack_token has no slack_channel beside it; give the id of a channel, C…")
        if self.slack_app_token and not self.slack_token:
            raise BadSettings("pager.slack_app_token has no slack_token beside it; give the bot's token, xoxb-…")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise BadSettings("pager.webhook is no http:// or https:// URL")
        if self.quiet:
            Quiet.parse(self.quiet)

    @property
    def quiet_hours(self) -> Quiet | None:
        """When nothing new is told."""
        return Quiet.parse(self.quiet) if self.quiet else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a process may be told. Defaults are safe; `from_environment` reads ``TIELINE_*``."""

    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    publish: PublishSettings = field(default_factory=PublishSettings)
    pager: PagerSettings = field(default_factory=PagerSettings)
    audit: bool = True  # facts go to CALL_AUDIT
    large: int = 512 * 1024  # bytes; a payload or result over it travels in the object store
    metrics_port: int | None = 7777  # where `tieline up` and `tieline metrics` serve; 0 is a free one, None is nowhere
    metrics_host: str = "127.0.0.1"  # where they listen; 0.0.0.0 is all addresses
    health_port: int | None = None  # where a process answers probes, on all addresses; 0 is a free one, None is nowhere
    signatures: Signatures = "off"  # of messages and tool calls; see the guide on security
    signers: tuple[str, ...] = ()  # public keys that may sign JWTs of users beside our own's, while keys are rotated
    model: str | None = None  # what `call.model` asks where none is named, as pydantic-ai names it: provider:model

    journal_keep: float = 86_400.0  # seconds for which the journal of an ended conversation is kept
    log: LogLevel = "info"  # of Tieline's own loggers; those of other libraries are left alone
    log_format: LogFormat = "text"  # text: a line for people; json: one object a line

    def __post_init__(self) -> None:
        _at_least("large", self.large, 1024)
        _at_least("journal_keep", self.journal_keep, LEAST_JOURNAL_KEEP)
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise BadSettings(f"metrics_port must be between 0 and 65535, not {self.metrics_port!r}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings that ``TIELINE_*`` variables give, over the defaults.

        ``TIELINE_SERVERS`` is comma-separated, durations read like ``"30s"``. Raises `BadSettings` for a known variable
        with a value that cannot be used. An unknown ``TIELINE_*`` variable is logged once as a warning that names the
        nearest setting; the variables that Kubernetes injects for a Service are ignored.
        """
        given = _without_service_links(os.environ if environ is None else environ)
        settings = cls()
        changes: dict[str, Any] = {}
        for group in _GROUPS:
            inner = getattr(settings, group)
            found = {f.name: given.pop(name) for f in fields(inner) if (name := _variable(group, f.name)) in given}
            values = {name: _parsed(group, name, text, getattr(inner, name)) for name, text in found.items()}
            try:
                changes[group] = replace(inner, **values)
            except BadSettings as error:
                raise BadSettings(f"{error} (from {', '.join(_variable(group, name) for name in values)})") from None
        if "TIELINE_AUDIT" in given:
            changes["audit"] = _truth("TIELINE_AUDIT", given.pop("TIELINE_AUDIT"))
        if "TIELINE_LARGE" in given:
            changes["large"] = _bytes("TIELINE_LARGE", given.pop("TIELINE_LARGE"))
        if "TIELINE_METRICS_PORT" in given:
            changes["metrics_port"] = _port("TIELINE_METRICS_PORT", given.pop("TIELINE_METRICS_PORT"))
        if "TIELINE_JOURNAL_KEEP" in given:
            text = given.pop("TIELINE_JOURNAL_KEEP")
            changes["journal_keep"] = positive("TIELINE_JOURNAL_KEEP", text, BadSettings)
        if "TIELINE_METRICS_HOST" in given:
            changes["metrics_host"] = given.pop("TIELINE_METRICS_HOST")
        if "TIELINE_HEALTH_PORT" in given:
            changes["health_port"] = _port("TIELINE_HEALTH_PORT", given.pop("TIELINE_HEALTH_PORT"))
        if "TIELINE_SIGNATURES" in given:
            changes["signatures"] = _signatures(given.pop("TIELINE_SIGNATURES"))
        if "TIELINE_SIGNERS" in given:
            changes["signers"] = tuple(key.strip() for key in given.pop("TIELINE_SIGNERS").split(",") if key.strip())
        if "TIELINE_MODEL" in given:
            changes["model"] = given.pop("TIELINE_MODEL") or None
        if "TIELINE_LOG" in given:
            changes["log"] = _one_of("TIELINE_LOG", given.pop("TIELINE_LOG"), get_args(LogLevel.__value__))
        if "TIELINE_LOG_FORMAT" in given:
            text = given.pop("TIELINE_LOG_FORMAT")
            changes["log_format"] = _one_of("TIELINE_LOG_FORMAT", text, get_args(LogFormat.__value__))
        for unknown in sorted(given):
            _warn_unknown(unknown)
        return replace(settings, **changes)


def _without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    """The ``TIELINE_*`` variables without those that Kubernetes injects for each Service of the namespace.

    A Service ``tieline`` becomes ``TIELINE_SERVICE_HOST``, ``TIELINE_PORT``, ``TIELINE_PORT_4222_TCP_ADDR`` and so on.
    None of these is a setting. A Service ``tieline-metrics`` becomes ``TIELINE_METRICS_PORT=tcp://…``, which is one: it
    is ignored only if ``TIELINE_METRICS_SERVICE_HOST`` shows where it comes from.
    """
    known = frozenset(variables())

    def is_link(name: str, value: str) -> bool:
        if name.endswith("_PORT") and _LINK_VALUE.match(value):
            return name not in known or f"{name.removesuffix('_PORT')}_SERVICE_HOST" in environ
        return name not in known and _LINK_NAME.fullmatch(name) is not None

    given = {name: value for name, value in environ.items() if name.startswith("TIELINE_")}
    return {name: value for name, value in given.items() if not is_link(name, value)}


@cache  # once in each process: the environment is read for each connection
def _warn_unknown(variable: str) -> None:
    [nearest] = difflib.get_close_matches(variable, variables(), n=1, cutoff=0.0)
    log.warning("%s is not a setting and has no effect; the nearest setting is %s", variable, nearest)


def variables() -> list[str]:
    """The environment variables that `Settings.from_environment` knows, in order."""
    defaults = Settings()
    inner = [_variable(group, f.name) for group in _GROUPS for f in fields(getattr(defaults, group))]
    return [*inner, "TIELINE_AUDIT", "TIELINE_LARGE", *_SINGLE]


def _variable(group: str, name: str) -> str:
    return f"TIELINE_{name.upper()}" if group == "connection" else f"TIELINE_{group.upper()}_{name.upper()}"


def _parsed(group: str, name: str, text: str, default: object) -> object:
    variable = _variable(group, name)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, float):
        try:
            return seconds(text) if text[-1:].isalpha() else float(text)
        except (BadDeclaration, ValueError):
            raise BadSettings(f"{variable}={text!r} is not a duration; write it like 30 or '30s'") from None
    return text if isinstance(default, str) else Path(text)


def _bytes(variable: str, text: str) -> int:
    if not text.isdecimal():
        raise BadSettings(f"{variable}={text!r} is not a number of bytes")
    return int(text)


def _port(variable: str, text: str) -> int | None:
    if text.lower() == "off":
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise BadSettings(f"{variable}={text!r} is no port; give a number up to 65535, 0 for a free one, or off")
    return int(text)


def _one_of(variable: str, text: str, allowed: tuple[str, ...]) -> str:
    if text.lower() not in allowed:
        raise BadSettings(f"{variable}={text!r} is not one of {', '.join(allowed)}")
    return text.lower()


def _signatures(text: str) -> Signatures:
    match text:
        case "off" | "sign" | "require":
            return text
    raise BadSettings(f"TIELINE_SIGNATURES={text!r} is none of off, sign and require")


def _truth(variable: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise BadSettings(f"{variable}={text!r} is neither on nor off")
