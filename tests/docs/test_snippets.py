"""Every snippet of the README and the documentation does what its page says. How they are run: `snippets`."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

import pytest
from snippets import ROOT, Page, pages, snippets

_WITH_SNIPPETS = [page for page in pages() if snippets(page)]


@pytest.fixture
def page_run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page's folder, environment and, once it asks, its server."""
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("TIELINE_SERVERS", "")
    monkeypatch.delenv("TIELINE_SERVERS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TIELINE_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(folder), "COLUMNS": "160", "NO_COLOR": "1"}
    env["PYTEST_DEBUG_TEMPROOT"] = str(tmp_path)  # a pytest inside would tidy up what earlier runs of ours left
    run = Page(folder, lambda: str(request.getfixturevalue("nats_url")), env)
    before = set(sys.modules)
    try:
        yield run
    finally:
        run.close()
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


@pytest.mark.parametrize("page", _WITH_SNIPPETS, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets(page: Path, page_run: Page) -> None:
    with _alone():
        for snippet in snippets(page):
            page_run.run(snippet)


@contextmanager
def _alone() -> Iterator[None]:
    """Pages use the ports that a user would, such as 7777: one page at a time, whatever runs them."""
    with (Path(gettempdir()) / "tieline-snippets.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
