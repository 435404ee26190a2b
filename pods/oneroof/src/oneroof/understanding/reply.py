"""One turn of the office in the making: what it says, what it does, and the one thing that it asks."""

from dataclasses import dataclass, field

from oneroof.understanding import replies
from oneroof.understanding.hearing import Ask
from oneroof.understanding.smalltalk import Question
from oneroof.understanding.wishes import Book, Search, Wish


@dataclass(slots=True)
class Reply:
    """One turn. ``progress``: the line was of use. ``wished``: everything that the call has wished so far."""

    wished: list[Wish]
    say: list[str] = field(default_factory=list)
    wants: list[Wish] = field(default_factory=list)
    question: Question = field(default_factory=Question)
    progress: bool = False
    hang_up: bool = False

    def ask(self, ask: Ask, question: str) -> bool:
        """Asks one thing; a turn never asks two. Returns whether this is the one."""
        if self.question.words:
            return False
        self.question = Question(ask, question)
        self.say.append(question)
        return True

    def wish(self, wish: Wish, say: str) -> None:
        """Wishes what has not been wished yet; of searches and viewings the newest counts."""
        self.progress = True
        newest = isinstance(wish, Search | Book)
        before = [old for old in self.wished if isinstance(old, type(wish))]
        if wish in (before[-1:] if newest else before):
            self.say.append(replies.ALREADY)
            return
        self.wished.append(wish)
        self.wants.append(wish)
        self.say.append(say)
