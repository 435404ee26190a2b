"""``tieline tenant``: accounts of a server in operator mode, and their keys."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tieline.cli.options import JsonOption, PodArgument, ServerOption, byte_count, settings_of
from tieline.cli.printing import console, print_json, print_table, size
from tieline.deploy import tenants
from tieline.deploy.jwt import Limits
from tieline.deploy.keys import Keys, Tenant
from tieline.deploy.tenants import Told
from tieline.errors import BadSettings
from tieline.services.reference import load_pod
from tieline.subjects import covers

__all__ = ["KEYS", "KeysOption", "tenant"]

KEYS = Path(".tieline/keys")

KeysOption = Annotated[Path, typer.Option("--keys", metavar="FOLDER", help="Where the keys are.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Change the keys only; `tieline tenant push` tells the server.")
]

tenant = typer.Typer(help="Tenants: NATS accounts, with streams, limits and credentials of their own.")


@tenant.command()
def create(
    name: str,
    storage: Annotated[str | None, typer.Option(help="On disk, such as 10GB; replicas count.")] = None,
    streams: Annotated[int, typer.Option(help="How many; -1: no limit.")] = -1,
    consumers: Annotated[int, typer.Option(help="How many.")] = -1,
    connections: Annotated[int, typer.Option(help="How many at once.")] = -1,
    subscriptions: Annotated[int, typer.Option(help="How many at once.")] = -1,
    payload: Annotated[str | None, typer.Option(help="The largest message, such as 512KB.")] = None,
    keys: KeysOption = KEYS,
    offline: OfflineOption = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Make a tenant, or change its limits, and tell the server. The first one makes the operator's keys too."""
    limits = Limits(
        storage=-1 if storage is None else byte_count("--storage", storage),
        streams=streams,
        consumers=consumers,
        connections=connections,
        subscriptions=subscriptions,
        payload=-1 if payload is None else byte_count("--payload", payload),
    )
    store = Keys(keys)
    made = tenants.create(store, name, limits)
    _report(made.name, _pushed(store, [name], server, offline=offline), keys, as_json=json)
    return 0


