"""What several manifests have in common."""

from typing import Any

from tieline.deploy.site import USER, Site

__all__ = ["INSIDE", "OUTSIDE", "TMP", "disruption", "labels", "manifest", "metadata", "only", "selected"]

type Manifest = dict[str, Any]

OUTSIDE = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The security context of a Kubernetes pod."""

INSIDE = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""The security context of a container."""

TMP = {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}


def labels(site: Site, component: str | None = None) -> dict[str, str]:
    """The recommended labels."""
    found = {"app.kubernetes.io/part-of": site.pod.name, "app.kubernetes.io/managed-by": "tieline"}
    return found if component is None else {"app.kubernetes.io/name": component, **found}


def selected(component: str) -> dict[str, str]:
    """The label that a selector goes by."""
    return {"app.kubernetes.io/name": component}


def metadata(site: Site, namespace: str, name: str, component: str | None = None) -> Manifest:
    """The metadata of one manifest."""
    return {"name": name, "namespace": namespace, "labels": labels(site, component)}


def manifest(kind: str, version: str, meta: Manifest, **spec: Any) -> Manifest:
    """One manifest with a ``spec``."""
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}


def disruption(site: Site, namespace: str, name: str) -> Manifest:
    """At most one at a time is taken away on purpose, as when nodes are drained."""
    meta = metadata(site, namespace, name, name)
    return manifest(
        "PodDisruptionBudget", "policy/v1", meta, maxUnavailable=1, selector={"matchLabels": selected(name)}
    )


def only(ports: list[int], *who: Manifest) -> Manifest:
    """A rule of a NetworkPolicy: these ``ports``, from ``who``; from everybody where nobody is named."""
    rule: Manifest = {"ports": [{"protocol": "TCP", "port": port} for port in ports]}
    return {"from": list(who), **rule} if who else rule
