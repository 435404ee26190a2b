"""A Dockerfile's steps without Docker: a root file system put together from this machine, and run in a namespace.

The base image is this machine's libraries and Python, mounted read-only; ``RUN`` steps run in a chroot of their own
mount namespace. A container is the image with a read-only root, the mounts it is given, a user of its own and no
capabilities. The network is this machine's.
"""

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Image", "built"]

_HOST = ("usr", "bin", "sbin", "lib", "lib64")
_ETC = ("ssl", "resolv.conf", "nsswitch.conf", "ld.so.cache", "pip.conf", "xdg")
_PYTHON = Path(sys.base_prefix)


@dataclass
class Image:
    """An image: its root, and what its last stage says of a container."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"

    def command(
        self, command: Sequence[str], environment: Mapping[str, str], mounts: Mapping[str, Path], user: str
    ) -> list[str]:
        """What runs ``command`` as a container of this image. ``mounts``: folders and files by their place inside."""
        settings = {**self.environment, "HOME": "/tmp", **environment}
        variables = [f"{name}={value}" for name, value in settings.items()]
        inside = ["chroot", f"--userspec={user}", str(self.root), "/usr/bin/env", "-i", *variables, *command]
        script = [*_mounts(self.root), f"mount -t tmpfs tmpfs {self.root}/tmp"]
        for place, path in mounts.items():
            target = self.root / place.lstrip("/")
            script.append(f"mkdir -p {target.parent if path.is_file() else target}")
            script += [f"touch {target}"] if path.is_file() else []
            script.append(f"mount --bind {path} {target}")
        script += [f"mount -o remount,bind,ro {self.root}", f"exec {shlex.join(inside)}"]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script)]


def built(dockerfile: Path, context: Path, place: Path) -> Image:
    """The image that ``dockerfile`` makes of ``context``, below ``place``."""
    stages: dict[str, Image] = {}
    image, folder = Image(place), "/"
    for line in dockerfile.read_text().splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.partition(" AS ")
                assert base == "python:3.13-slim", base
                image, folder = Image(place / f"stage{len(stages)}", {"PATH": "/usr/local/bin:/usr/bin:/bin"}), "/"
                stages[name or "last"] = image
                _skeleton(image.root)
            case "WORKDIR":
                folder = rest
                (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY" if rest == ". .":
                _copy(context, image.root / folder.lstrip("/"), Path(f"{dockerfile}.dockerignore"))
            case "COPY":
                source, path, target = rest.split()
                other = stages[source.removeprefix("--from=")].root
                shutil.copytree(other / path.lstrip("/"), image.root / target.lstrip("/"), symlinks=True)
            case "RUN":
                _run(image, folder, rest)
            case "ENV":
                for name, value in (pair.split("=", 1) for pair in rest.split()):
                    image.environment[name] = value.replace("$PATH", image.environment["PATH"])
            case "USER":
                image.user = rest
            case "STOPSIGNAL" | "CMD" | "" | "#":
                pass
            case _:
                raise AssertionError(f"a step that this builder does not know: {line}")
    return image


def _skeleton(root: Path) -> None:
    # Python also under its own path, where it looks for its shared library.
    for name in (*_HOST, "proc", "dev", "tmp", "etc", "run/secrets", "var/lib", str(_PYTHON).lstrip("/")):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
        else:
            (root / name).mkdir(parents=True, exist_ok=True)
    for name in _ETC:
        if Path("/etc", name).is_dir():
            shutil.copytree(f"/etc/{name}", root / "etc" / name, symlinks=False, ignore_dangling_symlinks=True)
        elif Path("/etc", name).exists():
            shutil.copy(f"/etc/{name}", root / "etc" / name)


def _mounts(root: Path) -> list[str]:
    said = [f"mount --bind {root} {root}"]
    said += [f"mount --bind -o ro /{name} {root}/{name}" for name in _HOST if not Path("/", name).is_symlink()]
    said += [f"mount --bind -o ro {_PYTHON} {root}{place}" for place in ("/usr/local", _PYTHON)]
    said += [f"mount --bind /{name} {root}/{name}" for name in ("dev", "proc")]
    return said


def _run(image: Image, folder: str, command: str) -> None:
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    variables = [f"{name}={value}" for name, value in {**image.environment, **pip, "HOME": "/tmp"}.items()]
    inside = shlex.join(["/usr/bin/env", "-i", *variables, "sh", "-ec", f"cd {folder} && {command}"])
    script = "\n".join([*_mounts(image.root), f"exec chroot {image.root} {inside}"])
    made = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, f"RUN {command}\n{made.stdout[-2000:]}\n{made.stderr[-4000:]}"


def _copy(context: Path, target: Path, ignores: Path) -> None:
    patterns = [line for line in ignores.read_text().splitlines() if line and not line.startswith("#")]

    def is_ignored(path: str) -> bool:
        ignored = False
        for pattern in patterns:
            kept, bare = pattern.startswith("!"), pattern.removeprefix("!")
            parts = path.split("/")
            heads = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
            anywhere = bare.removeprefix("**/")
            matches = any(fnmatch.fnmatch(head, bare) for head in heads) or (
                bare != anywhere and any(fnmatch.fnmatch(part, anywhere) for part in parts)
            )
            ignored = (not kept) if matches else ignored
        return ignored

    for path in sorted(context.rglob("*")):
        name = path.relative_to(context).as_posix()
        if path.is_file() and not is_ignored(name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)
