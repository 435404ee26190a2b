"""A credentials file: who we are to the server, and what its JWT says we may do."""

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tieline.errors import BadSettings

__all__ = ["Credentials", "check", "claims_in", "read_credentials", "verified"]

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}

_BLOCK = re.compile(r"-{3,}BEGIN ([A-Z ]+)-{3,}\s*(\S+)\s*-{3,}END [A-Z ]+-{3,}")
_INBOX = "_INBOX"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One user of one account, as its JWT says. Not verified here: the server does that at every connect."""

    name: str
    user: str
    """The public key, ``U…``."""

    account: str
    """The public key of the account, ``A…``: the tenant."""

    issuer: str
    """Who signed the JWT: the account's key, or one of its signing keys."""

    expires: float | None
    """Seconds since 1970; None: never."""

    publish: tuple[str, ...]
    """The subjects it may publish; empty where the JWT does not limit them."""

    inbox: str
    """The prefix of the inbox that is its own."""

    jwt: str = field(repr=False)
    seed: str = field(repr=False)


def read_credentials(path: Path) -> Credentials:
    """What a ``.creds`` file says. `BadSettings` names the file where it cannot be read or is none."""
    try:
        blocks = dict(_BLOCK.findall(path.read_text(encoding="ascii")))
    except OSError as error:
        raise BadSettings(
            f"credentials {str(path)!r} cannot be read: {error.strerror}; `tieline creds` makes them"
        ) from error
    except UnicodeDecodeError:
        blocks = {}
    jwt, seed = blocks.get("NATS USER JWT"), blocks.get("USER NKEY SEED")
    if jwt is None or seed is None:
        raise BadSettings(
            f"{str(path)!r} is no credentials file: it has no user JWT with its seed; `tieline creds` makes one"
        )
    try:
        claims = claims_in(jwt)
        allowed = claims["nats"]
        inboxes = [s.removesuffix(".>") for s in _allowed(allowed, "sub") if s.startswith(f"{_INBOX}_")]
        expires = claims.get("exp")
        return Credentials(
            name=str(claims.get("name", "")),
            user=str(claims["sub"]),
            account=str(allowed.get("issuer_account") or claims["iss"]),
            issuer=str(claims["iss"]),
            expires=None if expires is None else float(expires),
            publish=_allowed(allowed, "pub"),
            inbox=inboxes[0] if inboxes else _INBOX,
            jwt=jwt,
            seed=seed,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadSettings(
            f"credentials {str(path)!r}: the user JWT in it cannot be read ({error!r}); make it anew"
        ) from error


def claims_in(jwt: str) -> dict[str, Any]:
    """The claims of a JWT, unverified. `ValueError` where it is none."""
    parts = jwt.split(".")
    if len(parts) != 3:
        raise ValueError("not three parts")
    claims = json.loads(_unpacked(parts[1]))
    if not isinstance(claims, dict):
        raise ValueError("the claims are no object")
    return claims


def verified(jwt: str) -> dict[str, Any]:
    """The claims of a JWT that its issuer signed. `ValueError` for any other. Whom to trust is the caller's to know."""
    claims = claims_in(jwt)
    head, body, signature = jwt.split(".")
    if json.loads(_unpacked(head)) != _HEADER:
        raise ValueError("signed in another way")
    check(str(claims["iss"]), f"{head}.{body}".encode(), _unpacked(signature))
    return claims


def check(public: str, signed: bytes, signature: bytes) -> None:
    """`ValueError` where ``signature`` is not of ``signed`` by the owner of a public key."""
    from nacl.exceptions import CryptoError  # a third of a second to import, and few need it
    from nacl.signing import VerifyKey

    raw = base64.b32decode(public + "=" * (-len(public) % 8))
    try:
        VerifyKey(raw[1:33]).verify(signed, signature)
    except (CryptoError, TypeError) as error:
        raise ValueError(f"its signature is not that of {public}") from error


def _unpacked(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _allowed(claims: dict[str, Any], side: str) -> tuple[str, ...]:
    return tuple(str(subject) for subject in (claims.get(side) or {}).get("allow") or ())
