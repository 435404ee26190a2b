"""Tieline: the event bus for AI agents on NATS JetStream."""

from tieline.agent import Agent
from tieline.context import Conversation
from tieline.errors import (
    BadDeclaration,
    BadPayload,
    BadSettings,
    ConsumerGone,
    NotAccepted,
    NotApplied,
    ServerFailed,
    TielineError,
    ToolFailed,
    Unconfirmed,
    Unreachable,
)
from tieline.messages import Message
from tieline.outcomes import Done, Outcome, Refuse, Retry
from tieline.pod import Pod
from tieline.runtime.bus import Bus, connect
from tieline.runtime.host import Host
from tieline.settings import Limits, Settings
from tieline.stream import Stream
from tieline.tool import Tool, ToolRun

__all__ = [
    "Agent",
    "BadDeclaration",
    "BadPayload",
    "BadSettings",
    "Bus",
    "ConsumerGone",
    "Conversation",
    "Done",
    "Host",
    "Limits",
    "Message",
    "NotAccepted",
    "NotApplied",
    "Outcome",
    "Pod",
    "Refuse",
    "Retry",
    "ServerFailed",
    "Settings",
    "Stream",
    "TielineError",
    "Tool",
    "ToolFailed",
    "ToolRun",
    "Unconfirmed",
    "Unreachable",
    "connect",
]
