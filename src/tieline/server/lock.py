"""One server to a data folder."""

import asyncio
import errno
import fcntl
import os
from pathlib import Path

from tieline.errors import ServerFailed

__all__ = ["note_pid", "take_lock"]

_NAME = "tieline.lock"
_EVERY = 0.02  # seconds
_LOOKS = 20  # 0.4 s for a server that is just stopping, its parent killed, to let go


async def take_lock(data: Path) -> int:
    """A descriptor that holds the folder, for the server to inherit. The caller closes its own copy.

    The lock belongs to the open file, so it ends with the last process that has it: it tells whether a *server* is
    alive, also where the process that started it was killed. Raises `ServerFailed` naming the holder's pid, and
    `OSError` where the folder cannot be written.
    """
    descriptor = os.open(data / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(_LOOKS):
            if _try(descriptor):
                return descriptor
            await asyncio.sleep(_EVERY)
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise ServerFailed(
            f"the data folder {data} is in use by another nats-server (pid {holder}); "
            "connect to that one, stop it, or give another folder"
        )
    except BaseException:
        os.close(descriptor)
        raise


def note_pid(descriptor: int, pid: int) -> None:
    """Leave the holder's pid for whoever finds the folder taken."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True
