"""The embedded nats-server: one child process, its configuration as text, and a clear error when it cannot run."""

from tieline.server.binary import find_binary
from tieline.server.config import ServerConfig, render
from tieline.server.embedded import EmbeddedServer

__all__ = ["EmbeddedServer", "ServerConfig", "find_binary", "render"]
