"""What the office says. Never a telephone number: what is said is shown and logged."""

from collections.abc import Sequence
from datetime import date, time
from typing import Final

from oneroof.understanding.when import say_clock, say_day
from oneroof.understanding.wishes import Book, Search

GREETING: Final = "Welcome to OneRoof. How can I help you?"
LISTENING: Final = "I am listening."
STILL_THERE: Final = "Are you still there?"
GONE: Final = "I cannot hear anything, so I will hang up now. Please call again whenever you like. Goodbye."
GOODBYE: Final = "Thank you for calling OneRoof. Goodbye."
ANYTHING_ELSE: Final = "Is there anything else I can do for you?"
HELP: Final = (
    "I am OneRoof's voice assistant. I can search for homes, tell you about a listing, look up what a home is worth, "
    "book a viewing, or take a message. What would you like?"
)
TAKE_YOUR_TIME: Final = "Of course, take your time."
UNCLEAR: Final = "Sorry, I did not catch that. Could you say it in other words?"
UNCLEAR_AGAIN: Final = "I am sorry, I still did not understand."
GIVING_UP: Final = "I am sorry, I do not understand, so I am asking a colleague to take over."
COLLEAGUE_COMES: Final = "I am sorry, I do not understand. A colleague will get back to you."
TO_A_PERSON: Final = "Of course. I am asking a colleague to take over."
CLOSED: Final = (
    "The office is closed just now. A colleague will get back to you; you may leave a message, please speak."
)
SELLING: Final = "I am asking a colleague who sells homes to take over."
MISUNDERSTOOD: Final = "I am sorry, I misunderstood."
LANGUAGE: Final = "I am sorry, I only speak English. I am asking a colleague who can help."
CANCELLING: Final = "I am asking a colleague to cancel that viewing for you."
DROPPED: Final = "No problem, I have dropped that."
SPEAK_NOW: Final = "Of course. Please leave your message now."
NOTED: Final = "Thank you, I have taken that down."
NO_MESSAGE: Final = "No problem, I have not taken a message."
ALREADY: Final = "I am already working on that."
TOO_LATE: Final = "I am sorry, that took too long. We will call you."
HAVE_NUMBER: Final = "Thank you, I have your number."
BAD_PHONE: Final = "I cannot call that number."
OVER: Final = "That day is over, or does not exist."
PASSED: Final = "That time has already passed."
TOO_FAR: Final = "We book viewings up to a year ahead."
OUTSIDE: Final = (
    "We show homes between nine in the morning and six in the evening; the last viewing starts at half past five."
)

ASK_HOME: Final = "Which home do you mean? Please give me its listing number."
ASK_OFFERED: Final = "Which one do you mean: the first, the second, or another of those I named?"
ASK_WHEN: Final = "Which day and what time would suit you?"
ASK_OTHER_TIME: Final = "Which other day and time would suit you?"
ASK_PHONE: Final = "What telephone number can we reach you on, area code first?"
ASK_PLACE: Final = "Which neighborhood are you looking in, how many bedrooms, and up to what price?"
ASK_ROOMS: Final = "How many bedrooms would you like, and in which neighborhood?"
ASK_CALLBACK: Final = "Would you like to leave a number for a call back?"
STILL_LOOKING: Final = "I am still looking; you will hear the homes in a moment."


def ask_time(day: date) -> str:
    return f"What time on {say_day(day)} would suit you?"


def ask_day(clock: time) -> str:
    return f"Which day at {say_clock(clock)}?"


def looking(search: Search) -> str:
    """What is being looked for, so that a mishearing can be corrected."""
    return f"One moment, I am looking for {describe(search)}."


def describe(search: Search) -> str:
    """A search in words, with everything in it."""
    rooms = [f"{search.beds} bedroom{'s' if search.beds > 1 else ''}"] if search.beds else []
    rooms += [f"{search.baths:g} bath{'' if search.baths == 1 else 's'}"] if search.baths else []
    kind = {"townhouse": "townhouses", "house": "single-family houses", None: "homes"}[search.home_type]
    parts = [f"waterfront {kind}" if search.waterfront else kind]
    places = [place for place in (search.place, *search.other_places) if place]
    parts += [f"in {' or '.join(map(str.title, places))}"] if places else []
    parts += [f"outside {' and '.join(map(str.title, search.not_places))}"] if search.not_places else []
    parts += [f"with {' and '.join(rooms)}"] if rooms else []
    parts += [f"from ${search.min_price:,}"] if search.min_price else []
    parts += [f"up to ${search.max_price:,}"] if search.max_price else []
    parts += [f"of at least {search.min_sqft:,} square feet"] if search.min_sqft else []
    parts += [f"of at most {search.max_sqft:,} square feet"] if search.max_sqft else []
    parts += ["not on the water"] if search.not_waterfront else []
    return " ".join(parts)


def strange(odd: str) -> str:
    """Names the words that were not understood."""
    return f'I am not sure about "{odd}".'


def confirm_search(search: Search, odd: str) -> str:
    """Reads a search back as a question."""
    before = f'I cannot search for "{odd}". ' if odd else ""
    return f"{before}Shall I look for {describe(search)}?"


def confirm_viewing(home: str, spoken: str, instead_of: str | None, odd: str) -> str:
    """Reads a viewing back as a question."""
    before = f"{strange(odd)} " if odd else ""
    instead = f", instead of {instead_of}" if instead_of else ""
    return f"{before}Did you mean a viewing of {home} on {spoken}{instead}?"


def which_of(choices: Sequence[str]) -> str:
    """Names what the caller left open."""
    return f"You named {' and '.join(choices)}."


def which_first(homes: Sequence[str]) -> str:
    """Several homes cannot be seen at once."""
    return f"We show one home at a time. Which home would you like to see first: {' or '.join(homes)}?"


def researching(home: str) -> str:
    return f"One moment, I am comparing recent sales with {home}."


def looking_up(home: str) -> str:
    return f"One moment, I am looking up {home}."


def booking(book: Book, spoken: str) -> str:
    instead = f" instead of {book.instead_of}" if book.instead_of else ""
    return f"One moment, I am booking a viewing of {book.home}{instead} for {spoken}."
