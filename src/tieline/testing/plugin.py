"""The pytest plugin: `nats_server` and `nats_url`, a real server of each test's own.

Needs no async plugin, and goes with each: the fixtures are plain ones, and the server belongs to no event loop.
pytest loads this module in every run, so it imports nothing but pytest until a fixture is asked for.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tieline.testing.cluster import Cluster
    from tieline.testing.server import Server

_REPORT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "nats_server_sync",
        default="2m",
        help='sync of the nats_server fixture: "2m" is fast and survives kills; "always" is what ships',
    )


def pytest_configure(config: pytest.Config) -> None:
    from tieline.testing.watchdog import report_to

    config.addinivalue_line(
        "markers", 'nats(**config): fields of tieline.server.ServerConfig for nats_server, e.g. sync="always"'
    )
    # Capture is suspended here, so this is the terminal; under a test, stderr is a file that dies with the process.
    with suppress(OSError):  # a run without a stderr has nobody to read it
        config.stash[_REPORT] = os.dup(2)
        report_to(config.stash[_REPORT])


def pytest_unconfigure(config: pytest.Config) -> None:
    from tieline.testing.watchdog import report_to

    if (descriptor := config.stash.get(_REPORT, None)) is not None:
        report_to()
        os.close(descriptor)


@pytest.fixture
def nats_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["Server"]:
    """A fresh `tieline.testing.Server` on a free port, its data under ``tmp_path``, stopped after the test.

    ``@pytest.mark.nats(sync="always", monitor_port=0)`` sets fields of its `tieline.server.ServerConfig`.
    """
    import asyncio

    from tieline.server import ServerConfig
    from tieline.testing.server import Server

    marker = request.node.get_closest_marker("nats")
    fields = {"sync": request.config.getini("nats_server_sync")} | (marker.kwargs if marker else {})
    server = Server(ServerConfig(data=tmp_path / "nats", **fields))
    # A loop of our own, made by hand: `asyncio.run` would take the current one away from an async plugin.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(server.start())
        try:
            yield server
        finally:
            runner.run(server.stop())


@pytest.fixture
def nats_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["Cluster"]:
    """A fresh `tieline.testing.Cluster` of three servers on free ports, stopped after the test. Marked like
    `nats_server`."""
    import asyncio

    from tieline.server import ServerConfig
    from tieline.testing.cluster import Cluster

    marker = request.node.get_closest_marker("nats")
    fields = {"sync": request.config.getini("nats_server_sync")} | (marker.kwargs if marker else {})
    cluster = Cluster(ServerConfig(data=tmp_path / "nats", **fields))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(cluster.start())
        try:
            yield cluster
        finally:
            runner.run(cluster.stop())


@pytest.fixture
def nats_url(nats_server: "Server") -> str:
    """The URL of `nats_server`."""
    return nats_server.url
