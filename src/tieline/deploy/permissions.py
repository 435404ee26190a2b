"""What the credentials of each process of a pod must allow: derived from what its agents and tools declare.

Headers are not checked by the server, and neither is the reply subject of a request: what follows from that is caught
by signatures (docs/guide/security.md).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tieline import subjects
from tieline.agent import Agent
from tieline.errors import BadDeclaration
from tieline.messages import binding_of
from tieline.pod import Pod
from tieline.security.handler_uses import declared_or_derived
from tieline.tool import Tool
from tieline.wire.topology import Consumer, consumers_of, waker_name

__all__ = [
    "OWN_KEY",
    "ROLES",
    "Grant",
    "Permissions",
    "as_conf",
    "client_grants",
    "grants_of",
    "inbox_of",
    "permissions_of",
]

ROLES = ("operator", "reader")
OWN_KEY = subjects.key_of("*")
"""In credentials it is the user's own key alone."""

_ANSWERED = ("tieline.", "ingress.")  # requests on these subjects are answered
_OBJECTS = "OBJ_TIELINE"
_READING = "reads what the bus holds"


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish and subscribe to, as NATS takes it. ``responses``: how many answers to a request it may
    send, and for how many seconds."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    deny_publish: tuple[str, ...] = ()
    deny_subscribe: tuple[str, ...] = ()
    responses: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """One subject that a process may ``publish`` or ``subscribe`` to, or must not, and why."""

    verb: Literal["publish", "subscribe", "deny publish"]
    subject: str
    who: str
    why: str


def inbox_of(name: str) -> str:
    """The inbox prefix of a user: its own, so that nobody else reads its replies."""
    return f"_INBOX_{name}"


def grants_of(pod: Pod, names: Iterable[str]) -> list[Grant]:
    """What one process that runs ``names`` needs, in the order of the names; each subject once.

    A name is an agent of the pod, ``tools``, ``audit``, ``metrics`` or ``gateway``, or a role: ``reader`` looks at
    everything, ``operator`` does everything inside the account. `BadDeclaration` for another.
    """
    wanted = list(dict.fromkeys(names))
    has = [*pod.agents, *(["tools"] if pod.tools else []), "audit", "metrics", "gateway", *ROLES]
    if unknown := [name for name in wanted if name not in has]:
        raise BadDeclaration(
            f"pod {pod.name} has no {', '.join(unknown)} that needs credentials; it has {', '.join(has)}"
        )
    found: dict[tuple[str, str], Grant] = {}
    for name in wanted:
        for grant in _grants(pod, name):
            found.setdefault((grant.verb, grant.subject), grant)
    return list(found.values())


def client_grants(pod: Pod, name: str, publishes: Iterable[str]) -> list[Grant]:
    """What a program that is no agent of the pod needs to publish on ``publishes``, and to do nothing else.

    `BadDeclaration` for a subject that no stream of the pod stores.
    """
    found = [Grant("publish", "call.audit.*", name, "tells facts"), *_trust(name)]
    for subject in publishes:
        stream = pod.stream_of(subjects.check_filter(subject))
        found.append(Grant("publish", subject, name, f"publishes to {stream.name}"))
    return found


def permissions_of(grants: Iterable[Grant], inbox: str) -> Permissions:
    """``grants`` as permissions of a user whose inbox is ``inbox``."""
    said = list(grants)
    return Permissions(
        publish=tuple(grant.subject for grant in said if grant.verb == "publish"),
        subscribe=(f"{inbox}.>", *(grant.subject for grant in said if grant.verb == "subscribe")),
        deny_publish=tuple(grant.subject for grant in said if grant.verb == "deny publish"),
        responses=(1, 5.0) if any(grant.subject.startswith(_ANSWERED) for grant in said) else None,
    )


def as_conf(permissions: Permissions) -> str:
    """``permissions`` as the block of a user in nats.conf, for servers without JWTs."""
    sides = {
        "publish": (permissions.publish, permissions.deny_publish),
        "subscribe": (permissions.subscribe, permissions.deny_subscribe),
    }
    lines = ["permissions {"]
    for side, (allow, deny) in sides.items():
        lines.append(f"  {side} {{")
        for verb, listed in (("allow", allow), ("deny", deny)):
            if listed:
                lines += [f"    {verb}: [", *(f"      {json.dumps(subject)}" for subject in listed), "    ]"]
        lines.append("  }")
    if permissions.responses is not None:
        most, within = permissions.responses
        lines.append(f'  allow_responses {{ max: {most}, expires: "{within:g}s" }}')
    return "\n".join([*lines, "}"])


