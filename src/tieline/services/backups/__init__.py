"""Backups of an account's streams: taking one, what it is made of, and putting it back."""
