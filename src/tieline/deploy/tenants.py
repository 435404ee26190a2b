"""Tenants: made, limited, given users, revoked, and told to a running server."""

import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tieline.deploy.jwt import (
    Doors,
    Key,
    Limits,
    account_jwt,
    credentials_text,
    issued,
    new_key,
    operator_jwt,
    user_jwt,
)
from tieline.deploy.keys import Keys, Operator, Tenant, User, Visit
from tieline.deploy.permissions import OWN_KEY, Grant, Permissions, inbox_of, permissions_of
from tieline.errors import BadSettings, NotApplied
from tieline.server.config import OperatorMode
from tieline.settings import ConnectionSettings
from tieline.subjects import ingress, key_of
from tieline.wire.connection import Connection, NoAnswer

__all__ = ["Told", "create", "invite", "issue", "operator_mode", "push", "remove", "revoke", "rotate", "token_of"]

_UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
_DELETE = "$SYS.REQ.CLAIMS.DELETE"


@dataclass(frozen=True, slots=True)
class Told:
    """What a server answered: which one, and whether it took it."""

    server: str
    message: str


def create(keys: Keys, name: str, limits: Limits) -> Tenant:
    """A tenant of that name with these limits: made now, or changed to them. `BadSettings` for no name."""
    _check_name(name)
    with keys.changing():
        keys.operator_or_new()
        try:
            tenant = replace(keys.tenant(name), limits=limits)
            if tenant.visits is not None:
                raise BadSettings(f"{name} is a guest of {tenant.visits.host}; tieline tenant invite changes it")
        except BadSettings:
            if (keys.folder / "tenants" / f"{name}.json").exists():
                raise
            tenant = Tenant(name, new_key("account"), new_key("account"), limits)
        keys.keep(tenant)
    return tenant


def _check_name(name: str) -> None:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or name.lower() == "sys":
        raise BadSettings(f"tenant {name!r}: use letters, digits, - and _, and not SYS")


def invite(keys: Keys, name: str, host: str, subjects: Iterable[str], limits: Limits) -> str:
    """A guest of the tenant ``host``: an account without streams, from which these subjects lead to the gateway, and
    nothing else anywhere. Made now, or changed. Its credentials, good for ever; those before end. No server is asked.
    `BadSettings` for a name that is not its."""
    wanted = tuple(dict.fromkeys(subjects))
    with keys.changing():
        visit = Visit(host, keys.tenant(host).key.public, wanted)
        try:
            guest = keys.tenant(name)
        except BadSettings:
            _check_name(name)
            guest = Tenant(name, new_key("account"), new_key("account"), limits, visits=visit)
        if guest.visits is None or guest.visits.host != host:
            raise BadSettings(f"{name} is no guest of {host} but there already; give the guest another name")
        keys.keep(replace(guest, limits=limits, visits=visit))
    if guest.users:
        revoke(keys, name, name)
    return issue(keys, name, name, [Grant("publish", subject, name, f"a guest of {host}") for subject in wanted])


def issue(
    keys: Keys, tenant: str, name: str, grants: Iterable[Grant], days: float | None = None, user: Key | None = None
) -> str:
    """Credentials for a process that needs ``grants``, good for so many ``days`` (None: for ever). The text is the
    only place that has its seed. Signed offline: no server is asked. Those made before stay good; see `revoke`.
    ``user`` is its key, new unless given."""
    user, said = user or new_key("user"), list(grants)
    now = int(time.time())
    expires = None if days is None else now + int(days * 86400)
    allowed = permissions_of(said, inbox_of(name))
    own = (key_of(user.public) if subject == OWN_KEY else subject for subject in allowed.publish)
    allowed = replace(allowed, publish=tuple(own))
    with keys.changing():
        owner = keys.tenant(tenant)
        jwt = user_jwt(user.public, name, owner.key.public, owner.signing, allowed, expires)
        runs = tuple(dict.fromkeys(grant.who for grant in said))
        users = {**owner.users, user.public: User(name, user.public, now, expires, runs)}
        keys.keep(replace(owner, users=users))
    return credentials_text(jwt, user.seed)


def revoke(keys: Keys, tenant: str, user: str) -> list[User]:
    """Let no credentials of that name (or public key) connect any more, once it is pushed. Who was meant."""
    with keys.changing():
        owner = keys.tenant(tenant)
        meant = [one for one in owner.users.values() if user in (one.name, one.public)]
        if not meant:
            has = ", ".join(sorted({one.name for one in owner.users.values()})) or "none"
            raise BadSettings(f"tenant {tenant} has no user {user!r}; it has {has}")
        now = int(time.time())
        left = {key: one for key, one in owner.users.items() if one not in meant}
        keys.keep(replace(owner, users=left, revoked={**owner.revoked, **{one.public: now for one in meant}}))
    return meant


