"""A server in operator mode, and connections with credentials made for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tieline import Bus, Pod, Settings, connect
from tieline.deploy import tenants
from tieline.deploy.keys import Keys
from tieline.deploy.permissions import grants_of
from tieline.server import ServerConfig
from tieline.settings import ConnectionSettings, PublishSettings
from tieline.testing import Server

__all__ = ["bus_of", "served"]


@asynccontextmanager
async def served(keys: Keys, tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(ServerConfig(data=tmp_path / "nats", operator=tenants.operator_mode(keys), sync="2m")) as server:
        yield server


@asynccontextmanager
async def bus_of(
    server: Server, keys: Keys, tenant: str, pod: Pod, name: str, user: str = "", **changes: Any
) -> AsyncIterator[Bus]:
    """A connection with credentials for ``name``, made now."""
    path = keys.folder / f"{tenant}-{name}-{user}.creds"
    keys.write_credentials(path, tenants.issue(keys, tenant, user or name, grants_of(pod, [name])))
    connection = ConnectionSettings(servers=(server.url,), credentials=path, reconnect=30.0)
    settings = Settings(connection=connection, publish=PublishSettings(patience=5.0), **changes)
    async with connect(pod, settings=settings) as bus:
        yield bus
