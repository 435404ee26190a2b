"""Where a pod runs in production, as data; and its servers. Each renderer turns it into files of its own kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tieline.errors import BadSettings
from tieline.pod import Pod
from tieline.server.config import OperatorMode, Routes, ServerConfig, Tls, render
from tieline.services.supervisor import Process

__all__ = [
    "HEALTH",
    "METRICS",
    "MONITOR",
    "PORT",
    "RENDERED",
    "ROUTES",
    "USER",
    "File",
    "Servers",
    "Site",
    "confs",
    "names_of",
]

PORT, MONITOR, ROUTES, METRICS, HEALTH = 4222, 8222, 6222, 7777, 8080
USER = 10001
"""Who containers run as, unless told: nobody that the machine knows."""

_TAKEN = ("nats", "apply", "operator")
_FOR_STREAMS = 0.8  # of a disk; the rest is for snapshots, indexes and what is being compacted
RENDERED = "Rendered by `tieline deploy`"
"""What the files that are ours say at their beginning."""

_HEADER = f"""\
# {RENDERED}; render again rather than edit.
#
# sync_interval: "always" has each message on the disk before its publisher is told that it is stored. Any duration
# is faster and loses acknowledged messages when the power fails; on a cluster, when it fails everywhere at once.
# Raft traffic of an account travels in the account (cluster_traffic: owner): see `tieline doctor`.
# The monitoring pages (http) have no authentication: let nobody but Prometheus and probes reach them.
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written. A ``secret`` is readable by its owner alone."""

    text: str
    secret: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The NATS servers: one, or three of a cluster."""

    count: int = 3
    hosts: tuple[str, ...] = ()
    """How they reach each other and clients reach them, where the kind of deployment does not say it."""

    storage: int = 20 * 10**9
    """Bytes of the disk of each."""

    sync: str = "always"
    tls: bool = False
    """Certificates ``tls.crt``, ``tls.key`` and ``ca.crt`` lie in the folder that the files name."""

    def __post_init__(self) -> None:
        if self.count not in (1, 3):
            raise BadSettings(f"--servers {self.count}: one server, or three for a cluster")
        if self.hosts and len(self.hosts) != self.count:
            raise BadSettings(f"--hosts names {len(self.hosts)} and there are {self.count} servers: one name each")
        if self.storage < 10**8:
            raise BadSettings(f"--storage {self.storage}: a server needs at least 100MB of disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A pod of a tenant, its processes and what they run on."""

    pod: Pod
    reference: str
    """As commands name the pod: ``module`` or ``module:attribute``."""

    processes: tuple[Process, ...]
    operator: OperatorMode
    account: str
    """The tenant's public key: what the server calls its account."""

    credentials: Mapping[str, str]
    """The text of credentials by process, and of ``operator``, who makes the streams."""

    servers: Servers
    image: str
    """Of the pod's processes."""

    nats_image: str

    def __post_init__(self) -> None:
        for process in self.processes:
            if process.name in _TAKEN:
                raise BadSettings(f"{process.name} of pod {self.pod.name} is what is deployed beside it too; rename it")


def names_of(servers: Servers) -> list[str]:
    """What the servers are called."""
    return [f"nats-{number}" for number in range(servers.count)]


def confs(
    servers: Servers, operator: OperatorMode | None, hosts: tuple[str, ...], data: Path, tls: Path
) -> dict[str, str]:
    """The nats.conf of each server by its name. ``hosts``: how they reach each other; ``data`` and ``tls``: folders."""
    found = {}
    for name, host in zip(names_of(servers), hosts, strict=True):
        others = tuple(f"{other}:{ROUTES}" for other in hosts if other != host)
        config = ServerConfig(
            data=data,
            host="0.0.0.0",
            port=PORT,
            monitor_port=MONITOR,
            sync=servers.sync,
            server_name=name,
            embedded=False,
            max_file_store=int(servers.storage * _FOR_STREAMS),
            tls=Tls(certificate=tls / "tls.crt", key=tls / "tls.key", ca=tls / "ca.crt") if servers.tls else None,
            routes=Routes(cluster="tieline", port=ROUTES, others=others) if others else None,
            operator=operator,
        )
        found[name] = f"{_HEADER}\n{render(config)}"
    return found