def _grants(pod: Pod, name: str) -> Iterator[Grant]:
    match name:
        case "operator":
            yield Grant("publish", ">", name, "does everything inside the account")
            yield Grant("subscribe", ">", name, "does everything inside the account")
        case "reader" | "metrics":
            yield from _reader(name)
        case "audit":
            yield from _audit(pod)
        case "gateway":
            yield from _gateway(pod)
        case "tools":
            for tool in pod.tools.values():
                yield from _tool(pod, tool)
            yield from _unclaimed()
        case _:
            yield from _agent(pod, pod.agents[name])


def _agent(pod: Pod, agent: Agent) -> Iterator[Grant]:
    for consumer in consumers_of(pod):
        if consumer.owner == agent.wire_name:
            yield from _pulls(consumer, agent.name)
    for own in (agent.wire_name, waker_name(agent.wire_name)):
        yield from _journal(own, agent.name)
    yield from _says(agent)
    yield from _answers(pod, agent)
    steps = subjects.steps_of(agent.wire_name)
    yield Grant("subscribe", subjects.nudge(steps), agent.name, "hears of its steps' results")
    yield from _cancellations(agent.name)
    if pod.version != "0":
        present = subjects.present(pod.name, agent.wire_name, "*").removesuffix(subjects.token("*")) + "*"
        yield Grant("publish", present, agent.name, f"the pod has a version ({pod.version}): asks which one runs where")
        yield Grant("subscribe", present, agent.name, f"the pod has a version ({pod.version}): says that it runs")
        yield Grant("publish", "$JS.API.STREAM.INFO.STEP", agent.name, "finds what another version recorded")


def _says(agent: Agent) -> Iterator[Grant]:
    """What follows from ``publishes``, ``calls`` and ``uses``, or from the code where none of them is declared."""
    declared = declared_or_derived(agent)
    for model in declared.publishes:
        yield Grant("publish", binding_of(model).filter, agent.name, f"publishes {model.__name__}")
    for tool in declared.calls:
        yield Grant("publish", subjects.tool_call(tool.name), agent.name, f"calls the tool {tool.name}")
    if "delays" in declared.uses:
        yield Grant("publish", subjects.schedules(), agent.name, 'uses "delays"')
    if "state" in declared.uses:
        yield Grant("publish", "state.*", agent.name, 'uses "state"')
        yield Grant("publish", "$JS.API.DIRECT.GET.STATE.state.*", agent.name, 'uses "state"')
        for verb in ("INFO", "PURGE"):
            yield Grant("publish", f"$JS.API.STREAM.{verb}.{_OBJECTS}", agent.name, 'uses "state": objects end with it')
    if "large" in declared.uses:
        yield from _objects(agent.name, 'uses "large"')
    if "models" in declared.uses:
        yield Grant("publish", "partial.*", agent.name, 'uses "models": lets their text be heard')


def _answers(pod: Pod, agent: Agent) -> Iterator[Grant]:
    """An agent that others may ask writes the answer to the asker's step."""
    for asker in pod.agents.values():
        asked = set(declared_or_derived(asker).publishes) & set(agent.models)
        for model in sorted(asked, key=lambda model: model.__name__):
            step = subjects.step_filter(asker.wire_name, "ask")
            yield Grant("publish", step, agent.name, f"answers when {asker.name} asks with {model.__name__}")


def _tool(pod: Pod, tool: Tool[..., object]) -> Iterator[Grant]:
    name = f"tool-{tool.name}"
    for consumer in consumers_of(pod):
        if consumer.owner == name:
            yield from _pulls(consumer, name)
    yield from _journal(name, name)
    for agent in pod.agents.values():
        if any(called.name == tool.name for called in declared_or_derived(agent).calls):
            where = subjects.step_filter(agent.wire_name, "tool")
            yield Grant("publish", where, name, f"{agent.name} calls it: its result is a step of that agent")
            yield Grant(
                "publish", f"$JS.API.DIRECT.GET.STEP.{where}", name, "looks whether the result is there already"
            )
    yield Grant("publish", "tool.result.*", name, "answers callers without a journal")
    yield from _objects(name, "large arguments and results")
    yield from _cancellations(name)
    if tool.rate is not None:
        yield Grant("publish", subjects.rate(tool.name), name, "has a rate")
        yield Grant("publish", f"$JS.API.DIRECT.GET.RATE.{subjects.rate(tool.name)}", name, "has a rate")


def _unclaimed() -> Iterator[Grant]:
    why = "answers calls of tools that nobody declares"
    for subject in (
        "$JS.API.STREAM.INFO.TOOL_CALL",
        "$JS.API.CONSUMER.LIST.TOOL_CALL",
        "$JS.API.DIRECT.GET.TOOL_CALL",
        "$JS.API.STREAM.MSG.DELETE.TOOL_CALL",
        "DLQ.*.unknown.tool.call.*",
    ):
        yield Grant("publish", subject, "tools", why)


