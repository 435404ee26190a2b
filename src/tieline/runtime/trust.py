"""Signing what a process sends, and checking what it gets: by whom, unaltered, in time, and allowed to that sender."""

import logging
import time
from dataclasses import dataclass

from tieline import headers as names
from tieline import subjects
from tieline.codec import digest
from tieline.errors import BadSettings, Unsettled
from tieline.outcomes import Cause, Refuse
from tieline.pod import Pod
from tieline.records.reading import read_number
from tieline.settings import Settings
from tieline.wire.connection import Connection, NoAnswer
from tieline.wire.credentials import read_credentials, verified
from tieline.wire.delivery import Delivery
from tieline.wire.publisher import Publisher
from tieline.wire.signing import Signer, signature_in

__all__ = ["Trust"]

log = logging.getLogger("tieline.trust")

_KNOWN = 1_000  # senders remembered
_SEEN = 10_000  # delayed messages remembered, of which the server keeps no id


@dataclass(frozen=True, slots=True)
class _Sender:
    """Somebody whose JWT an issuer that we trust has signed."""

    name: str
    expires: float | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]

    def may_publish(self, subject: str) -> bool:
        """As the server would judge."""
        return any(subjects.covers(pattern, subject) for pattern in self.allow) and not any(
            subjects.covers(pattern, subject) for pattern in self.deny
        )


class Trust:
    """One process's part in signatures. ``require``: what is not signed as it should be is refused."""

    def __init__(self, pod: Pod, settings: Settings, connection: Connection, publisher: Publisher) -> None:
        if settings.connection.credentials is None:
            raise BadSettings(
                f"signatures={settings.signatures!r} needs credentials to sign with; give TIELINE_CREDENTIALS "
                "(tieline creds)"
            )
        self._own = read_credentials(settings.connection.credentials)
        self._signer = Signer(self._own)
        self._pod = pod
        self._connection = connection
        self._publisher = publisher
        self._issuers = {self._own.issuer, self._own.account, *settings.signers}
        self._require = settings.signatures == "require"
        self._senders: dict[str, _Sender | None] = {}
        self._seen: dict[str, str] = {}  # delayed messages by id: their origins
        self._announced = False

    async def sign(self, subject: str, payload: bytes, headers: dict[str, str], due: float | None = None) -> None:
        """Put the signature among the ``headers`` of a message to ``subject``, which is ``due`` then, or now."""
        if not self._announced:
            await self._announce()
        at = time.time() if due is None else due
        headers[names.SIGNATURE] = self._signer.sign(subject, payload, headers, at, delayed=due is not None)

    async def refusal(self, delivery: Delivery) -> Refuse | None:
        """Why a message is not to be handled; None for one that is what its sender, who may send it, signed."""
        if not self._require or subjects.is_step(delivery.subject):  # records are their writers' by permission
            return None
        why = await self._why_not(delivery)
        if why is None:
            return None
        log.warning("%s %d of %s is refused: %s", delivery.subject, delivery.seq, delivery.stream, why)
        return Refuse(why, Cause("untrusted", why))

    async def _why_not(self, delivery: Delivery) -> str | None:
        signature = signature_in(delivery.headers)
        if signature is None:
            return "it is not signed"
        if signature.user not in self._senders:
            await self._learn(signature.user)
        sender = self._senders[signature.user]
        if sender is None:
            return f"signed by {signature.user}, whom nobody that we trust vouches for"
        try:
            signature.verify(delivery.subject, delivery.payload, delivery.headers)
        except ValueError:
            return f"altered: it is not what {sender.name} signed"
        step = delivery.headers.get(names.STEP)
        for subject in (delivery.subject, *([] if step is None else [step])):
            if not sender.may_publish(subject):
                return f"{sender.name} signed it and may not publish to {subject}"
        if sender.expires is not None and signature.at > sender.expires:
            return f"signed by {sender.name} after its credentials had ended"
        # What comes back to its own agent alone is known: nobody else may publish there.
        return (
            None if delivery.redriven else self._replayed(delivery, signature.at, signature.msg_id, signature.delayed)
        )

    def _replayed(self, delivery: Delivery, at: float, msg_id: str, delayed: bool) -> str | None:
        """The server drops an id for its window. Half of it is for clocks: what is older than that comes again."""
        given = delivery.headers.get(names.MSG_ID)
        if given != msg_id and not (delayed and given is None):
            return "replayed: it carries another id than the one that was signed"
        apart, most = delivery.stored - at, self._pod.stream_of(delivery.subject).duplicates / 2
        if abs(apart) > most:
            when = "after" if apart > 0 else "before"
            return f"stored {abs(apart):.0f} s {when} it was signed: replayed, or a clock is off (at most {most:.0f} s)"
        if delayed and self._seen.setdefault(msg_id, delivery.origin) != delivery.origin:
            return "replayed: it was due once"
        while len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]
        return None

    async def _announce(self) -> None:
        """Let others find who we are. Written again by each process: the server drops what it has."""
        jwt = self._own.jwt.encode()
        headers = {names.MSG_ID: digest("key", self._own.user, self._own.jwt)}
        await self._publisher.publish(subjects.key_of(self._own.user), jwt, headers)
        self._announced = True

    async def _learn(self, user: str) -> None:
        """Find a sender. `Unsettled` where the bus does not answer: nobody is refused for that."""
        if not user.isalnum():
            self._senders[user] = None
            return
        try:
            reply = await self._connection.request(f"$JS.API.DIRECT.GET.KEYS.{subjects.key_of(user)}")
        except NoAnswer as silence:
            raise Unsettled(f"who {user} is cannot be found out now: {silence}") from silence
        while len(self._senders) >= _KNOWN:
            del self._senders[next(iter(self._senders))]
        self._senders[user] = None if reply.status is not None else self._vouched(reply.payload, user)

    def _vouched(self, payload: bytes, user: str) -> _Sender | None:
        try:
            claims = verified(payload.decode("ascii"))
            nats = claims["nats"]
            account = nats.get("issuer_account") or claims["iss"]
            if claims["sub"] != user or claims["iss"] not in self._issuers or account != self._own.account:
                return None
            side = nats.get("pub") or {}
            deny = tuple(map(str, side.get("deny") or ()))
            allow = tuple(map(str, side.get("allow") or (() if deny else (">",))))
            return _Sender(str(claims.get("name", user)), read_number(claims.get("exp")), allow, deny)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
