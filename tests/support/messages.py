"""The messages of the tests' pods."""

from tieline import Message

__all__ = ["Book", "Booked", "Brief", "Look", "Turn"]


class Book(Message, subject="call.intent.book"):
    call_id: str
    phone: str = ""


class Booked(Message, subject="call.intent.booked"):
    call_id: str
    lead: str = ""


class Brief(Message, subject="call.intent.brief", ttl="20s"):
    call_id: str


class Look(Message, subject="call.intent.look"):
    call_id: str


class Turn(Message, subject="talk.turn.{call_id}"):
    call_id: str
    text: str = ""
