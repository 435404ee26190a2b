"""Servers in networks of their own, between which packets may be dropped. Root only, Linux only.

Each has a network namespace, joined to the others and to this machine by a router in one more. What the router drops,
neither side is told of. Addresses are of 198.18.0.0/15, which is kept for measurements; nothing else reaches them.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["Network", "network_of", "no_network"]

_LOST, _SENT = 0.01, 0.04  # seconds that packets are dropped, and are not: one in five
_TRIES = 200  # networks looked at until one is free


class Network:
    """A router and ``count`` networks, numbered from 0."""

    def __init__(self, count: int) -> None:
        self._number = next(n for n in range(os.getpid() % 200, os.getpid() % 200 + _TRIES) if _free(n % 250)) % 250
        self._name = f"tieline-{self._number}"
        self.count = count

    def address(self, node: int) -> str:
        """Where a server listens."""
        return f"198.18.{self._number}.{4 * node + 6}"

    def launcher(self, node: int) -> tuple[str, ...]:
        """What a server is started through, so that it is in its network. `ip netns exec` would hide mounts too."""
        return (shutil.which("nsenter") or "nsenter", f"--net=/run/netns/{self._name}-{node}", "--")

    def build(self) -> None:
        """Make it all."""
        router, net = f"{self._name}-r", f"198.18.{self._number}"
        link = f"tieline{self._number}"
        _ip("netns", "add", router)
        _ip("link", "add", link, "type", "veth", "peer", "name", "host", "netns", router)
        _ip("addr", "add", f"{net}.1/30", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", router, "addr", "add", f"{net}.2/30", "dev", "host")
        _ip("-n", router, "link", "set", "host", "up")
        for node in range(self.count):
            own, gate = f"{self._name}-{node}", f"{net}.{4 * node + 5}"
            _ip("netns", "add", own)
            _ip("-n", router, "link", "add", f"n{node}", "type", "veth", "peer", "name", "wire", "netns", own)
            _ip("-n", router, "addr", "add", f"{gate}/30", "dev", f"n{node}")
            _ip("-n", router, "link", "set", f"n{node}", "up")
            _ip("-n", own, "addr", "add", f"{self.address(node)}/30", "dev", "wire")
            _ip("-n", own, "link", "set", "wire", "up")
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("-n", own, "route", "add", "default", "via", gate)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run("nsenter", f"--net=/run/netns/{router}", "sh", "-c", forward)
        _ip("route", "add", f"{net}.0/24", "via", f"{net}.2")

    def remove(self) -> None:
        """Take away what there is of it."""
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", f"tieline{self._number}")
        for name in (*(f"{self._name}-{node}" for node in range(self.count)), f"{self._name}-r"):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def deafen(self, listener: int, speaker: int) -> None:
        """Nothing that ``speaker`` says reaches ``listener`` any more."""
        self._rule("add", speaker, listener)

    def hear(self, listener: int, speaker: int) -> None:
        """It does again."""
        self._rule("del", speaker, listener)

    def cut(self, one: int, other: int) -> None:
        """Neither hears the other; clients hear both."""
        self.deafen(one, other)
        self.deafen(other, one)

    def join(self, one: int, other: int) -> None:
        """They hear each other again."""
        self.hear(one, other)
        self.hear(other, one)

    async def lossy(self, node: int, seconds: float) -> None:
        """For so long, a fifth of what is sent to ``node``, by whomever, is dropped: all of a few milliseconds."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await asyncio.to_thread(self._ip_rule, "add", "to", self.address(node))
            await asyncio.sleep(_LOST)
            await asyncio.to_thread(self._ip_rule, "del", "to", self.address(node))
            await asyncio.sleep(_SENT)

    def _rule(self, verb: str, speaker: int, listener: int) -> None:
        self._ip_rule(verb, "from", self.address(speaker), "to", self.address(listener))

    def _ip_rule(self, verb: str, *which: str) -> None:
        _ip("-n", f"{self._name}-r", "rule", verb, *which, "blackhole")


@contextmanager
def network_of(count: int) -> Iterator[Network]:
    """A network that is gone afterwards."""
    network = Network(count)
    try:
        network.build()
        yield network
    finally:
        network.remove()


def no_network() -> str | None:
    """Why there can be none here, if there cannot."""
    if os.geteuid() != 0:
        return "needs root: each server gets a network of its own"
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"needs {program} (apt-get install iproute2 util-linux)"
    tried = Network(1)
    try:
        tried.build()
    except (subprocess.CalledProcessError, OSError):
        return "this machine does not let root make networks"
    finally:
        tried.remove()
    return None


def _free(number: int) -> bool:
    return not Path(f"/run/netns/tieline-{number}-r").exists()


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
