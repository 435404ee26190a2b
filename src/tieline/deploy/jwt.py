"""NATS JWTs (version 2): who is an operator, an account (a tenant) and a user, and what each may do.

Keys are nkeys: Ed25519, in text that says what they are of (``O…``, ``A…``, ``U…``; seeds begin with ``S``).
"""

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any, Literal

import nkeys

from tieline.deploy.permissions import Permissions

__all__ = [
    "Key",
    "Limits",
    "account_jwt",
    "credentials_text",
    "issued",
    "new_key",
    "operator_jwt",
    "user_jwt",
]

type Kind = Literal["operator", "account", "user"]

_PREFIXES: dict[Kind, int] = {
    "operator": nkeys.PREFIX_BYTE_OPERATOR,
    "account": nkeys.PREFIX_BYTE_ACCOUNT,
    "user": nkeys.PREFIX_BYTE_USER,
}
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair. The seed is the secret; it is in no repr."""

    public: str
    seed: str = field(repr=False)

    @classmethod
    def of(cls, seed: str) -> "Key":
        """The pair of a seed. `ValueError` where it is none."""
        try:
            prefix, raw = nkeys.decode_seed(seed.strip().encode())
            if nkeys.encode_seed(raw, prefix).decode() != seed.strip():  # the library does not look at the checksum
                raise ValueError("its checksum is wrong")
            return cls(nkeys.from_seed(seed.strip().encode()).public_key.decode(), seed.strip())
        except (nkeys.NkeysError, ValueError) as error:
            raise ValueError(f"no seed of an nkey: {type(error).__name__}") from None

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``."""
        signed: bytes = nkeys.from_seed(self.seed.encode()).sign(data)
        return signed


