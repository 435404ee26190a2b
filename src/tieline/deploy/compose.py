"""A pod for Docker Compose: the servers, what makes the streams, and a container for each process."""

from pathlib import Path
from typing import Any

from tieline.deploy.docker import Image, image_files
from tieline.deploy.process import APPLY, command, environment, folder_of, grace, keeps_files, urls
from tieline.deploy.site import METRICS, MONITOR, PORT, RENDERED, File, Site, confs, names_of
from tieline.deploy.yaml import documents
from tieline.services.process import METRICS as METRICS_NAME
from tieline.services.supervisor import Process

__all__ = ["compose"]

_TLS = Path("/etc/nats/tls")
_HEADER = f"""\
{RENDERED}. From this folder: docker compose up --build --detach
More of an agent: docker compose up --detach --scale NAME=3
Settings of your own (API keys, TIELINE_MODEL): pod.env, a line NAME=value each."""
_READY = {"condition": "service_healthy"}


def compose(site: Site, user: str, image: Image) -> dict[str, File]:
    """The files by name. ``user`` is uid:gid of who may read the credentials."""
    names = names_of(site.servers)
    services: dict[str, Any] = {name: _nats(site, name, user) for name in names}
    services["nats-0"]["ports"] = [f"127.0.0.1:{PORT}:{PORT}"]
    build = {"context": image.context, "dockerfile": image.dockerfile}
    services[APPLY] = {
        "build": build,
        **_process(site, APPLY, "operator", user),
        "restart": "on-failure",
        "depends_on": dict.fromkeys(names, _READY),
    }
    for process in site.processes:
        services[process.name] = _agent(site, process, user)
    whole = {
        "name": site.pod.name,
        "services": services,
        "configs": {name: {"file": f"./{name}.conf"} for name in names},
        "secrets": {f"{name}-creds": {"file": f"./secrets/{name}.creds"} for name in site.credentials},
    }
    files = {f"{name}.conf": File(text) for name, text in _confs(site).items()}
    files |= {f"secrets/{name}.creds": File(text, secret=True) for name, text in site.credentials.items()}
    files["secrets/.gitignore"] = File("*\n")
    return {"compose.yaml": File(documents([whole], _HEADER)), **files, **image_files(image, ["tieline", "--help"])}


def _confs(site: Site) -> dict[str, str]:
    return confs(site.servers, site.operator, tuple(names_of(site.servers)), Path("/data"), _TLS)


def _guarded(user: str) -> dict[str, Any]:
    return {
        "user": user,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp"],
    }


def _nats(site: Site, name: str, user: str) -> dict[str, Any]:
    page = f"http://127.0.0.1:{MONITOR}/healthz?js-server-only=true"
    return {
        "image": site.nats_image,
        "entrypoint": ["nats-server"],
        "command": ["-c", "/etc/nats/nats.conf"],
        **_guarded(user),
        "configs": [{"source": name, "target": "/etc/nats/nats.conf"}],
        "volumes": [f"./data/{name}:/data", *([f"./tls:{_TLS}:ro"] if site.servers.tls else [])],
        "healthcheck": {
            "test": ["CMD", "wget", "-q", "-O", "-", page],
            "interval": "5s",
            "timeout": "3s",
            "retries": 3,
            "start_period": "60s",
            "start_interval": "1s",
        },
        "restart": "unless-stopped",
        "stop_grace_period": "30s",
        "deploy": {"resources": {"limits": {"memory": "2G"}}},
        "environment": {"GOMEMLIMIT": "1700MiB"},
    }


def _process(site: Site, name: str, who: str, user: str) -> dict[str, Any]:
    ca = "/etc/tieline/tls/ca.crt" if site.servers.tls else None
    servers = urls(site, tuple(names_of(site.servers)))
    volumes = [f"./tls/ca.crt:{ca}:ro"] if ca else []
    if keeps_files(site, name):
        volumes.append(f"./data/{name}:{folder_of(site)}")
    return {
        "image": site.image,
        "command": command(site, name),
        **_guarded(user),
        "environment": environment(site, servers, name, (f"/run/secrets/{who}-creds", ca)),
        "env_file": [{"path": "pod.env", "required": False}],
        "secrets": [f"{who}-creds"],
        **({"volumes": volumes} if volumes else {}),
    }


def _agent(site: Site, process: Process, user: str) -> dict[str, Any]:
    ports = {"ports": [f"127.0.0.1:{METRICS}:{METRICS}"]} if process.name == METRICS_NAME else {}
    return {
        **_process(site, process.name, process.name, user),
        **ports,
        "healthcheck": {
            "test": ["CMD", "python", "-m", "tieline.services.health"],
            "interval": "10s",
            "timeout": "8s",
            "retries": 3,
            "start_period": "60s",
            "start_interval": "2s",
        },
        "restart": "unless-stopped",
        "stop_grace_period": f"{grace(process)}s",
        "depends_on": {APPLY: {"condition": "service_completed_successfully"}},
        "deploy": {"resources": {"limits": {"memory": "512M"}}},
    }