def _pulls(consumer: Consumer, who: str) -> Iterator[Grant]:
    stream, durable = consumer.stream, consumer.durable
    yield Grant("publish", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}", who, f"pulls its messages from {stream}")
    yield Grant("publish", f"$JS.ACK.{stream}.{durable}.>", who, "settles them")
    yield Grant(
        "publish", f"$JS.ACK.*.*.{stream}.{durable}.>", who, "settles them, where acks name the account (ADR-15)"
    )
    yield Grant("publish", f"$JS.API.CONSUMER.INFO.{stream}.{durable}", who, "notices that its consumer is gone")
    for subject in consumer.filters:
        if subject.startswith("redrive."):
            yield Grant("publish", subject, who, "brings back what it had put aside")


def _journal(name: str, who: str) -> Iterator[Grant]:
    steps = subjects.steps_of(name)
    yield Grant("publish", steps, who, "writes its journal")
    yield Grant("publish", f"$JS.API.DIRECT.GET.STEP.{steps}", who, "reads its journal, record by record")
    yield Grant("publish", subjects.dead_letter(name, "*", ">"), who, "its dead letters")
    yield Grant("publish", subjects.FACTS, who, "reports facts")
    yield Grant("publish", subjects.AUDIT, who, "records what it settled where TIELINE_AUDIT is off")
    yield from _trust(who)


def _trust(who: str) -> Iterator[Grant]:
    yield Grant("publish", OWN_KEY, who, "says who it is, to those who check its signatures")
    yield Grant("publish", f"$JS.API.DIRECT.GET.KEYS.{OWN_KEY}", who, "checks who signed what it gets")


def _cancellations(who: str) -> Iterator[Grant]:
    yield Grant("subscribe", subjects.nudge(subjects.cancellations()), who, "hears of cancelled conversations")
    yield Grant("publish", "$JS.API.DIRECT.GET.CANCELLED", who, "reads which conversations are cancelled")


def _objects(who: str, why: str) -> Iterator[Grant]:
    yield Grant("publish", "$O.TIELINE.>", who, why)
    yield Grant("publish", f"$JS.API.DIRECT.GET.{_OBJECTS}", who, why)
    yield Grant("publish", f"$JS.API.DIRECT.GET.{_OBJECTS}.>", who, why)


def _reader(who: str) -> Iterator[Grant]:
    api = ("INFO", "STREAM.NAMES", "STREAM.LIST", "STREAM.INFO.*", "STREAM.MSG.GET.*", "DIRECT.GET.>")
    consumers = ("LIST.*", "NAMES.*", "INFO.*.*", "CREATE.>", "MSG.NEXT.>")
    for subject in (*api, *(f"CONSUMER.{verb}" for verb in consumers)):
        yield Grant("publish", f"$JS.API.{subject}", who, _READING)
    yield Grant("publish", "tieline.sum.*", who, "asks the accountant for the sum")
    for subject in ("partial.>", "nudge.>"):
        yield Grant("subscribe", subject, who, "follows what happens")


def _gateway(pod: Pod) -> Iterator[Grant]:
    who = "gateway"
    yield Grant("subscribe", subjects.ingress("*", ">"), who, "takes what guests send")
    for subject, model in pod.ingress.items():
        yield Grant("publish", subject, who, f"guests may send {model.__name__}")
    yield Grant("publish", "call.audit.*", who, "tells facts")
    yield from _trust(who)
    yield from _objects(who, "large messages of guests")


def _audit(pod: Pod) -> Iterator[Grant]:
    who = "audit"
    yield from _reader(who)
    yield Grant("subscribe", "tieline.sum.*", who, "answers with the sum")
    for subject in ("accounting.*", "accounting.*.*"):
        yield Grant("publish", subject, who, "keeps the checkpoint of the sum")
    for subject in ("$JS.ACK.ADVISORY.>", "$JS.ACK.*.*.ADVISORY.>"):
        yield Grant("publish", subject, who, "settles the server's advisories")
    yield from _trust(who)
    yield Grant("publish", "$JS.API.STREAM.MSG.DELETE.*", who, "removes from work queues what is a dead letter")
    yield Grant("publish", "$JS.API.STREAM.PURGE.SCHEDULE", who, "removes delayed messages that were delivered")
    yield Grant("publish", "$JS.API.STREAM.PURGE.STEP", who, "removes the journal of ended conversations")
    for subject in ("DLQ.>", "call.audit.*", "redrive.>", "state.*"):
        yield Grant("publish", subject, who, "dead letters, facts, redrives asked for in Slack, what the pager said")
    for agent in pod.agents.values():
        for model in agent.models:
            if (notice := binding_of(model).on_expired) is not None:
                yield Grant("publish", binding_of(notice).filter, who, f"tells that a {model.__name__} expired")
