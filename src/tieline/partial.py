"""`Partial`: a piece of what a model says, while it says it."""

from tieline.messages import Message

__all__ = ["Partial"]


class Partial(Message):
    """A few more characters of an answer. Nothing durable depends on it: it may be lost, or be said again.

    ``step`` is where the whole answer will be recorded. ``seq`` counts its pieces from 0: a gap is a lost piece, and a
    0 that comes again is a new try, so that what was heard of the step before is void.
    """

    call_id: str
    agent: str
    step: str
    seq: int
    text: str
