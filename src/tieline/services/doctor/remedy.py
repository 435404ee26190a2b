"""How to change a stream or consumer: by its pod where it has one, else by the nats CLI or the JetStream API."""

from tieline.services.doctor.observation import ConsumerSeen, StreamSeen

__all__ = ["edit_consumer", "edit_stream", "recreate"]


def edit_stream(stream: StreamSeen, flags: str, fields: str) -> str:
    """``flags`` are the nats CLI's, ``fields`` the same in the configuration's JSON."""
    if stream.ours:
        return f"declare it in the pod's Stream(name={stream.name!r}, …) and run `tieline apply POD` (wanted: {fields})"
    name = stream.name
    return f"nats stream edit {name} {flags}; or its configuration with {fields} to $JS.API.STREAM.UPDATE.{name}"


def edit_consumer(consumer: ConsumerSeen, flags: str, fields: str) -> str:
    """``flags`` are the nats CLI's, ``fields`` the same in the configuration's JSON."""
    if consumer.pod:
        return f"tieline apply POD puts back what the pod {consumer.pod} declares (wanted: {fields})"
    where = f"{consumer.stream}.{consumer.name}"
    return (
        f"nats consumer edit {consumer.stream} {consumer.name} {flags}; or its configuration with {fields} and "
        f'"action": "update" to $JS.API.CONSUMER.CREATE.{where}'
    )


def recreate(consumer: ConsumerSeen, flags: str, fields: str) -> str:
    """For what is fixed when a consumer is made. It begins where the old one stood only if it is told to."""
    return (
        f"fixed once made, so stop its readers, then: nats consumer rm {consumer.stream} {consumer.name}; "
        f"nats consumer add {consumer.stream} {consumer.name} {flags} (JSON: {fields}), beginning after the "
        "old one's ack floor"
    )