@tenant.command()
def invite(
    name: str,
    pod: PodArgument,
    of: Annotated[str | None, typer.Option("--of", metavar="TENANT", help="Whose guest.", show_default="POD")] = None,
    publishes: Annotated[
        list[str] | None,
        typer.Option(metavar="SUBJECT", help="Where it may send; all that the pod opens to guests unless given."),
    ] = None,
    connections: Annotated[int, typer.Option(help="How many at once.")] = 10,
    payload: Annotated[str, typer.Option(help="The largest message.")] = "64KB",
    keys: KeysOption = KEYS,
    offline: OfflineOption = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Make a guest of a tenant: an account of its own, whose messages come through the pod's gateway; its credentials.

    Again with the same name: other subjects and limits, and new credentials; those before end.
    """
    declared, store = load_pod(pod), Keys(keys)
    host, wanted = of or declared.name, publishes or list(declared.ingress)
    closed = [subject for subject in wanted if not any(covers(own, subject) for own in declared.ingress)]
    if closed or not wanted:
        what = f"does not open {', '.join(closed)}" if closed else "opens nothing"
        raise BadSettings(f"pod {declared.name} {what} to guests; name them in pod.open_to_guests(…)")
    limits = Limits(storage=0, memory=0, connections=connections, payload=byte_count("--payload", payload))
    place = keys / "creds" / name / f"{name}.creds"
    store.write_credentials(place, tenants.invite(store, name, host, wanted, limits))
    told = _pushed(store, [host, name], server, offline=offline)
    _report(f"{place}: {name} may send to {', '.join(wanted)}", told, keys, as_json=json)
    return 0


@tenant.command()
def ls(keys: KeysOption = KEYS, json: JsonOption = False) -> int:
    """The tenants, with their limits and users."""
    found = Keys(keys).tenants()
    if json:
        print_json([_told(one) for one in found])
        return 0
    rows = [(t.name, t.key.public, _limits(t.limits), len(t.users), _remark(t)) for t in found]
    print_table("Tenants", ("name", "account", "limits", ">users", ""), rows)
    return 0


@tenant.command()
def show(name: str, keys: KeysOption = KEYS, json: JsonOption = False) -> int:
    """A tenant's users: what each was made for, and when its credentials end."""
    found = Keys(keys).tenant(name)
    if json:
        print_json(_told(found))
        return 0
    rows = [
        (
            one.name,
            one.public,
            ", ".join(one.runs),
            _day(one.issued),
            "never" if one.expires is None else _day(one.expires),
        )
        for one in found.users.values()
    ]
    print_table(f"{name}: {_limits(found.limits)}", ("user", "key", "for", "made", "ends"), rows)
    return 0


@tenant.command()
def revoke(
    name: str,
    user: Annotated[str, typer.Argument(help="The user's name, or its public key.")],
    keys: KeysOption = KEYS,
    offline: OfflineOption = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """End a user's credentials: connections that use them are cut at once."""
    store = Keys(keys)
    meant = tenants.revoke(store, name, user)
    told = _pushed(store, [name], server, offline=offline)
    _report(f"{name}: {len(meant)} credentials of {user} revoked", told, keys, as_json=json)
    return 0


@tenant.command()
def rotate(
    name: str,
    finish: Annotated[
        bool, typer.Option("--finish", help="End what the old key signed. All processes have new credentials.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Both at once: all present credentials end.")] = False,
    keys: KeysOption = KEYS,
    offline: OfflineOption = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Give a tenant a new signing key. Then make new credentials (`tieline creds`) and end with --finish."""
    store = Keys(keys)
    if not finish:
        tenants.rotate(store, name, finish=False)
    if finish or now:
        tenants.rotate(store, name, finish=True)
    told = _pushed(store, [name], server, offline=offline)
    what = "only the new key signs" if finish or now else "the new key signs; the old one is good until --finish"
    _report(f"{name}: {what}", told, keys, as_json=json)
    return 0


@tenant.command()
def push(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="All unless given.")] = None,
    keys: KeysOption = KEYS,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Tell a running server of tenants as they are in the keys."""
    store = Keys(keys)
    wanted = names or [one.name for one in store.tenants()]
    _report(", ".join(wanted), _pushed(store, wanted, server, offline=False), keys, as_json=json)
    return 0


@tenant.command()
def rm(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", help="Really.")] = False,
    keys: KeysOption = KEYS,
    offline: OfflineOption = False,
    server: ServerOption = None,
    json: JsonOption = False,
) -> int:
    """Remove a tenant: nobody can connect as it any more, and its keys are gone. Say --yes."""
    store = Keys(keys)
    store.tenant(name)
    if not yes:
        raise BadSettings(f"this ends every process of tenant {name} and destroys its keys; say --yes")
    settings = None if offline else settings_of(server).connection
    told = asyncio.run(tenants.remove(store, settings, name))
    _report(f"{name} removed", told, keys, as_json=json)
    return 0


def _pushed(keys: Keys, names: Sequence[str], server: list[str] | None, *, offline: bool) -> list[Told]:
    return [] if offline else asyncio.run(tenants.push(keys, settings_of(server).connection, names))


def _report(what: str, told: list[Told], keys: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"keys": str(keys), "told": [{"server": one.server, "message": one.message} for one in told]})
        return
    where = ", ".join(sorted({one.server for one in told}))
    console().print(f"{what}; {f'server {where} knows' if told else 'no server was told (tieline tenant push)'}")


def _told(one: Tenant) -> dict[str, object]:
    limits = {name: getattr(one.limits, name) for name in Limits.__slots__}
    users = [
        {"name": u.name, "key": u.public, "for": list(u.runs), "issued": u.issued, "expires": u.expires}
        for u in one.users.values()
    ]
    return {
        "name": one.name,
        "account": one.key.public,
        "limits": limits,
        "rotating": bool(one.retiring),
        "guestOf": one.visits.host if one.visits else None,
        "users": users,
    }


def _remark(one: Tenant) -> str:
    guest = f"guest of {one.visits.host}" if one.visits else ""
    return ", ".join(part for part in (guest, "rotating" if one.retiring else "") if part)


def _limits(limits: Limits) -> str:
    set_ = {name: getattr(limits, name) for name in Limits.__slots__ if getattr(limits, name) != -1}
    shown = [f"{name} {size(value) if name in ('storage', 'payload') else value}" for name, value in set_.items()]
    return ", ".join(shown) or "no limits"


def _day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
