"""The copies of each stream, compared: a replica that lost messages to bit rot says nothing, and its health is green.

Each server tells what it holds itself, on its monitoring pages. What differs twice, a while apart, without moving is
not on its way: one of the copies is wrong, or their servers do not hear one another.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tieline.errors import BadSettings
from tieline.services.doctor.monitoring import fetched

__all__ = ["Copy", "Damage", "Examined", "Split", "compared", "copies", "examined", "splits"]

_PAUSE = 3.0  # seconds between the two looks: a replica catches up in less, or moves
_PAGE = "/jsz?accounts=true&streams=true&config=true&raft=true&limit=100000"


@dataclass(frozen=True, slots=True)
class Copy:
    """What one server holds of a stream. ``state`` is what must be the same on all: sequences and counts.

    ``traffic`` is the account that carries its Raft traffic, and empty where there is one copy.
    """

    server: str
    account: str
    stream: str
    leader: str
    replicas: int
    state: Mapping[str, int]
    traffic: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stream whose copies differ. ``odd`` are the servers that the majority contradicts; empty where none is one."""

    account: str
    stream: str
    leader: str
    copies: tuple[Copy, ...]
    odd: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to do, in order."""
        if not self.odd:
            return (
                f"no majority agrees on {self.stream}: stop publishing to it, back up each server's store, and keep "
                "the copy with the most messages"
            )
        server = self.odd[0]
        lead = f"nats stream cluster step-down {self.stream}; then " if server == self.leader else ""
        return (
            f"{lead}stop {server}, remove its folder jetstream, and start it: it catches up from the others; then look "
            "again. One server at a time, and only while the others agree"
        )


@dataclass(frozen=True, slots=True)
class Split:
    """An account's servers that send its Raft traffic by different accounts: they do not hear one another.

    nats-server 2.15 takes a peer for one without ``cluster_traffic`` from the connection's first moment until the
    peer's first status message, and sends by the system account meanwhile. Where the peer dies between the two, it
    stays so until the peer is back: two servers of three live, and there is no majority (`checkAccountNRGStatus` in
    its ``raft.go``).
    """

    account: str
    traffic: Mapping[str, str]
    """The accounts by which each server sends; more than one for a server that is in between."""

    @property
    def odd(self) -> tuple[str, ...]:
        """The servers that do not send by the account itself."""
        return tuple(server for server, by in self.traffic.items() if by != self.account)

    @property
    def remedy(self) -> str:
        """What to do, in order."""
        return (
            f"start the server that is down, or restart {self.odd[0]} while it is down: either makes a majority at "
            f"once. Where all are up, and it comes back: {self.odd[0]} is configured without cluster_traffic: owner"
        )


@dataclass(frozen=True, slots=True)
class Examined:
    """The copies there are, and what is wrong with them and stays so."""

    copies: tuple[Copy, ...]
    damages: tuple[Damage, ...]
    splits: tuple[Split, ...]


async def copies(monitors: Iterable[str]) -> list[Copy]:
    """What each server says it holds; ``monitors`` are the URLs of their monitoring pages.

    Raises `BadSettings` for what is no URL, and `OSError` naming a server that does not answer.
    """
    monitors = list(monitors)
    for url in monitors:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise BadSettings(f"--monitor {url.rpartition('@')[2]!r} is not a URL; write http://host:8222")
    told = await asyncio.gather(*(asyncio.to_thread(_told, url) for url in monitors))
    return [copy for page in told for copy in _copies_in(page)]


async def examined(monitors: Sequence[str], pause: float = _PAUSE) -> Examined:
    """What is wrong at two looks, ``pause`` seconds apart. Raises like `copies`."""
    found = await copies(monitors)
    first, parted = compared(found), splits(found)
    if first or parted:
        await asyncio.sleep(pause)
        found = await copies(monitors)
    standing = {(one.account, one.stream): _states(one.copies) for one in first}
    still = [one for one in compared(found) if standing.get((one.account, one.stream)) == _states(one.copies)]
    return Examined(tuple(found), tuple(still), tuple(one for one in splits(found) if one in parted))


def compared(found: Iterable[Copy]) -> list[Damage]:
    """The streams whose copies differ, at this moment: one of them may just not have caught up."""
    by_stream: dict[tuple[str, str], list[Copy]] = {}
    for copy in found:
        by_stream.setdefault((copy.account, copy.stream), []).append(copy)
    return [_judged(group) for _, group in sorted(by_stream.items()) if len(set(_states(group).values())) > 1]


def splits(found: Iterable[Copy]) -> list[Split]:
    """The accounts whose servers do not send by the same account, at this moment: one may just have started."""
    by_account: dict[str, dict[str, set[str]]] = {}
    for copy in found:
        if copy.traffic:
            by_account.setdefault(copy.account, {}).setdefault(copy.server, set()).add(copy.traffic)
    parted = {account: by for account, by in by_account.items() if len(set().union(*by.values())) > 1}
    return [
        Split(account, {server: ", ".join(sorted(names)) for server, names in sorted(by.items())})
        for account, by in sorted(parted.items())
    ]


def _judged(group: Sequence[Copy]) -> Damage:
    states = _states(group)
    most, votes = Counter(states.values()).most_common(1)[0]
    agreed = votes > max(copy.replicas for copy in group) // 2
    odd = tuple(sorted(server for server, state in states.items() if state != most)) if agreed else ()
    return Damage(group[0].account, group[0].stream, group[0].leader, tuple(group), odd)


def _states(group: Iterable[Copy]) -> dict[str, tuple[tuple[str, int], ...]]:
    return {copy.server: tuple(sorted(copy.state.items())) for copy in group}


def _told(url: str) -> Mapping[str, Any]:
    try:
        return {**fetched(url.rstrip("/") + _PAGE), "server_name": fetched(url.rstrip("/") + "/varz")["server_name"]}
    except OSError as error:
        raise OSError(f"{url.rpartition('@')[2]}: {error}") from error


def _copies_in(page: Mapping[str, Any]) -> Iterable[Copy]:
    for account in page.get("account_details") or ():
        for stream in account.get("stream_detail") or ():
            cluster, state = stream.get("cluster") or {}, stream["state"]
            names = ("messages", "first_seq", "last_seq", "num_deleted")
            yield Copy(
                server=str(page["server_name"]),
                account=str(account["name"]),
                stream=str(stream["name"]),
                leader=str(cluster.get("leader", "")),
                replicas=int((stream.get("config") or {}).get("num_replicas", 1)),
                state={name: int(state.get(name, 0)) for name in names},
                traffic=str(cluster.get("traffic_account", "")),
            )
