"""Debian's Prometheus and promtool: those that are installed, else a copy of the package, fetched once without root."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

__all__ = ["program"]

_CACHE = Path.home() / ".cache" / "tieline-tests"
_PACKAGE = "prometheus"


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``. Skips the test, with the reason, where neither can be had."""
    if (installed := shutil.which(name)) is not None:
        return installed
    if (reason := _why_not()) is not None:
        pytest.skip(f"no {name}: {reason}")
    return str(_CACHE / _PACKAGE / "usr" / "bin" / name)


@cache
def _why_not() -> str | None:
    if (_CACHE / _PACKAGE).is_dir():
        return None
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "it is not installed, and this is no Debian to fetch it from"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        try:
            _run(["apt-get", "download", _PACKAGE], folder)
            [package] = Path(folder).glob("*.deb")
            _run(["dpkg", "-x", package.name, "unpacked"], folder)
            (Path(folder) / "unpacked").rename(_CACHE / _PACKAGE)  # whole or not at all
        except subprocess.CalledProcessError as error:
            return f"{' '.join(error.cmd)} fails: {error.stderr.strip().splitlines()[-1:]}"
        except subprocess.TimeoutExpired as error:
            return f"{' '.join(error.cmd)} does not end"
        except (OSError, ValueError) as error:
            return str(error)
    return None


def _run(command: list[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
