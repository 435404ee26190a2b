"""Another payload for a dead letter, before it is sent again."""

import json
import time
from typing import Any

from tieline import headers as names
from tieline.codec import digest
from tieline.facts import LetterEdited
from tieline.runtime.bus import Bus
from tieline.services.letters.reading import STREAM, Letter, payload_of
from tieline.wire.stored import remove

__all__ = ["content_of", "edit"]


async def content_of(bus: Bus, letter: Letter) -> bytes | None:
    """The whole payload, also from the object store; None where its message is gone. May raise `ObjectGone`."""
    reference = letter.headers.get(names.OBJECT)
    return await payload_of(bus.connection, letter) if reference is None else await bus.objects.get(reference)


async def edit(bus: Bus, letter: Letter, payload: bytes, changed: list[str], *, by: str, reason: str) -> int:
    """Put a letter with ``payload`` in the place of ``letter``; returns its sequence. Raises like `Publisher.publish`.

    In this order: the new letter, the fact, the old letter. A crash in between leaves two letters of one death, of
    which a redrive sends the first: until this has returned, the edit has not happened.
    """
    edits = [
        *letter.told.get("edits", ()),
        {"by": by, "at": round(time.time(), 3), "reason": reason, "changed": changed},
    ]
    told: dict[str, Any] = {**letter.told, "edits": edits}
    told.pop("payload", None)
    headers = names.carried(letter.headers)
    headers.pop(names.OBJECT, None)
    payload, claim = await bus.objects.lighten(letter.conversation, payload, {"callId": letter.conversation})
    unique = digest("edited", str(letter.seq), digest(payload.decode("utf-8", "surrogateescape")))
    headers |= {**claim, names.DEAD: json.dumps(told), names.MSG_ID: unique}
    if names.SIGNATURE in headers:  # of another payload; whoever edits it answers for it now
        del headers[names.SIGNATURE]
        if bus.trust is not None:
            await bus.trust.sign(letter.subject, payload, headers)
    ack = await bus.publisher.publish(letter.stored_as, payload, headers)
    fact = LetterEdited(
        conversation=letter.conversation or f"o-{letter.origin}",
        by=by,
        letter=letter.seq,
        replaced_by=ack.seq,
        agent=letter.agent,
        origin=letter.origin,
        changed=changed,
        reason=reason,
    )
    bus.observe(lambda: fact)
    await bus.written()
    await remove(bus.connection, STREAM, [letter.seq])
    return ack.seq
