"""What the image of a pod is made of: the pod's own code, Tieline, and the versions of everything else.

Derived from the environment that renders: whatever the pod's project needs from local folders (a workspace, an
editable install) is installed from those folders, the rest from the package index in the versions that are installed
here. A pod that is a loose module, in no project, is copied.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tieline.errors import BadSettings

__all__ = ["Sources", "given_sources", "sources_of"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Sources:
    """``installs``: folders below the build folder, and requirements. ``modules``: files and folders to copy beside.

    ``outside``: what is installed here from elsewhere on this machine, so that a wheel of it has to be put into the
    build folder first: the command that does, by the project's name; ``{wheels}`` stands for the folder.
    """

    installs: tuple[str, ...]
    modules: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    outside: dict[str, str] = field(default_factory=dict)


def given_sources(installs: list[str]) -> Sources:
    """What ``--install`` names. `BadSettings` for a path outside of the build folder."""
    for path in installs:
        if path.startswith(("/", "..", "-")):
            raise BadSettings(f"--install {path!r} is not within the folder that the image is built from")
    return Sources(
        tuple(path if path.startswith(".") else f"./{path}" for path in installs), (), _versions(["tieline"])
    )


def sources_of(reference: str, root: Path) -> Sources:
    """What the pod that ``reference`` names needs, for an image that is built from the folder ``root``.

    `BadSettings` where its code lies outside of ``root`` and belongs to no project.
    """
    top = reference.partition(":")[0].partition(".")[0]
    place = _place_of(top)
    name, modules = _project_name(top, place, root), []
    if name is None:
        if not place.is_relative_to(root):
            raise BadSettings(
                f"the pod's code {place} is outside of {root} and belongs to no project; run this command from the "
                "folder that holds it, or name what to install with --install"
            )
        modules.append(place.relative_to(root).as_posix())
    installs: list[str] = []
    outside: dict[str, str] = {}
    roots = ["tieline"] if name is None else [name, "tieline"]
    for own in _local_first(roots):
        url = _local_url(own)
        if url is None:
            installs += [f"{own}=={metadata.version(own)}"] if own in roots else []
        elif url.is_dir() and url.is_relative_to(root):
            installs.append(f"./{url.relative_to(root).as_posix()}".removesuffix("/."))
        else:
            verb = "uv build --wheel --out-dir {wheels}" if url.is_dir() else "cp -t {wheels}"
            outside[own] = f"{verb} {url}"
    return Sources(tuple(dict.fromkeys(installs)), tuple(modules), _versions(roots), outside)


def _place_of(top: str) -> Path:
    """The file or package folder of a module that was imported already."""
    module = sys.modules[top]
    if module.__file__ is None:
        return Path(next(iter(module.__path__))).resolve()
    path = Path(module.__file__).resolve()
    return path.parent if path.name == "__init__.py" else path


def _project_name(top: str, place: Path, root: Path) -> str | None:
    """The distribution that installs the module; None where it is importable only because we stand beside it."""
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != root]
    if PathFinder.find_spec(top, elsewhere) is None:
        return None
    if named := metadata.packages_distributions().get(top):
        return named[0]
    for folder in place.parents:
        if (folder / "pyproject.toml").is_file():
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            return str(project["name"]) if _is_installed(str(project.get("name", ""))) else None
    return None


def _local_first(names: list[str]) -> Iterator[str]:
    """``names`` and the distributions from local folders that they need; each before what needs it."""
    seen: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if _plain(name) in seen or not _is_installed(name):
            return
        seen.add(_plain(name))
        for needed in _needs(name):
            if _is_installed(needed) and _local_url(needed) is not None:
                yield from visit(needed)
        yield name

    for name in names:
        yield from visit(name)


def _versions(names: list[str]) -> tuple[str, ...]:
    """``name==version`` of all that ``names`` need from the package index, as installed here."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if _plain(name) in found or not _is_installed(name):
            continue
        found[_plain(name)] = "" if _local_url(name) else f"{_plain(name)}=={metadata.version(name)}"
        waiting += _needs(name)
    return tuple(sorted(filter(None, found.values())))


def _needs(name: str) -> list[str]:
    said = (_NAME.match(requirement) for requirement in metadata.requires(name) or ())
    return [match[0] for match in said if match is not None]


def _local_url(name: str) -> Path | None:
    """The folder or file on this machine that a distribution was installed from; None for the package index."""
    text = metadata.distribution(name).read_text("direct_url.json")
    found = re.search(r'"url"\s*:\s*"(file:[^"]+)"', text or "")
    return Path(unquote(urlsplit(found[1]).path)).resolve() if found else None


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
