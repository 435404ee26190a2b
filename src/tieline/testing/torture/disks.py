"""A disk that can lose its power: what was not flushed to it is gone. Root only, Linux only.

It is an ext4 of its own on a loop device. Its end is the file system's own shutdown, without its journal being written:
so nothing is left of what nobody had asked to be on the disk. It does not tear sectors, as a real one may.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tieline.testing.server import Server

__all__ = ["Disk", "disk_at", "no_disk"]

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/ext4
_WITHOUT_JOURNAL = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH
_SIZE = 1 << 30  # bytes; the file is sparse
_TRIES, _PAUSE = 50, 0.1


class Disk:
    """Mounted at ``place``."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        self._image = image

    def format(self) -> None:
        """Make it, empty, and mount it."""
        self.place.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(_SIZE)
        subprocess.run(["mkfs.ext4", "-q", str(self._image)], check=True, capture_output=True)
        self.mount()

    def mount(self) -> None:
        """As a machine does that starts."""
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.place)], check=True, capture_output=True)

    def lose(self, server: Server) -> None:
        """The machine of this server, which is paused, has lost its power: what was not flushed is gone. The disk is
        mounted again; the server is not started."""
        self.shut_down()
        server.kill()
        self.unmount()
        self.mount()

    def shut_down(self) -> None:
        """Nothing more reaches the disk."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_JOURNAL))
        finally:
            os.close(handle)

    def unmount(self) -> None:
        """Not lazily: a file system that somebody still has would go on living."""
        for turn in range(_TRIES):
            done = subprocess.run(["umount", str(self.place)], check=turn == _TRIES - 1, capture_output=True)
            if done.returncode == 0:
                return
            time.sleep(_PAUSE)


@contextmanager
def disk_at(place: Path, images: Path) -> Iterator[Disk]:
    """A disk whose file is in ``images``, mounted at ``place``."""
    images.mkdir(parents=True, exist_ok=True)
    disk = Disk(images / f"{place.name}.img", place)
    disk.format()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def no_disk() -> str | None:
    """Why there can be none here, if there cannot."""
    if os.geteuid() != 0:
        return "needs root: each server gets a disk of its own"
    if shutil.which("mkfs.ext4") is None:
        return "needs mkfs.ext4 (apt-get install e2fsprogs)"
    with tempfile.TemporaryDirectory(prefix="tieline-disk-") as folder:
        try:
            with disk_at(Path(folder) / "place", Path(folder)) as disk:
                kept, lost = disk.place / "kept", disk.place / "lost"
                with kept.open("w") as file:
                    file.write("1")
                    file.flush()
                    os.fsync(file.fileno())
                directory = os.open(disk.place, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
                lost.write_text("1")
                disk.shut_down()
                disk.unmount()
                disk.mount()
                if kept.exists() and not (lost.exists() and lost.read_text()):
                    return None
        except (subprocess.CalledProcessError, OSError):
            pass
    return "this machine does not let root mount a disk and cut it off"
