"""What the embedded server is told: a frozen value, and its text in nats.conf syntax."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tieline.errors import BadSettings

__all__ = ["OperatorMode", "Routes", "ServerConfig", "Tls", "render"]

_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+\Z")
_HIGHEST_PORT = 65535
_MAX_CONTROL_LINE = 32 * 1024  # bytes. A client sends its JWT in one line, with all that it may do; 4 KiB is not enough
_LOG_LIMIT = 32 * 1024 * 1024
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """How a server finds the others of its cluster. All of them have the same ``cluster`` name."""

    cluster: str
    port: int
    """For the routes of the others; not 0, because they must know it."""

    others: tuple[str, ...]
    """``host:port`` of each other server."""

    account: str = "TIELINE"
    """Where clients without credentials are. Its Raft traffic travels in it (``cluster_traffic: owner``), on routes of
    its own, and not in the system account beside everyone's."""

    def __post_init__(self) -> None:
        if not 0 < self.port <= _HIGHEST_PORT:
            raise BadSettings(f"routes.port must be between 1 and {_HIGHEST_PORT}, not {self.port}")
        for name in ("cluster", "account"):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", getattr(self, name)):
                raise BadSettings(f"routes.{name} must be letters, digits, - and _, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates, as PEM files that the server reads when it starts and when it reloads."""

    certificate: Path
    key: Path
    ca: Path | None = None
    """Who may vouch for the other servers of a cluster, and for clients where ``verify`` is set."""

    verify: bool = False
    """Clients must show a certificate too."""

    def __post_init__(self) -> None:
        if self.verify and self.ca is None:
            raise BadSettings("tls.verify needs tls.ca: the certificates of clients are checked by it")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorMode:
    """The server lets in only who shows a user's JWT of an account that its operator signed: tenants are accounts."""

    jwt: str
    """The operator's own."""

    system_account: str
    """The public key of the account that may tell it of others."""

    accounts: Mapping[str, str] = field(repr=False)
    """JWTs of accounts by public key, known from the start; more are told while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One nats-server with JetStream. Raises `BadSettings` for a value the server would refuse.

    ``sync`` says when an acknowledged message is on the disk. ``"always"``: before the PubAck; in every trial a power
    cut lost nothing. A duration (``"100ms"``, ``"10s"``, ``"2m"``) is how long the server may put the fsync off. It is
    faster (on one node about 30,000 messages/s against 4,000) and risks what was acknowledged: measured on one node,
    a power cut lost up to 0.7 % of a short run with ``"100ms"`` and once a durable consumer, up to 15 % with ``"1s"``,
    and everything with ``"2m"``, the server's own default, in which a stream younger than 7 s was itself gone. No
    duration is safe against a power cut, however short. All of them survive the death of the process alone.
    """

    data: Path
    """Holds the streams, the log ``nats.log``, the rendered ``nats.conf`` and the lock. Made if it is not there."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one, which a restart keeps."""

    monitor_port: int | None = None
    """0: a free one, which a restart keeps. None: no monitoring endpoint."""

    sync: str = "always"
    server_name: str = "tieline"
    embedded: bool = True
    """It tells its ports and its log in files beside its data, for the process that started it."""

    max_payload: int = 1024 * 1024
    """Bytes of one message, headers included."""

    max_file_store: int | None = None
    """Bytes all streams may take together. None: three quarters of what the disk has free at the start."""

    max_buffered_msgs: int = 10_000
    """Messages a stream may hold in memory before they are stored; one more is answered 429.

    A tenth of the server's default: with an fsync a message 100,000 are half a minute of disk, so publishers would
    time out, not knowing what was stored. 10,000 are under 3 s, and the 429 says plainly that nothing was.
    """

    max_buffered_size: int = 64 * 1024 * 1024
    """The same limit in bytes."""

    max_consumers: int = 20_000
    """Consumers one stream may have. The server's default since 2.15 is 1,000, one agent or reader each."""

    tls: Tls | None = None
    """Every client connects encrypted, and the routes of a cluster are; None: in the clear, right for loopback."""

    routes: Routes | None = None
    """The rest of the cluster; None for a server of its own."""

    operator: OperatorMode | None = None
    """Tenants; None: whoever reaches the port is let in."""

    def __post_init__(self) -> None:
        _check_port("port", self.port)
        if self.monitor_port is not None:
            _check_port("monitor_port", self.monitor_port)
            if self.port and self.port == self.monitor_port:
                raise BadSettings(f"server.monitor_port is the client port {self.port} too; give another, or 0")
        if self.sync != "always" and not _DURATION.match(self.sync):
            raise BadSettings(f'server.sync must be "always" or a duration such as "2m" or "100ms", not {self.sync!r}')
        if not self.server_name or re.search(r"\s", self.server_name):
            raise BadSettings(f"server.server_name must be a name without spaces, not {self.server_name!r}")
        for name in ("max_payload", "max_file_store", "max_buffered_msgs", "max_buffered_size", "max_consumers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadSettings(f"server.{name} must be at least 1, not {value}")


def _check_port(name: str, port: int) -> None:
    if not 0 <= port <= _HIGHEST_PORT:
        raise BadSettings(f"server.{name} must be 0 (a free one) or up to {_HIGHEST_PORT}, not {port}")


def render(config: ServerConfig) -> str:
    """``config`` as the text of a nats.conf. Pure: the same value gives the same text, and nothing is looked up."""
    lines = [*_top(config), "", "jetstream {", *(f"  {line}" for line in _jetstream(config)), "}", ""]
    if config.tls is not None:
        lines += ["tls {", *(f"  {line}" for line in _tls(config.tls)), "}", ""]
    if config.routes is not None:
        lines += [*_cluster(config, config.routes), ""]
        if config.operator is None:
            lines += [*_one_account(config.routes), ""]
    if config.operator is not None:
        lines += [*_operator(config.operator, config.data / "accounts"), ""]
    return "\n".join(lines)


def _top(config: ServerConfig) -> list[str]:
    lines = [
        f"server_name: {_quoted(config.server_name)}",
        f"host: {_quoted(config.host)}",
        f"port: {_port(config.port)}",
        f"max_payload: {config.max_payload}",
        f"max_control_line: {_MAX_CONTROL_LINE}",
    ]
    if config.embedded:
        lines += [
            f"ports_file_dir: {_quoted(str(config.data))}",
            f"log_file: {_quoted(str(config.data / 'nats.log'))}",
            f"logfile_size_limit: {_LOG_LIMIT}",
            "logfile_max_num: 3",
        ]
    else:
        lines.append('lame_duck_duration: "30s"')  # asked to, it gives up leadership and sends clients to the others
    if config.monitor_port is not None:
        host = f"[{config.host}]" if ":" in config.host else config.host
        lines.append(f"http: {_quoted(f'{host}:{_port(config.monitor_port)}')}")
    return lines


def _jetstream(config: ServerConfig) -> list[str]:
    lines = [
        f"store_dir: {_quoted(str(config.data))}",
        f"sync_interval: {_quoted(config.sync)}",
        f"max_buffered_msgs: {config.max_buffered_msgs}",
        f"max_buffered_size: {config.max_buffered_size}",
        f"limits {{ default_max_consumers: {config.max_consumers} }}",
    ]
    if config.max_file_store is not None:
        lines.append(f"max_file_store: {config.max_file_store}")
    return lines


def _tls(tls: Tls) -> list[str]:
    lines = [f"cert_file: {_quoted(str(tls.certificate.absolute()))}", f"key_file: {_quoted(str(tls.key.absolute()))}"]
    if tls.ca is not None:
        lines.append(f"ca_file: {_quoted(str(tls.ca.absolute()))}")
    if tls.verify:
        lines.append("verify: true")
    return lines


def _cluster(config: ServerConfig, routes: Routes) -> list[str]:
    others = ", ".join(_quoted(f"nats-route://{other}") for other in routes.others)
    # Routes are verified both ways: whoever may speak as a server may read everything.
    tls = [] if config.tls is None else ["  tls {", *(f"    {line}" for line in _tls(config.tls)), "  }"]
    return [
        "cluster {",
        f"  name: {_quoted(routes.cluster)}",
        f"  host: {_quoted(config.host)}",
        f"  port: {routes.port}",
        f"  routes: [{others}]",
        *([] if config.operator is not None else [f"  accounts: [{_quoted(routes.account)}]"]),
        *tls,
        "}",
    ]


def _one_account(routes: Routes) -> list[str]:
    account = _quoted(routes.account)
    return [
        "accounts {",
        '  "SYS" { users: [] }',
        f"  {account} {{",
        "    jetstream { max_file: -1, max_mem: -1, cluster_traffic: owner }",
        '    users: [{ user: "local", password: "" }]',
        "  }",
        "}",
        'system_account: "SYS"',
        'no_auth_user: "local"',
    ]


def _operator(mode: OperatorMode, folder: Path) -> list[str]:
    return [
        f"operator: {_quoted(mode.jwt)}",
        f"system_account: {_quoted(mode.system_account)}",
        f'resolver {{ type: full, dir: {_quoted(str(folder.absolute()))}, allow_delete: true, interval: "2m" }}',
        "resolver_preload {",
        *(f"  {_quoted(account)}: {_quoted(jwt)}" for account, jwt in sorted(mode.accounts.items())),
        "}",
    ]


def _port(port: int) -> int:
    return port or -1  # the server's own word for "a free one"


def _quoted(text: str) -> str:
    """A string that no value can end early, and in which ``$NAME`` is not a variable."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'