def new_key(kind: Kind) -> Key:
    """A new pair, of the system's randomness."""
    seed: bytes = nkeys.encode_seed(os.urandom(32), _PREFIXES[kind])
    return Key.of(seed.decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an account may hold: all that the server can limit. Bytes, and numbers; -1 is no limit.

    There is no rate in it: the server has none. What one publisher may send unacknowledged is limited by the stream's
    ingest (`max_buffered_msgs`).
    """

    storage: int = _UNLIMITED  # bytes that its streams may take on disk, replicas counted
    memory: int = _UNLIMITED  # bytes of streams in memory
    streams: int = _UNLIMITED
    consumers: int = _UNLIMITED
    ack_pending: int = _UNLIMITED  # the largest `max_ack_pending` that a consumer may ask for
    connections: int = _UNLIMITED
    subscriptions: int = _UNLIMITED
    payload: int = _UNLIMITED  # bytes of one message
    stream_bytes: int = _UNLIMITED  # the largest `max_bytes` that one stream may ask for; 0 is no limit

    def __post_init__(self) -> None:
        for one in fields(self):
            if getattr(self, one.name) < _UNLIMITED:
                raise ValueError(f"{one.name} must be -1 (no limit) or more, not {getattr(self, one.name)}")

    def claims(self) -> dict[str, int | bool]:
        """As the account's JWT has them."""
        return {
            "subs": self.subscriptions,
            "data": _UNLIMITED,
            "payload": self.payload,
            "imports": 0,
            "exports": 0,
            "wildcards": False,
            "conn": self.connections,
            "leaf": 0,
            "mem_storage": self.memory,
            "disk_storage": self.storage,
            "streams": self.streams,
            "consumer": self.consumers,
            "max_ack_pending": self.ack_pending,
            "mem_max_stream_bytes": 0,
            "disk_max_stream_bytes": 0 if self.stream_bytes == _UNLIMITED else self.stream_bytes,
            "max_bytes_required": False,
        }


def operator_jwt(operator: Key, name: str, signing: Key, system: str) -> str:
    """The operator's own JWT: its ``signing`` key speaks for it, and ``system`` is the account that may look at all."""
    nats = {"type": "operator", "version": 2, "signing_keys": [signing.public], "system_account": system}
    return issued({"sub": operator.public, "name": name, "nats": nats}, operator)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What crosses the border of an account: ``out``, a subject on which others' requests are taken in; ``into``, what
    of ours is taken to the account ``host``: subjects there by subjects here."""

    out: str | None = None
    host: str = ""
    into: Mapping[str, str] = field(default_factory=dict)

    def claims(self) -> dict[str, list[dict[str, str]]]:
        """As the account's JWT has them."""
        if self.out is not None:
            return {"exports": [{"name": "guests", "subject": self.out, "type": "service"}]}
        imports = []
        for here, there in self.into.items():
            stars = count(1)
            local = ".".join(f"${next(stars)}" if token == "*" else token for token in here.split("."))
            asked = {"name": here, "subject": there, "account": self.host, "local_subject": local, "type": "service"}
            imports.append(asked)
        return {"imports": imports} if imports else {}


def account_jwt(
    account: str,
    issuer: Key,
    limits: Limits | None,
    signing: tuple[str, ...],
    revoked: Mapping[str, int],
    doors: Doors | None = None,
) -> str:
    """An account's JWT. Its name is its key: monitoring pages call an account by its name and are asked for its key,
    and those that scale by a backlog, such as KEDA, know one of them (decision 0026).

    ``limits`` None: no JetStream (the system account). ``signing``: who may make users beside the account's own key.
    ``revoked``: users by public key (``*`` for all), each for what was issued up to that second.
    """
    opened = {} if doors is None else doors.claims()
    claims = Limits(storage=0, memory=0).claims() | {"streams": 0, "consumer": 0} if limits is None else limits.claims()
    nats: dict[str, Any] = {"type": "account", "version": 2, "limits": claims, "signing_keys": list(signing)}
    if limits is not None:
        nats["cluster_traffic"] = "owner"  # its replicas travel in the account, and not beside everyone's
    if revoked:
        nats["revocations"] = dict(revoked)
    claims |= {side: len(listed) for side, listed in opened.items()}
    claims["wildcards"] = bool(opened)
    return issued({"sub": account, "name": account, "nats": nats | opened}, issuer)


def user_jwt(user: str, name: str, account: str, issuer: Key, allowed: Permissions, expires: float | None) -> str:
    """A user's JWT, signed by its account's key or one of its signing keys. ``expires`` in seconds since 1970."""
    nats: dict[str, Any] = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    nats["pub"] = _side(allowed.publish, allowed.deny_publish)
    nats["sub"] = _side(allowed.subscribe, allowed.deny_subscribe)
    if allowed.responses is not None:
        most, within = allowed.responses
        nats["resp"] = {"max": most, "ttl": int(within * 1e9)}
    if issuer.public != account:
        nats["issuer_account"] = account
    claims: dict[str, Any] = {"sub": user, "name": name, "nats": nats}
    if expires is not None:
        claims["exp"] = int(expires)
    return issued(claims, issuer)


def credentials_text(jwt: str, seed: str) -> str:
    """A ``.creds`` file, as every NATS client reads it."""
    blocks = (("NATS USER JWT", jwt), ("USER NKEY SEED", seed))
    return "\n".join(f"-----BEGIN {name}-----\n{value}\n------END {name}------\n" for name, value in blocks)


def issued(claims: dict[str, Any], issuer: Key) -> str:
    """``claims`` as a JWT of ``issuer``, from now."""
    whole = {**claims, "iss": issuer.public, "iat": int(time.time())}
    digest = hashlib.new("sha512_256", json.dumps(whole, sort_keys=True).encode()).digest()
    whole["jti"] = base64.b32encode(digest).decode().rstrip("=")
    unsigned = f"{_packed(_HEADER)}.{_packed(whole)}"
    return f"{unsigned}.{_encoded(issuer.sign(unsigned.encode()))}"


def _side(allow: tuple[str, ...], deny: tuple[str, ...]) -> dict[str, list[str]]:
    side = {"allow": list(allow)} if allow else {"deny": [">"]}
    return {**side, "deny": list(deny)} if deny else side


def _packed(value: Mapping[str, Any]) -> str:
    return _encoded(json.dumps(value, separators=(",", ":")).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
