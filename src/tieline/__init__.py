"""Tieline: the event bus for AI agents on NATS JetStream."""

from tieline.agent import Agent
from tieline.context import Conversation
from tieline.declared.expected import Expected
from tieline.errors import (
    BadDeclaration,
    BadPayload,
    BadSettings,
    Conflict,
    ConsumerGone,
    Denied,
    NeedsApproval,
    NoReply,
    NotAccepted,
    NotApplied,
    ObjectGone,
    ServerFailed,
    TielineError,
    ToolFailed,
    ToolRefused,
    Unconfirmed,
    Unreachable,
)
from tieline.messages import Expiry, Message
from tieline.outcomes import Done, Outcome, Refuse, Retry
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.runtime.host import Host
from tieline.settings import Breaker, Limits, Rate, Settings
from tieline.stream import Stream
from tieline.tool import Tool, ToolRun

__all__ = [
    "Agent",
    "BadDeclaration",
    "BadPayload",
    "BadSettings",
    "Breaker",
    "Bus",
    "Conflict",
    "ConsumerGone",
    "Conversation",
    "Denied",
    "Done",
    "Expected",
    "Expiry",
    "Host",
    "Limits",
    "Message",
    "NeedsApproval",
    "NoReply",
    "NotAccepted",
    "NotApplied",
    "ObjectGone",
    "Outcome",
    "Pod",
    "Rate",
    "Refuse",
    "Retry",
    "ServerFailed",
    "Settings",
    "Stream",
    "TielineError",
    "Tool",
    "ToolFailed",
    "ToolRefused",
    "ToolRun",
    "Unconfirmed",
    "Unreachable",
    "connect",
]
