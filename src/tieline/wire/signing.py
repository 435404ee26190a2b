"""Who sent a message: a signature of its sender's key over what it is, where it goes, and when."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tieline import headers as names
from tieline.records.reading import LATEST, read_digits
from tieline.wire.credentials import Credentials, check

if TYPE_CHECKING:
    from nacl.signing import SigningKey

__all__ = ["Signature", "Signer", "signature_in"]

_VERSION = "1"
_HANDED_ON, _DELAYED = "-", "d"
# What a receiver goes by. Deadlines, TTLs and attempts change on the way; these do not.
_COVERED = (names.CONVERSATION, names.CONVERSATION_NAME, names.STEP, names.OBJECT, names.CAUSE)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a message says of its sender. ``at`` is in seconds since 1970: when it was sent, or when it is due."""

    user: str
    at: float
    msg_id: str
    delayed: bool
    signed: bytes

    def verify(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """`ValueError` where the message is not what its sender signed."""
        said = self.user, f"{self.at * 1000:.0f}", _DELAYED if self.delayed else _HANDED_ON, self.msg_id
        check(self.user, _covered(said, subject, payload, headers), self.signed)


class Signer:
    """Signs as the user of some credentials."""

    def __init__(self, credentials: Credentials) -> None:
        self.user = credentials.user
        self._seed = credentials.seed

    @cached_property
    def _key(self) -> "SigningKey":
        import nkeys
        from nacl.signing import SigningKey

        _, raw = nkeys.decode_seed(self._seed.encode())
        return SigningKey(bytes(raw))

    def sign(self, subject: str, payload: bytes, headers: Mapping[str, str], at: float, *, delayed: bool) -> str:
        """The header's value for a message; ``headers`` has its ``Nats-Msg-Id``."""
        when, how, msg_id = f"{at * 1000:.0f}", _DELAYED if delayed else _HANDED_ON, headers[names.MSG_ID]
        covered = _covered((self.user, when, how, msg_id), subject, payload, headers)
        signed = base64.b64encode(self._key.sign(covered).signature).decode()
        return f"{_VERSION} {self.user} {when} {how} {signed} {msg_id}"


def signature_in(headers: Mapping[str, str]) -> Signature | None:
    """The signature that a message carries; None where there is none, or none that can be read."""
    parts = headers.get(names.SIGNATURE, "").split(" ", 5)
    if len(parts) != 6 or parts[0] != _VERSION or parts[3] not in (_HANDED_ON, _DELAYED):
        return None
    at = read_digits(parts[2], most=int(LATEST) * 1000)
    try:
        signed = base64.b64decode(parts[4], validate=True)
    except ValueError:
        return None
    return None if at is None else Signature(parts[1], at / 1000, parts[5], parts[3] == _DELAYED, signed)


def _covered(said: tuple[str, str, str, str], subject: str, payload: bytes, headers: Mapping[str, str]) -> bytes:
    """One line a field, first ``said``: user, time, how, id. No header has a line break, so no two read the same."""
    fields = (_VERSION, *said, subject, *(headers.get(name, "") for name in _COVERED))
    return "\n".join(fields).encode(errors="surrogatepass") + b"\n\n" + payload
