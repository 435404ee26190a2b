"""A pod on Kubernetes: manifests of the servers, the credentials, the processes, and how they scale."""

from tieline.deploy.docker import Image, image_files
from tieline.deploy.kubernetes.nats import nats
from tieline.deploy.kubernetes.parts import labels, metadata
from tieline.deploy.kubernetes.processes import processes
from tieline.deploy.kubernetes.scaling import scaling
from tieline.deploy.site import RENDERED, File, Site
from tieline.deploy.yaml import documents

__all__ = ["kubernetes"]

_HEADER = f"{RENDERED}; render again rather than edit."


def kubernetes(site: Site, namespace: str, most: int, image: Image) -> dict[str, File]:
    """The files by name. ``most``: how many of an agent may run where its backlog asks for it."""
    restricted = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
    }  # what follows keeps to it
    home = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": labels(site) | restricted},
    }
    secrets = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(site, namespace, f"{name}-creds"),
            "type": "Opaque",
            "stringData": {"user.creds": text},
        }
        for name, text in site.credentials.items()
    ]
    scaled = "Needs KEDA (https://keda.sh). Without it: kubectl scale deployment NAME --replicas N."
    command = ["tieline", "--help"]
    private = f"{_HEADER}\nCredentials: keep it out of repositories."
    return {
        "0-namespace.yaml": File(documents([home], _HEADER)),
        "1-secrets.yaml": File(documents(secrets, private), secret=True),
        "2-nats.yaml": File(documents(nats(site, namespace), _HEADER)),
        "3-pod.yaml": File(documents(processes(site, namespace), _HEADER)),
        "scaling/keda.yaml": File(documents(scaling(site, namespace, most), f"{_HEADER}\n{scaled}")),
        ".gitignore": File("1-secrets.yaml\n"),
        **image_files(image, command),
    }
