"""What each process of a pod is run with, wherever: its command and its environment."""

import math

from tieline.deploy.site import HEALTH, METRICS, PORT, Site
from tieline.services.process import AUDIT
from tieline.services.process import METRICS as METRICS_NAME
from tieline.services.supervisor import Process

__all__ = ["APPLY", "command", "environment", "folder_of", "grace", "keeps_files", "may_scale", "urls"]

APPLY = "apply"
"""What makes the streams and consumers, once, before the others start."""


def command(site: Site, name: str) -> list[str]:
    """The command of a process; of `APPLY` too."""
    return ["tieline", "apply", site.reference] if name == APPLY else ["tieline", "run", site.reference, name]


def environment(site: Site, urls: str, name: str, secrets: tuple[str, str | None]) -> dict[str, str]:
    """The settings of a process: which servers, who it is, where it answers, and where it may keep files.

    ``secrets`` are the paths of its credentials, and of the certificates that vouch for servers, if any.
    """
    credentials, ca = secrets
    found = {"TIELINE_SERVERS": urls, "TIELINE_CREDENTIALS": credentials}
    if ca is not None:
        found["TIELINE_TLS_CA"] = ca
    if name != APPLY:
        found["TIELINE_HEALTH_PORT"] = str(HEALTH)
    if name == METRICS_NAME:
        found |= {"TIELINE_METRICS_PORT": str(METRICS), "TIELINE_METRICS_HOST": "0.0.0.0"}
    if site.pod.data is not None and keeps_files(site, name):
        found[site.pod.data] = folder_of(site)
    return found


def keeps_files(site: Site, name: str) -> bool:
    """Whether a process has a folder of its own to write to: the tools of a pod that names one (`Pod`, ``data``)."""
    return site.pod.data is not None and name == "tools"


def folder_of(site: Site) -> str:
    """Where that folder is in a container."""
    return f"/var/lib/{site.pod.name}"


def urls(site: Site, hosts: tuple[str, ...]) -> str:
    """Of the servers, as ``TIELINE_SERVERS`` takes them."""
    scheme = "tls" if site.servers.tls else "nats"
    return ",".join(f"{scheme}://{host}:{PORT}" for host in hosts)


def grace(process: Process) -> int:
    """Seconds that it may take to stop: what runs is finished or handed back."""
    return math.ceil(process.grace)


def may_scale(site: Site, name: str) -> bool:
    """Whether several of it may run at once. Not the audit, which pages, and not who keeps files in a folder."""
    return name not in (AUDIT, METRICS_NAME) and not keeps_files(site, name)
