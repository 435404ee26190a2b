"""How the voice orchestrator understands callers: one seam, and the offline rules behind it."""

from oneroof.understanding import replies
from oneroof.understanding.dialogue import Rules
from oneroof.understanding.phone import phone_number
from oneroof.understanding.when import say_slot
from oneroof.understanding.wishes import (
    Book,
    Escalate,
    Line,
    Lookup,
    Research,
    Search,
    Turn,
    Understanding,
    Voicemail,
    Wish,
)

__all__ = [
    "Book",
    "Escalate",
    "Line",
    "Lookup",
    "Research",
    "Rules",
    "Search",
    "Turn",
    "Understanding",
    "Voicemail",
    "Wish",
    "phone_number",
    "replies",
    "say_slot",
]
