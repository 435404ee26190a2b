"""``tieline pub``: one message from the command line."""

import asyncio
import json as jsonlib
import os
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from tieline import codec, subjects
from tieline.cli.options import JsonOption, ServerOption, settings_of
from tieline.cli.printing import print_json
from tieline.errors import BadDeclaration, BadPayload, BadSettings, NotAccepted
from tieline.messages import Message, accepted_names, binding_of, seconds
from tieline.pod import Pod
from tieline.runtime.bus import Bus, Outgoing, connect, timing
from tieline.services.reference import load_pod
from tieline.settings import Settings
from tieline.wire.publisher import PubAck

__all__ = ["fitting", "pub"]


SubjectArgument = Annotated[str, typer.Argument(metavar="SUBJECT", help="Where to, such as call.intent.book.")]
PayloadArgument = Annotated[str, typer.Argument(metavar="JSON", help='The payload, such as \'{"callId": "c1"}\'.')]
PodOption = Annotated[str | None, typer.Option("--pod", metavar="POD", help="Check the payload by this pod's message.")]
ConversationOption = Annotated[
    str | None, typer.Option("--conversation", metavar="ID", help="Default: the payload's callId.")
]
IdOption = Annotated[str | None, typer.Option("--id", metavar="ID", help="Published twice with it, it is stored once.")]
TtlOption = Annotated[str | None, typer.Option("--ttl", metavar="5m", help="How long it is worth delivering.")]
AfterOption = Annotated[
    str | None, typer.Option("--after", metavar="30s", help="Deliver it so much later; the server keeps it.")
]


def pub(
    subject: SubjectArgument,
    payload: PayloadArgument,
    pod: PodOption = None,
    conversation: ConversationOption = None,
    id: IdOption = None,  # noqa: A002 - the field's word for it
    ttl: TtlOption = None,
    after: AfterOption = None,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Publish one message and show where it was stored. Exit 1 when it was not, or the payload does not fit."""
    subjects.check_template(subject)
    content = _content(payload)
    declared = None if pod is None else load_pod(pod)
    message = None if declared is None else fitting(declared, subject, content)
    timed = timing(subject, _ttl(ttl, message), _seconds("--after", after))
    data = codec.to_json(content) if message is None else codec.encode(message)
    unique = id or os.urandom(16).hex()
    named = conversation or codec.conversation_in(data) or unique
    settings = settings_of(server)
    if declared is None:
        settings = replace(settings, audit=False)  # nobody says which of its fields may be shown
    outgoing = Outgoing(message or Message(), named, subject, data, timed)
    ack = asyncio.run(_publish(declared or Pod("command-line"), settings, outgoing, unique))
    if json:
        print_json(asdict(ack) | {"id": unique, "conversation": named})
    else:
        print(
            f"{'already stored' if ack.duplicate else 'stored'}: stream {ack.stream}, sequence {ack.seq}, id {unique}"
        )
    return 0


def _ttl(given: str | None, message: Message | None) -> float | None:
    lasts = _seconds("--ttl", given)
    if lasts is not None and lasts < 1:
        raise BadSettings(f"--ttl {given}: the least that NATS keeps is one second")
    return binding_of(type(message)).ttl if lasts is None and message is not None else lasts


def _content(text: str) -> dict[str, Any]:
    try:
        content = jsonlib.loads(text)
    except ValueError as error:
        raise BadSettings(f"the payload is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise BadSettings(f"the payload must be a JSON object, not {type(content).__name__}")
    return content


def _seconds(option: str, text: str | None) -> float | None:
    try:
        return None if text is None else seconds(text)
    except BadDeclaration as error:
        raise BadSettings(f"{option}: {error}") from None


def fitting(pod: Pod, subject: str, content: dict[str, Any], ignored: frozenset[str] = frozenset()) -> Message:
    """The payload as the message that the pod's agents take from ``subject``. `BadPayload` names what does not fit.

    A field that the message does not have does not fit either, though agents ignore it: it may be a typing error. Those
    ``ignored`` may be there.
    """
    models = [model for agent in pod.agents.values() for model in agent.models]
    model = next((m for m in models if subjects.covers(binding_of(m).filter, subject)), None)
    if model is None:
        known = ", ".join(sorted({binding_of(m).template for m in models}))
        raise BadPayload(f"no agent of pod {pod.name} takes {subject}; its messages are {known}")
    message = codec.decode(model, codec.to_json(content))
    strange = sorted(set(content) - accepted_names(model) - ignored)
    if strange:
        fields = ", ".join(field.alias or name for name, field in model.model_fields.items())
        raise BadPayload(f"{model.__name__}: no such field: {', '.join(strange)}; it has {fields}")
    if codec.subject_of(message) != subject:
        raise BadPayload(f"{model.__name__}: this payload belongs to {codec.subject_of(message)}, not to {subject}")
    return message


async def _publish(pod: Pod, settings: Settings, outgoing: Outgoing, unique: str) -> PubAck:
    async with connect(pod, settings=settings, name="tieline-cli") as bus:
        streams = await bus.connection.api("STREAM.NAMES", {"subject": outgoing.subject})
        if not streams.get("streams"):
            raise NotAccepted(
                f"no stream stores {outgoing.subject!r}; `tieline apply` makes a pod's streams, `tieline report` lists "
                "what there is",
                subject=outgoing.subject,
            )
        if "Nats-Schedule" in outgoing.headers:
            await _refuse_undelayable(bus, streams["streams"][0], outgoing.subject)
        headers = bus.about(outgoing.conversation) | outgoing.headers
        return await bus.store(replace(outgoing, headers=headers), unique, "", "")


async def _refuse_undelayable(bus: Bus, stream: str, subject: str) -> None:
    """A delayed message waits in SCHEDULE; where its stream does not take it from there, it would wait for ever."""
    config = (await bus.connection.api(f"STREAM.INFO.{stream}"))["config"]
    sources = [transform["src"] for s in config.get("sources") or [] for transform in s.get("subject_transforms") or []]
    if not any(subjects.covers(source, subjects.due(subject)) for source in sources):
        raise NotAccepted(f"stream {stream} takes no delayed messages (Stream(delays=True) does)", subject=subject)
