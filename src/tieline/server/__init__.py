"""The embedded nats-server: one child process, its configuration as text, and a clear error when it cannot run."""

from tieline.server.binary import find_binary
from tieline.server.cluster import EmbeddedCluster
from tieline.server.config import OperatorMode, Routes, ServerConfig, Tls, render
from tieline.server.embedded import EmbeddedServer
from tieline.server.keeping import ServerEnded, ServerRestarted, keep_running

__all__ = [
    "EmbeddedCluster",
    "EmbeddedServer",
    "OperatorMode",
    "Routes",
    "ServerConfig",
    "ServerEnded",
    "ServerRestarted",
    "Tls",
    "find_binary",
    "keep_running",
    "render",
]
