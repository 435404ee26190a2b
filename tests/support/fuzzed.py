"""A pod that uses everything there is to use, for a fuzz: what its handlers did is in a file."""

from pydantic import BaseModel

from support.crew import note
from tieline import Conversation, Limits, Message, NoReply, Pod, Refuse
from tieline.outcomes import Outcome

__all__ = ["Book", "fuzzed"]


class Book(Message, subject="call.intent.book", ttl="1h"):
    call_id: str
    notes: str = ""  # the file that effects are appended to
    number: int = 0


class Price(Message, subject="call.intent.price"):
    call_id: str
    number: int = 0


class Quote(Message, subject="call.intent.quote"):
    call_id: str
    price: int = 0


class Booked(Message, subject="call.intent.booked"):
    call_id: str
    notes: str = ""


class Visits(BaseModel):
    count: int = 0


fuzzed = Pod("fuzzed", limits=Limits(ack_wait=5.0, timeout=20.0, attempts=2, first_retry=0.05, longest_retry=0.2))


@fuzzed.tool(effect="once")
async def stamp(name: str, number: int) -> str:
    return f"{name}-{number}"


@fuzzed.agent
async def booking(intent: Book, call: Conversation) -> Outcome | None:
    kind = intent.number % 10
    if kind == 9:
        return Refuse("every tenth is refused")
    await call.tool(stamp, intent.call_id, intent.number)
    await call.state(Visits).update(lambda before: Visits(count=(before or Visits()).count + 1))
    if kind == 3:
        await call.ask(Price(call_id=intent.call_id, number=intent.number), expects=Quote, within=60.0)
    if kind == 5:
        try:
            await call.ask_human("what now?", within=0.5)
        except NoReply:
            call.log("nobody answered")
    if kind == 1:
        await call.sleep(0.1)
    await call.publish(Booked(call_id=intent.call_id, notes=intent.notes), after=0.3 if kind == 7 else None)
    return None


@fuzzed.agent
async def clerk(message: Price | Booked, call: Conversation) -> None:
    if isinstance(message, Price):
        await call.reply(Quote(call_id=message.call_id, price=message.number))
    elif message.notes:
        note(message.notes, f"done {message.call_id}")
