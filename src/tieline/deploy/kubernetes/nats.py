"""The servers: a StatefulSet with a volume each, spread over nodes, and who may talk to them."""

from pathlib import Path
from typing import Any

from tieline.deploy.kubernetes.parts import (
    INSIDE,
    OUTSIDE,
    TMP,
    Manifest,
    disruption,
    labels,
    manifest,
    metadata,
    selected,
)
from tieline.deploy.kubernetes.parts import only as port_rule
from tieline.deploy.site import MONITOR, PORT, ROUTES, Site, confs, names_of

__all__ = ["HEADLESS", "hosts", "nats"]

HEADLESS = "nats-headless"
_CONF, _TLS, _DATA = Path("/etc/nats/conf"), Path("/etc/nats/tls"), Path("/data")
_PORTS = {"client": PORT, "cluster": ROUTES, "monitor": MONITOR}


def hosts(site: Site) -> tuple[str, ...]:
    """How the servers are reached, each by itself."""
    return tuple(f"{name}.{HEADLESS}" for name in names_of(site.servers))


def nats(site: Site, namespace: str) -> list[Manifest]:
    """All that the servers need."""
    texts = confs(site.servers, site.operator, hosts(site), _DATA, _TLS)
    conf = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(site, namespace, "nats-conf", "nats"),
        "data": {f"{name}.conf": text for name, text in texts.items()},
    }
    ports = [{"name": name, "port": port, "targetPort": name} for name, port in _PORTS.items()]
    # Servers find each other before they are ready, and a server that is not ready must be found to become so.
    headless = manifest(
        "Service",
        "v1",
        metadata(site, namespace, HEADLESS, "nats"),
        clusterIP="None",
        publishNotReadyAddresses=True,
        selector=selected("nats"),
        ports=ports,
    )
    clients = manifest(
        "Service", "v1", metadata(site, namespace, "nats", "nats"), selector=selected("nats"), ports=ports[:1]
    )
    return [
        conf,
        headless,
        clients,
        _stateful_set(site, namespace),
        disruption(site, namespace, "nats"),
        _policy(site, namespace),
    ]


def _stateful_set(site: Site, namespace: str) -> Manifest:
    volume = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": str(site.servers.storage)}},
        },
    }
    return manifest(
        "StatefulSet",
        "apps/v1",
        metadata(site, namespace, "nats", "nats"),
        serviceName=HEADLESS,
        replicas=site.servers.count,
        podManagementPolicy="Parallel",
        minReadySeconds=15,  # the next must not go before this one and the others have heard of each other
        updateStrategy={"type": "RollingUpdate"},
        selector={"matchLabels": selected("nats")},
        template={"metadata": {"labels": labels(site, "nats")}, "spec": _template(site)},
        volumeClaimTemplates=[volume],
    )


def _template(site: Site) -> Manifest:
    tls = [{"name": "tls", "secret": {"secretName": "nats-tls", "defaultMode": 0o440}}] if site.servers.tls else []
    return {
        "automountServiceAccountToken": False,
        "securityContext": OUTSIDE,
        "terminationGracePeriodSeconds": 60,
        # Three servers on one node would be one server: required, not preferred.
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": selected("nats")}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selected("nats")},
            }
        ],
        "containers": [_container(site)],
        "volumes": [{"name": "conf", "configMap": {"name": "nats-conf"}}, TMP, *tls],
    }


def _container(site: Site) -> Manifest:
    tls = [{"name": "tls", "mountPath": str(_TLS), "readOnly": True}] if site.servers.tls else []
    return {
        "name": "nats",
        "image": site.nats_image,
        "command": ["nats-server", "-c", f"{_CONF}/$(POD_NAME).conf"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "GOMEMLIMIT", "value": "1700MiB"},
        ],
        "ports": [{"name": name, "containerPort": port} for name, port in _PORTS.items()],
        "securityContext": INSIDE,
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "startupProbe": _probe("js-server-only=true", 10, failures=90),  # replaying its streams takes time
        "readinessProbe": _probe("js-server-only=true", 10),
        "livenessProbe": _probe("js-enabled-only=true", 30),
        # It gives up its leadership and sends its clients to the others, and then ends.
        "lifecycle": {"preStop": {"exec": {"command": ["nats-server", "--signal", "ldm=1"]}}},
        "volumeMounts": [
            {"name": "conf", "mountPath": str(_CONF), "readOnly": True},
            {"name": "data", "mountPath": str(_DATA)},
            {"name": "tmp", "mountPath": "/tmp"},
            *tls,
        ],
    }


def _probe(question: str, every: int, failures: int = 3) -> Manifest:
    return {
        "httpGet": {"path": f"/healthz?{question}", "port": "monitor"},
        "periodSeconds": every,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _policy(site: Site, namespace: str) -> Manifest:
    """Clients: who wears the pod's label. Monitoring has no password: only Prometheus of ours, KEDA, and probes."""
    ours: Any = {"podSelector": {"matchLabels": labels(site)}}
    keda: Any = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    return manifest(
        "NetworkPolicy",
        "networking.k8s.io/v1",
        metadata(site, namespace, "nats", "nats"),
        podSelector={"matchLabels": selected("nats")},
        policyTypes=["Ingress"],
        ingress=[
            port_rule([PORT], ours),
            port_rule([ROUTES], {"podSelector": {"matchLabels": selected("nats")}}),
            port_rule([MONITOR], ours, keda),
        ],
    )
