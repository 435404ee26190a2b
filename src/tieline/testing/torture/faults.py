"""The thirty faults, by the numbers of the reliability notes."""

from collections.abc import Iterable

from tieline.errors import BadSettings
from tieline.testing.torture.disks import no_disk
from tieline.testing.torture.fault import Fault, Strike
from tieline.testing.torture.faults_data import hostile_payloads, rot, rotten_meta
from tieline.testing.torture.faults_machines import (
    bridge,
    cut_the_leader,
    deafen_the_leader,
    lossy,
    power_all,
    power_dance,
    power_fresh,
)
from tieline.testing.torture.faults_processes import (
    ambiguous,
    audit_away,
    frozen_clerk,
    long_outage,
    nothing,
    poison,
    slow_reader,
    stale_retry,
)
from tieline.testing.torture.faults_servers import (
    fill_the_disk,
    freeze_the_leader,
    kill_all,
    kill_the_consumers_leader,
    kill_the_leader,
    kill_two,
    no_strace,
    not_root,
    roll,
    storm,
    syncs_fail,
)
from tieline.testing.torture.load import Plan
from tieline.testing.torture.network import no_network

__all__ = ["FAULTS", "chosen"]

_LONG = Plan(lanes=6, jobs=60, pause=0.3)
_TENANTS = "needs tenants, and is tested beside them (tests/live/test_permissions.py)"


def _elsewhere(number: int, name: str, breaks: str, why: str) -> Fault:
    return Fault(number=number, name=name, breaks=breaks, strike=None, why_not=lambda: why)


def _apart(number: int, name: str, breaks: str, strike: Strike) -> Fault:
    return Fault(
        number=number, name=name, breaks=breaks, strike=strike, servers=3, apart=True, why_not=no_network, plan=_LONG
    )


def _powered(number: int, name: str, breaks: str, strike: Strike) -> Fault:
    return Fault(
        number=number, name=name, breaks=breaks, strike=strike, servers=3, powered=True, why_not=no_disk, plan=_LONG
    )


FAULTS: tuple[Fault, ...] = (
    Fault(number=1, name="kill-stream-leader", breaks="kill -9 the stream's leader", strike=kill_the_leader, servers=3),
    Fault(
        number=2,
        name="kill-consumer-leader",
        breaks="kill -9 the consumer's leader",
        strike=kill_the_consumers_leader,
        servers=3,
    ),
    Fault(number=3, name="kill-two", breaks="two of three servers away", strike=kill_two, servers=3),
    Fault(number=4, name="kill-all", breaks="kill -9 every server", strike=kill_all),
    Fault(number=5, name="pause-leader", breaks="SIGSTOP the server for 12 s", strike=freeze_the_leader),
    Fault(number=6, name="pause-client-side", breaks="SIGSTOP a clerk past its ack wait", strike=frozen_clerk),
    _apart(7, "cut-leader-peers", "the leader alone with its clients", cut_the_leader),
    _apart(8, "deaf-leader", "the leader is heard and hears nothing", deafen_the_leader),
    _apart(9, "bridge", "followers cut from each other", bridge),
    _apart(10, "lossy-20", "one packet in five is lost", lossy),
    _powered(11, "power-all", "power loss of every server", power_all),
    _powered(12, "power-dance", "power loss of one, others frozen", power_dance),
    _powered(13, "power-fresh", "power loss of a new stream", power_fresh),
    Fault(number=14, name="fsync-eio", breaks="fsync gives EIO", strike=syncs_fail, why_not=no_strace),
    Fault(number=15, name="disk-full", breaks="no room on the disk", strike=fill_the_disk, why_not=not_root, store=96),
    Fault(number=16, name="bit-rot", breaks="flipped bytes in one copy", strike=rot, servers=3, sync="2m"),
    Fault(number=17, name="snapshot-rot", breaks="flipped bytes in a server's meta", strike=rotten_meta, servers=3),
    Fault(
        number=18,
        name="poison-crash",
        breaks="jobs that end their process",
        strike=poison,
        plan=Plan(lanes=6, jobs=10, poison=3, odd=0),
    ),
    Fault(number=19, name="dlq-mover-away", breaks="the audit process away", strike=audit_away, plan=Plan(odd=0.3)),
    Fault(number=20, name="stale-retry", breaks="a retry after the window", strike=stale_retry, plan=Plan(jobs=5)),
    Fault(number=21, name="ambiguous-timeout", breaks="publishes time out", strike=ambiguous, plan=Plan(jobs=30)),
    Fault(
        number=22,
        name="slow-handler",
        breaks="handlers three times as long as the ack wait",
        strike=nothing,
        plan=Plan(lanes=6, jobs=10, slow=10),
    ),
    Fault(number=23, name="slow-subscriber", breaks="subscribers that do not read", strike=slow_reader),
    Fault(
        number=24,
        name="long-outage",
        breaks="the server away past the reconnect budget",
        strike=long_outage,
        reconnect=2.0,
    ),
    Fault(number=25, name="reconnect-storm", breaks="200 clients lose everything", strike=storm),
    Fault(number=26, name="rolling-upgrade", breaks="each server restarted in turn", strike=roll, servers=3),
    _elsewhere(27, "denied-fast", "publishing what is not allowed", _TENANTS),
    _elsewhere(28, "tenant-breakout", "reaching into another tenant", _TENANTS),
    _elsewhere(29, "revoke-live", "credentials revoked at work", _TENANTS),
    Fault(
        number=30,
        name="hostile-payload",
        breaks="payloads and headers of every kind",
        strike=hostile_payloads,
        plan=Plan(odd=0.2, canary="canary-5550100-secret"),
    ),
)


def chosen(names: Iterable[str]) -> tuple[Fault, ...]:
    """The faults of these names or numbers, in their own order; all where there are none. `BadSettings` for others."""
    wanted = list(names)
    known = {key: fault for fault in FAULTS for key in (fault.name, str(fault.number))}
    if unknown := [name for name in wanted if name not in known]:
        raise BadSettings(f"no fault {', '.join(unknown)}; there are 1 to {len(FAULTS)} (tieline torture --list)")
    picked = {known[name].number for name in wanted}
    return tuple(fault for fault in FAULTS if not wanted or fault.number in picked)
