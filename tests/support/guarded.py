"""A server with users and their permissions, for what the embedded one does not have."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tieline.server import find_binary

__all__ = ["address", "guarded_server"]


@contextmanager
def guarded_server(data: Path, users: str) -> Iterator[Path]:
    """A nats-server with ``users`` (the inside of ``authorization { users: [ … ] }``): the folder of its ports file."""
    data.mkdir()
    config = data / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{data}"\njetstream {{ store_dir: "{data}", sync_interval: "2m" }}\n'
        f"authorization {{ users: [ {users} ] }}\n"
    )
    process = subprocess.Popen([find_binary(), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield data
    finally:
        process.terminate()
        process.wait()


def address(data: Path) -> str | None:
    """``host:port`` of the server, once it has said so."""
    for ports in data.glob("*.ports"):
        [url] = json.loads(ports.read_text())["nats"]
        return str(url).removeprefix("nats://")
    return None
