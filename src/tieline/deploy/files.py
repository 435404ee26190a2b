"""Rendered files, written: all of them or none, and nothing over a file that is not ours."""

import os
from collections.abc import Mapping
from pathlib import Path

from tieline.deploy.site import RENDERED, File
from tieline.errors import BadSettings

__all__ = ["write"]

_BEGINNING = 200  # characters of a file, within which ours say so


def write(folder: Path, files: Mapping[str, File], *, force: bool, owner: int | None = None) -> list[Path]:
    """Write ``files`` below ``folder``; their paths. ``owner``: who secrets are given to, where we may.

    `BadSettings` names those that are there and were not rendered; with ``force`` they are replaced.
    """
    theirs = [name for name, file in files.items() if not file.secret and _foreign(folder / name, file.text)]
    if theirs and not force:
        raise BadSettings(f"{folder} has {', '.join(theirs)} that we did not render; --force replaces them")
    fresh = {}
    try:
        for name, file in files.items():
            fresh[name] = _beside(folder / name, file, owner)
        for name, path in fresh.items():
            path.rename(folder / name)
    except OSError as error:
        for path in fresh.values():
            path.unlink(missing_ok=True)
        raise BadSettings(f"{folder} cannot be written: {error.strerror} ({error.filename})") from error
    return [folder / name for name in files]


def _foreign(path: Path, text: str) -> bool:
    if not path.exists():
        return False
    there = path.read_text(encoding="utf-8", errors="replace")
    return there != text and RENDERED not in there[:_BEGINNING]


def _beside(path: Path, file: File, owner: int | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if file.secret else 0o644)
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(file.text)
    if file.secret and owner is not None and os.geteuid() == 0:
        os.chown(fresh, owner, owner)
    return fresh
