"""The embedded nats-server: one child process, its configuration as text, and a clear error when it cannot run."""

from tieline.server.binary import find_binary
from tieline.server.cluster import EmbeddedCluster
from tieline.server.config import OperatorMode, Routes, ServerConfig, Tls, render
from tieline.server.embedded import EmbeddedServer

__all__ = [
    "EmbeddedCluster",
    "EmbeddedServer",
    "OperatorMode",
    "Routes",
    "ServerConfig",
    "Tls",
    "find_binary",
    "render",
]
