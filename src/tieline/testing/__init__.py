"""The testing kit: a real server with faults, a wire that can be cut, and waiting for facts.

Imported lazily: pytest loads `tieline.testing.plugin`, and so this package, in every run of every user.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tieline.testing.cluster import Cluster
    from tieline.testing.proxy import Proxy
    from tieline.testing.server import Server
    from tieline.testing.waiting import eventually

__all__ = ["Cluster", "Proxy", "Server", "eventually"]

_HOMES = {
    "Cluster": "tieline.testing.cluster",
    "Proxy": "tieline.testing.proxy",
    "Server": "tieline.testing.server",
    "eventually": "tieline.testing.waiting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
