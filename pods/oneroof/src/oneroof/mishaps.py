"""What the demo plants: a call that no code survives, a payload that does not fit, an intent nobody takes in time."""

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

from oneroof.messages import HomeResearch, Spoken
from oneroof.opening import Office
from tieline.services.letters.reading import Letter, Selection, listed
from tieline.services.supervisor import Exited

__all__ = ["Mishaps"]

_LATE = 1.0  # seconds that the late intent is worth
_AWAY = 4.0  # seconds that the agent which should take it is away: well beyond the server's clock of TTLs
_HEARD = 20.0  # seconds within which its caller must be told
_END_OF_TIME = datetime(9999, 12, 31, 23, 45, tzinfo=UTC)  # half an hour later there is no date any more


@dataclass(frozen=True, slots=True)
class Mishaps:
    """Three calls that go wrong on purpose. ``run`` tells the calls of one demo from another's."""

    PLANTED: ClassVar = {("tool-calendar", "raised"), ("scheduler", "invalid")}  # who gives up, and of what

    office: Office
    run: str
    began: datetime

    @classmethod
    def of(cls, office: Office) -> "Mishaps":
        """Mishaps of their own for this demo."""
        return cls(office, os.urandom(3).hex(), datetime.now(UTC))

    def call(self, kind: str) -> str:
        """The conversation of the mishap."""
        return f"planted-{kind}-{self.run}"

    async def poison(self) -> None:
        """A tool call at the end of time: the calendar cannot add half an hour to it, however often it tries."""
        arguments = {"home": "1042", "slot": _END_OF_TIME.isoformat(), "summary": "Viewing of 1042"}
        payload = json.dumps({"callId": self.call("poison"), "args": arguments})
        await self.office.bus.connection.request("tool.call.calendar", payload.encode())

    async def misfit(self) -> None:
        """What another client might send: the right subject, and a payload that is not a JSON object."""
        await self.office.bus.connection.request("call.intent.book", b'["%s", "1042"]' % self.call("misfit").encode())

    async def desk(self) -> list[Letter]:
        """The dead letters of this demo, the oldest first."""
        found = await listed(self.office.bus.connection, Selection(since=self.began), limit=100)
        return sorted(found.newest, key=lambda letter: letter.seq)

    async def late(self) -> str:
        """An intent whose agent is away for longer than the intent is worth; what its caller heard of it."""
        office, call = self.office, self.call("late")
        heard = asyncio.ensure_future(self._heard(call))
        events = office.supervisor.events()
        office.supervisor.kill("comp-pull", away=_AWAY)
        async for event in events:
            if isinstance(event, Exited) and event.name == "comp-pull":
                break
        await office.bus.publish(HomeResearch(call_id=call, turn=1, home="1042"), deadline=_LATE)
        try:
            async with asyncio.timeout(_HEARD):
                return await heard
        except TimeoutError:
            return ""

    async def _heard(self, call: str) -> str:
        async for line in self.office.bus.messages(Spoken, start=datetime.now(UTC)):
            if line.call_id == call:
                return line.text
        return ""