def rotate(keys: Keys, tenant: str, *, finish: bool) -> Tenant:
    """Give a tenant a new signing key. The one before stays good until a rotation is asked to ``finish``: all
    credentials that it signed stop working then. `BadSettings` where there is nothing to begin or to finish."""
    with keys.changing():
        owner = keys.tenant(tenant)
        if finish:
            changed = replace(owner, retiring=None)
        elif owner.retiring is not None:
            raise BadSettings(f"tenant {tenant} is being rotated: give every process new credentials, then --finish")
        else:
            changed = replace(owner, signing=new_key("account"), retiring=owner.signing.public)
        keys.keep(changed)
    return changed


def token_of(tenant: Tenant, operator: Operator) -> str:
    """The account's JWT."""
    signing = (tenant.signing.public, *([tenant.retiring] if tenant.retiring else []))
    return account_jwt(tenant.key.public, operator.signing, tenant.limits, signing, tenant.revoked, _doors(tenant))


def _doors(tenant: Tenant) -> Doors:
    """Every tenant may have guests. Who they are is in their own JWTs, which only the operator signs."""
    if tenant.visits is None:
        return Doors(out=ingress("*", ">"))
    into = {subject: ingress(tenant.name, subject) for subject in tenant.visits.subjects}
    return Doors(host=tenant.visits.account, into=into)


def operator_mode(keys: Keys) -> OperatorMode:
    """What a server of ours is told: the operator, its system account, and every tenant there is now."""
    operator = keys.operator()
    system = account_jwt(operator.system.public, operator.signing, None, (), {})
    accounts = {operator.system.public: system}
    accounts |= {tenant.key.public: token_of(tenant, operator) for tenant in keys.tenants()}
    jwt = operator_jwt(operator.key, operator.name, operator.signing, operator.system.public)
    return OperatorMode(jwt=jwt, system_account=operator.system.public, accounts=accounts)


async def push(keys: Keys, settings: ConnectionSettings, tenants: Iterable[str]) -> list[Told]:
    """Tell a running server of tenants as they are in the keys now; what each server answered.

    `NotApplied` where none takes it, or none answers: is it in operator mode, with this operator?
    """
    operator = keys.operator()
    told: list[Told] = []
    async with _as_system(operator, settings) as connection:
        for name in tenants:
            told += await _asked(connection, _UPDATE, token_of(keys.tenant(name), operator))
    return told


async def remove(keys: Keys, settings: ConnectionSettings | None, name: str) -> list[Told]:
    """Take a tenant from the server (None: it is on none) and its keys for good. Its streams stay on disk until the
    server's store is cleaned; nobody can reach them."""
    operator, tenant = keys.operator(), keys.tenant(name)
    told: list[Told] = []
    if settings is not None:
        claims = {"sub": operator.key.public, "name": "remove", "nats": {"accounts": [tenant.key.public]}}
        async with _as_system(operator, settings) as connection:
            told = await _asked(connection, _DELETE, issued(claims, operator.key))
    with keys.changing():
        keys.forget(name)
    return told


@asynccontextmanager
async def _as_system(operator: Operator, settings: ConnectionSettings) -> AsyncIterator[Connection]:
    """A connection in the system account, by credentials that are made now and good for a minute."""
    allowed = Permissions(("$SYS.>",), ("$SYS.>", f"{inbox_of('tieline')}.>"))
    user = operator.system_user
    jwt = user_jwt(user.public, "tieline", operator.system.public, operator.system, allowed, time.time() + 60)
    with TemporaryDirectory(prefix="tieline-") as folder:  # mode 700
        path = Path(folder) / "system.creds"
        Keys(Path(folder)).write_credentials(path, credentials_text(jwt, user.seed))
        connection = await Connection.open(replace(settings, credentials=path), "tieline-tenants")
        try:
            yield connection
        finally:
            await connection.close()


async def _asked(connection: Connection, subject: str, jwt: str) -> list[Told]:
    """Ask the servers. Each answers for itself; the first answer is enough to know that it is told on."""
    try:
        reply = json.loads((await connection.request(subject, jwt.encode())).payload)
    except (NoAnswer, ValueError) as error:
        raise NotApplied(
            f"no server takes accounts: {error}. Is it in operator mode with a full resolver, and of this operator? "
            "(tieline up POD --tenant NAME, tieline tenant config)"
        ) from error
    server = str(reply.get("server", {}).get("name", ""))
    if "error" in reply:
        raise NotApplied(f"server {server} refuses the account: {reply['error'].get('description', reply['error'])}")
    return [Told(server, str(reply.get("data", {}).get("message", "taken")))]
