"""What each process of a pod is run with, wherever: its command and its environment."""

import math

from tieline.deploy.site import HEALTH, METRICS, PORT, Site
from tieline.services.process import AUDIT
from tieline.services.process import METRICS as METRICS_NAME
from tieline.services.supervisor import Process

__all__ = ["APPLY", "command", "environment", "grace", "may_scale", "urls"]

APPLY = "apply"
"""What makes the streams and consumers, once, before the others start."""


def command(site: Site, name: str) -> list[str]:
    """The command of a process; of `APPLY` too."""
    return ["tieline", "apply", site.reference] if name == APPLY else ["tieline", "run", site.reference, name]


def environment(urls: str, name: str, credentials: str, ca: str | None) -> dict[str, str]:
    """The settings of a process: which servers, who it is, and where it answers. ``ca``: who vouches for servers."""
    found = {"TIELINE_SERVERS": urls, "TIELINE_CREDENTIALS": credentials}
    if ca is not None:
        found["TIELINE_TLS_CA"] = ca
    if name != APPLY:
        found["TIELINE_HEALTH_PORT"] = str(HEALTH)
    if name == METRICS_NAME:
        found |= {"TIELINE_METRICS_PORT": str(METRICS), "TIELINE_METRICS_HOST": "0.0.0.0"}
    return found


def urls(site: Site, hosts: tuple[str, ...]) -> str:
    """Of the servers, as ``TIELINE_SERVERS`` takes them."""
    scheme = "tls" if site.servers.tls else "nats"
    return ",".join(f"{scheme}://{host}:{PORT}" for host in hosts)


def grace(process: Process) -> int:
    """Seconds that it may take to stop: what runs is finished or handed back."""
    return math.ceil(process.grace)


def may_scale(name: str) -> bool:
    """Whether it may run several times over. The audit pages, so one is enough; a second would page twice."""
    return name not in (AUDIT, METRICS_NAME)
