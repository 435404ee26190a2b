"""More of an agent when its backlog grows, by KEDA's JetStream scaler."""

from tieline.deploy.kubernetes.nats import HEADLESS
from tieline.deploy.kubernetes.parts import Manifest, manifest, metadata
from tieline.deploy.process import may_scale
from tieline.deploy.site import MONITOR, Site
from tieline.services.supervisor import Process
from tieline.wire.topology import consumers_of

__all__ = ["scaling"]

_FULL = 4  # times what one process runs at once: a backlog that long asks for another one


def scaling(site: Site, namespace: str, most: int) -> list[Manifest]:
    """One for each process that may run several times over and has a backlog: the gateway has none."""
    found = [_scaled(site, namespace, process, most) for process in site.processes if may_scale(site, process.name)]
    return [scaled for scaled in found if scaled["spec"]["triggers"]]


def _scaled(site: Site, namespace: str, process: Process, most: int) -> Manifest:
    return manifest(
        "ScaledObject",
        "keda.sh/v1alpha1",
        metadata(site, namespace, process.name, process.name),
        scaleTargetRef={"name": process.name},
        minReplicaCount=1,
        maxReplicaCount=most,
        cooldownPeriod=300,
        advanced={
            "horizontalPodAutoscalerConfig": {
                # What runs is finished or handed back when one goes; still, no more often than needed.
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}
            }
        },
        triggers=_triggers(site, namespace, process),
    )


def _triggers(site: Site, namespace: str, process: Process) -> list[Manifest]:
    """Its consumers' backlogs, what runs included. An agent's waker has none to speak of."""
    found = []
    for consumer in consumers_of(site.pod):
        agent = site.pod.agent_on_bus(consumer.owner)
        owner = "tools" if agent is None else agent.name
        if owner != process.name or consumer.kind == "waker":
            continue
        asked = {
            "natsServerMonitoringEndpoint": f"{HEADLESS}.{namespace}.svc.cluster.local:{MONITOR}",
            "account": site.account,
            "stream": consumer.stream,
            "consumer": consumer.durable,
            "lagThreshold": str(consumer.limits.concurrency * _FULL),
        }
        found.append({"type": "nats-jetstream", "metadata": asked})
    return found
