"""What is needed to bring a message back to its consumer: the record beside the step that it waits for."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from tieline.errors import BadPayload
from tieline.records.reading import read_header, read_name

__all__ = ["Aside", "read_aside"]

_MOST_HEADERS = 1_000


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that was put aside by ``agent``, which consumes ``stream``."""

    stream: str
    agent: str
    payload: bytes
    headers: Mapping[str, str]


def read_aside(record: Mapping[str, object]) -> Aside:
    """The message in a park record. `BadPayload` where it is not one. Anybody can have written it."""
    stream, agent = read_name(record.get("stream")), read_name(record.get("agent"))
    encoded, headers = record.get("payload"), record.get("headers")
    if stream is None or agent is None or not isinstance(encoded, str) or not isinstance(headers, dict):
        raise BadPayload("the record of a parked message cannot be read")
    try:
        payload = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        raise BadPayload("the record of a parked message holds no payload that can be read") from None
    texts = {name: read_header(value) for name, value in headers.items() if isinstance(value, str)}
    if len(texts) > _MOST_HEADERS:
        raise BadPayload(f"the record of a parked message has {len(texts):,} headers")
    return Aside(stream, agent, payload, texts)
