"""Accounting: the books that say what became of every message, kept from the bus alone."""
