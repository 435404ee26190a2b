"""A Deployment for each process of a pod, and the Job that makes the streams before them."""

import hashlib
import json
from collections.abc import Mapping

from tieline.deploy.kubernetes.nats import hosts
from tieline.deploy.kubernetes.parts import (
    INSIDE,
    OUTSIDE,
    TMP,
    Manifest,
    disruption,
    labels,
    manifest,
    metadata,
    only,
    selected,
)
from tieline.deploy.process import APPLY, command, environment, folder_of, grace, keeps_files, may_scale, urls
from tieline.deploy.site import HEALTH, METRICS, Site
from tieline.services.process import METRICS as METRICS_NAME
from tieline.services.supervisor import Process

__all__ = ["processes"]

_SECRETS, _TLS = "/etc/tieline/creds", "/etc/tieline/tls"
_MARGIN = 10  # seconds between what a process may take to stop and when it is killed


def processes(site: Site, namespace: str) -> list[Manifest]:
    """The Job first: without streams the others end and are started again until there are."""
    found = [_apply(site, namespace), _policy(site, namespace)]
    for process in site.processes:
        found.append(_deployment(site, namespace, process))
        if keeps_files(site, process.name):
            found.append(_claim(site, namespace, process.name))
        if may_scale(site, process.name):
            found.append(disruption(site, namespace, process.name))
    if any(process.name == METRICS_NAME for process in site.processes):
        meta = metadata(site, namespace, METRICS_NAME, METRICS_NAME)
        ports = [{"name": "metrics", "port": METRICS, "targetPort": METRICS}]
        found.append(manifest("Service", "v1", meta, selector=selected(METRICS_NAME), ports=ports))
    return found


def _apply(site: Site, namespace: str) -> Manifest:
    """Named by what it does: a Job cannot be changed, and a changed pod is a new one."""
    template = {
        "metadata": {"labels": labels(site, APPLY)},
        "spec": {"restartPolicy": "OnFailure", **_spec(site, APPLY, "operator")},
    }
    said = json.dumps([template, repr(sorted(site.pod.streams)), site.image], sort_keys=True)
    name = f"{APPLY}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    meta = metadata(site, namespace, name, APPLY)
    return manifest("Job", "batch/v1", meta, backoffLimit=20, ttlSecondsAfterFinished=3600, template=template)


def _deployment(site: Site, namespace: str, process: Process) -> Manifest:
    name, scales = process.name, may_scale(site, process.name)
    # A second audit would page twice, and a volume has one owner: the old one goes before the new one comes.
    strategy: Manifest = {"type": "Recreate"}
    if scales:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    annotations: Mapping[str, str] = {}
    if name == METRICS_NAME:
        annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(METRICS)}
    template = {
        "metadata": {"labels": labels(site, name), **({"annotations": annotations} if annotations else {})},
        "spec": {
            "terminationGracePeriodSeconds": grace(process) + _MARGIN,
            **_spec(site, name, name),
        },
    }
    return manifest(
        "Deployment",
        "apps/v1",
        metadata(site, namespace, name, name),
        **({} if scales else {"replicas": 1}),  # how many of an agent is for who scales it to say
        strategy=strategy,
        selector={"matchLabels": selected(name)},
        template=template,
    )


def _spec(site: Site, name: str, who: str) -> Manifest:
    tls = [{"name": "tls", "secret": {"secretName": "nats-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]
    creds = {"name": "creds", "secret": {"secretName": f"{who}-creds", "defaultMode": 0o440}}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": OUTSIDE,
        "containers": [_container(site, name)],
        "volumes": [creds, TMP, *(tls if site.servers.tls else []), *_files(site, name)],
    }


def _files(site: Site, name: str) -> list[Manifest]:
    return [{"name": "files", "persistentVolumeClaim": {"claimName": _claimed(site, name)}}] * keeps_files(site, name)


def _claimed(site: Site, name: str) -> str:
    return f"{site.pod.name}-{name}"


def _claim(site: Site, namespace: str, name: str) -> Manifest:
    """The volume in which a process keeps its files."""
    meta = metadata(site, namespace, _claimed(site, name), name)
    resources = {"requests": {"storage": "1Gi"}}
    return manifest("PersistentVolumeClaim", "v1", meta, accessModes=["ReadWriteOnce"], resources=resources)


def _container(site: Site, name: str) -> Manifest:
    ca = f"{_TLS}/ca.crt" if site.servers.tls else None
    settings = environment(site, urls(site, hosts(site)), name, (f"{_SECRETS}/user.creds", ca))
    ports = [{"name": "health", "containerPort": HEALTH}]
    if name == METRICS_NAME:
        ports.append({"name": "metrics", "containerPort": METRICS})
    mounts: list[Manifest] = [
        {"name": "creds", "mountPath": _SECRETS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if ca is not None:
        mounts.append({"name": "tls", "mountPath": _TLS, "readOnly": True})
    if keeps_files(site, name):
        mounts.append({"name": "files", "mountPath": folder_of(site)})
    own = f"{site.pod.name}-env"
    probed = {} if name == APPLY else {"ports": ports, **_probes()}
    return {
        "name": name,
        "image": site.image,
        "command": command(site, name),
        "env": [{"name": variable, "value": value} for variable, value in settings.items()],
        # Settings of your own: a ConfigMap and a Secret of this name, where there are.
        "envFrom": [{"configMapRef": {"name": own, "optional": True}}, {"secretRef": {"name": own, "optional": True}}],
        "securityContext": INSIDE,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        **probed,
        "volumeMounts": mounts,
    }


def _probes() -> Manifest:
    """Ready: connected, its consumers there, pulling. A server that is away does not get it restarted."""

    def probe(path: str, every: int, failures: int) -> Manifest:
        asked = {"path": path, "port": "health"}
        return {"httpGet": asked, "periodSeconds": every, "timeoutSeconds": 3, "failureThreshold": failures}

    return {
        "startupProbe": probe("/live", 2, 60),
        "readinessProbe": probe("/ready", 5, 2),
        "livenessProbe": probe("/live", 10, 3),
    }


def _policy(site: Site, namespace: str) -> Manifest:
    """Processes are asked for nothing but their health and metrics: they talk over the bus."""
    return manifest(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        metadata(site, namespace, site.pod.name),
        podSelector={
            "matchLabels": labels(site),
            "matchExpressions": [{"key": "app.kubernetes.io/name", "operator": "NotIn", "values": ["nats"]}],
        },
        policyTypes=["Ingress"],
        ingress=[only([HEALTH, METRICS])],
    )
