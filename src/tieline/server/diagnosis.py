"""From a server's log to the cause of a failed start, in words a user can act on."""

import re
from pathlib import Path

__all__ = ["explain", "last_lines", "new_text"]

_FATAL = re.compile(r"\[FTL\] (.*)|^nats-server: (.*)", re.MULTILINE)
_READ_AT_MOST = 64 * 1024
_SHOWN = 12  # lines

_PORT_TAKEN = "the port {0} is taken by another program; stop that program or give another port (0 for a free one)"
_CAUSES = (
    (re.compile(r"on port: (\S+?),.*address already in use"), _PORT_TAKEN),
    (re.compile(r"listen tcp (\S+?): bind: address already in use"), _PORT_TAKEN),
    (re.compile(r"bind: "), "its address cannot be bound: {detail}"),
    (
        re.compile(r"permission denied|read-only file system"),
        "the folder {data} is not writable ({detail}); give another, or put its permissions right",
    ),
    (re.compile(r"no space left"), "the disk of {data} is full; free some space or give another folder"),
    (
        re.compile(r"storage directory is not|corrupt|checksums do not match"),
        "the store under {data} is damaged ({detail}); restore it from a backup, or move it away to start empty",
    ),
)


def new_text(log: Path, since: int) -> str:
    """What the log gained after byte ``since``, at most the last 64 KiB; everything if it was rotated meanwhile."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            start = since if since <= size else 0
            file.seek(max(start, size - _READ_AT_MOST))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def last_lines(text: str) -> str:
    """The end of a log as part of an error message, without the banner and the routine."""
    telling = [line for line in text.splitlines() if line.strip() and "[INF]" not in line]
    lines = (telling or text.splitlines())[-_SHOWN:]
    return "\n".join(f"  {line}" for line in lines) if lines else "  (the log is empty)"


def explain(text: str, *, data: Path) -> str:
    """The cause in one sentence: a known one with its remedy, else the server's own last fatal words."""
    found = [first or second for first, second in _FATAL.findall(text)]
    detail = found[-1].strip() if found else (text.strip().splitlines() or ["it said nothing"])[-1]
    for pattern, sentence in _CAUSES:
        if match := pattern.search(detail):
            return sentence.format(*match.groups(), data=data, detail=detail)
    return detail
