"""What all tests share. The server fixtures come from the library's own pytest plugin."""

import os
import shutil
import subprocess
from collections.abc import Generator
from functools import cache

import pytest
from hypothesis import settings

settings.register_profile("tieline", deadline=None)  # the machine is shared: no test is about its speed
settings.load_profile("tieline")


@cache
def _why_not_as_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--net", "true"], capture_output=True, check=False).returncode:
        return "needs Linux network namespaces"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and (reason := _why_not_as_root()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed travels between processes as UTF-8, and some print lone surrogates."""
    report = yield
    report.sections = [(name, text.encode(errors="replace").decode()) for name, text in report.sections]
    return report
