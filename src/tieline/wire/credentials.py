"""A credentials file: who we are to the server, and what its JWT says we may do."""

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tieline.errors import BadSettings

__all__ = ["Credentials", "claims_in", "read_credentials"]

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
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    if not isinstance(claims, dict):
        raise ValueError("the claims are no object")
    return claims


def _allowed(claims: dict[str, Any], side: str) -> tuple[str, ...]:
    return tuple(str(subject) for subject in (claims.get(side) or {}).get("allow") or ())
