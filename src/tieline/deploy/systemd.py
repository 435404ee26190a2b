"""A pod as units of systemd: for machines without containers."""

from pathlib import Path

from tieline.deploy.process import APPLY, command, environment, grace, keeps_files, urls
from tieline.deploy.site import HEALTH, METRICS, MONITOR, PORT, RENDERED, ROUTES, File, Site, confs, names_of
from tieline.errors import BadSettings
from tieline.services.process import METRICS as METRICS_NAME
from tieline.services.supervisor import Process

__all__ = ["Paths", "systemd"]

_DATA = Path("/var/lib/tieline-nats")
_CREDENTIALS = Path("/run/credentials/tieline-nats.service")  # where systemd hands the certificates over
_TAKEN = (PORT, MONITOR, ROUTES, METRICS)
_HARDENED = """\
DynamicUser=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
"""
_NATS = """\
[Unit]
Description=NATS server of {pod}
Documentation=https://docs.nats.io
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={binary} -c /etc/tieline/nats.conf
ExecReload=/bin/kill -HUP $MAINPID
StateDirectory=tieline-nats
Restart=always
RestartSec=2
{stopping}TimeoutStopSec=60
MemoryDenyWriteExecute=yes
LimitNOFILE=65536
{tls}{hardened}
[Install]
WantedBy=multi-user.target
"""
_PROCESS = """\
[Unit]
Description={name} of {pod}
PartOf={pod}.target
After=network-online.target {pod}-apply.service
Wants=network-online.target
Wants={pod}-apply.service

[Service]
{kind}
ExecStart={command}
{environment}
# Settings of your own (API keys, TIELINE_MODEL), a line NAME=value each.
EnvironmentFile=-/etc/tieline/{pod}.env
LoadCredential=user.creds:/etc/tieline/creds/{who}.creds
{tls}{stopping}
{hardened}"""
_TARGET = """\
[Unit]
Description=All processes of {pod}
Wants={units}

[Install]
WantedBy=multi-user.target
"""


class Paths:
    """Where things are on the machines: ``prefix`` is the virtual environment that the pod is installed in."""

    def __init__(self, prefix: Path, nats_server: Path | None = None) -> None:
        if not prefix.is_absolute():
            raise BadSettings(f"--prefix {str(prefix)!r} is not absolute; units need the whole path")
        self.program = prefix / "bin" / "tieline"
        self.nats_server = nats_server or prefix / "bin" / "nats-server"


def systemd(site: Site, paths: Paths) -> dict[str, File]:
    """The files by name, below the root of a machine. Servers are configured for ``site.servers.hosts``."""
    hosts = site.servers.hosts or (("127.0.0.1",) if site.servers.count == 1 else ())
    if not hosts:
        raise BadSettings("three servers are on three machines: name them with --hosts A,B,C")
    found, pod = (
        confs(site.servers, site.operator, hosts, Path("/var/lib/tieline-nats"), Path("/etc/tieline/tls")),
        site.pod.name,
    )
    files = {f"etc/tieline/{name}.conf": File(found[name]) for name in names_of(site.servers)}
    if len(found) == 1:
        files = {"etc/tieline/nats.conf": File(found["nats-0"])}
    for name, text in site.credentials.items():
        files[f"etc/tieline/creds/{name}.creds"] = File(text, secret=True)
    units = {"tieline-nats.service": _server(site, paths), f"{pod}-apply.service": _applying(site, paths, hosts)}
    ports = iter(port for port in range(HEALTH, HEALTH + 1000) if port not in _TAKEN)
    for process in site.processes:
        units[f"{pod}-{process.name}.service"] = _running(site, paths, hosts, process, next(ports))
    names = " ".join(name for name in units if name.startswith(f"{pod}-"))
    units[f"{pod}.target"] = _TARGET.format(pod=pod, units=names)
    files |= {f"etc/systemd/system/{name}": File(f"# {RENDERED}\n{text}") for name, text in units.items()}
    return files


def _server(site: Site, paths: Paths) -> str:
    tls, stopping = "", ""
    if site.servers.tls:  # a user of its own making cannot read root's files: systemd hands them over
        tls = "".join(f"LoadCredential={name}:/etc/tieline/tls/{name}\n" for name in ("tls.crt", "tls.key", "ca.crt"))
    if site.servers.count > 1:
        stopping = "# Lame duck: it gives up leadership and sends its clients to the others before it ends.\n"
        stopping += "KillSignal=SIGUSR2\n"
    said = {"pod": site.pod.name, "binary": paths.nats_server, "tls": tls, "stopping": stopping}
    return _NATS.format(**said, hardened=_HARDENED)


def _applying(site: Site, paths: Paths, hosts: tuple[str, ...]) -> str:
    unit = _unit(site, paths, hosts, APPLY, {})
    kind = "Type=oneshot\nRemainAfterExit=yes\nRestart=on-failure\nRestartSec=5"
    text = _PROCESS.format(**unit, who="operator", kind=kind, stopping="TimeoutStartSec=300", hardened=_HARDENED)
    pod = site.pod.name
    return text.replace(f" {pod}-apply.service\n", "\n").replace(f"Wants={pod}-apply.service\n", "")


def _running(site: Site, paths: Paths, hosts: tuple[str, ...], process: Process, port: int) -> str:
    unit = _unit(site, paths, hosts, process.name, {"TIELINE_HEALTH_PORT": str(port)})
    kind = "Type=exec\nRestart=always\nRestartSec=2"
    stopping = f"TimeoutStopSec={grace(process) + 10}\nMemoryMax=512M"
    if keeps_files(site, process.name):
        stopping += f"\nStateDirectory={site.pod.name}"
    return _PROCESS.format(**unit, who=process.name, kind=kind, stopping=stopping, hardened=_HARDENED)


def _unit(site: Site, paths: Paths, hosts: tuple[str, ...], name: str, more: dict[str, str]) -> dict[str, str]:
    ca = "%d/ca.crt" if site.servers.tls else None
    settings = environment(site, urls(site, hosts), name, ("%d/user.creds", ca)) | more
    if name == METRICS_NAME:
        settings.pop("TIELINE_METRICS_HOST")  # a machine is no container: on loopback, unless pod's .env says otherwise
    return {
        "pod": site.pod.name,
        "name": name,
        "command": " ".join([str(paths.program), *command(site, name)[1:]]),
        "tls": "LoadCredential=ca.crt:/etc/tieline/tls/ca.crt\n" if ca else "",
        "environment": "\n".join(f"Environment={variable}={value}" for variable, value in settings.items()),
    }
