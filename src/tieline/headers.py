"""Header names, and what a republished message may keep."""

from collections.abc import Mapping
from typing import Final

__all__ = ["about_origin", "carried", "count_in"]

MSG_ID: Final = "Nats-Msg-Id"
TTL: Final = "Nats-TTL"
CONVERSATION: Final = "Tieline-Conversation"
CONVERSATION_NAME: Final = "Tieline-Conversation-Name"
ORIGIN: Final = "Tieline-Origin"
RUN: Final = "Tieline-Run"
CAUSE: Final = "Tieline-Cause"
DEADLINE: Final = "Tieline-Deadline"
STEP: Final = "Tieline-Step"
EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
DEAD: Final = "Tieline-Dead"
SUBJECT: Final = "Tieline-Subject"
OBJECT: Final = "Tieline-Object"
VERSION: Final = "Tieline-Version"
REDRIVEN: Final = "Tieline-Redriven"
TRIED: Final = "Tieline-Tried"
PARK: Final = "Tieline-Park"
WOKEN: Final = "Tieline-Woken"
EDITED: Final = "Tieline-Edited"
AWAKE: Final = "Tieline-Awake"
GUEST: Final = "Tieline-Guest"
SIGNATURE: Final = "Tieline-Signature"
MARKER: Final = "Nats-Marker-Reason"  # the server's mark where the last message of a subject was; it has no payload
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"


def about_origin(origin: str) -> dict[str, str]:
    """What says of a record which message it is about. Other clients do send line breaks in an origin."""
    return {ORIGIN: " ".join(origin.split())}


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that stay with a message when it is published again.

    Everything of the server's own (``Nats-*``) is dropped: an id would be swallowed as a duplicate, a TTL would expire
    the dead letter, an expectation would refuse it, and a rollup would empty the stream. So is what says why this copy
    was brought back.
    """
    return {n: value for n, value in headers.items() if not n.lower().startswith("nats-") and n not in (PARK, WOKEN)}


def count_in(headers: Mapping[str, str], name: str) -> int:
    """The number that a header carries, below a million; 0 where it is missing, or is not one."""
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
