"""The image of a pod: a Dockerfile (slim, non-root, nothing to write to) and what belongs beside it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tieline.deploy.image_sources import Sources
from tieline.deploy.site import RENDERED, USER, File
from tieline.errors import BadSettings

__all__ = ["Image", "image_files"]

_TEMPLATE = """\
# {rendered}. Build it from the folder of your project: docker build -f {place}/Dockerfile -t {image} .
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /app && /app/bin/pip install --no-cache-dir --disable-pip-version-check {installs}
{copied}
FROM python:3.13-slim
COPY --from=build /app /app
# Compiled now: the file system is read-only when it runs.
RUN /app/bin/python -m compileall -q /app/lib || true
ENV PATH=/app/bin:$PATH PYTHONPATH=/app/pod PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER {user}:{user}
# A process is stopped by SIGTERM: it takes nothing more, finishes what runs, and ends.
STOPSIGNAL SIGTERM
CMD {command}
"""
_CONSTRAINTS, _WHEELS = "constraints.txt", "wheels"


class Image:
    """An image that is built from the current folder, whose Dockerfile is in the folder ``place`` within it.

    `BadSettings` for a ``place`` outside: what lies there is not sent to the builder.
    """

    def __init__(self, name: str, place: Path, sources: Sources) -> None:
        self.name = name
        self.sources = sources
        self.place = os.path.relpath(place, ".")
        if self.place.startswith(".."):
            raise BadSettings(f"--out {place} is outside of the folder that the image is built from ({Path.cwd()})")
        self.context = os.path.relpath(".", place)
        """The folder of the project, as seen from ``place``."""

    @property
    def dockerfile(self) -> str:
        """Its Dockerfile, as seen from the context."""
        return f"{self.place}/Dockerfile"

    def steps(self) -> list[str]:
        """What to run before it is built: wheels of what is installed here from elsewhere on this machine."""
        wheels = f"{self.place}/{_WHEELS}"
        made = [command.format(wheels=wheels) for command in self.sources.outside.values()]
        return [f"mkdir -p {wheels}", *made] if made else []


def image_files(image: Image, command: Sequence[str]) -> dict[str, File]:
    """The files of the image by name. ``command`` is what a container runs unless told."""
    found = {
        "Dockerfile": File(_dockerfile(image, command)),
        "Dockerfile.dockerignore": File(_dockerignore(image.place)),
    }
    if image.sources.constraints:
        lines = [f"# {RENDERED}: the versions that were installed where it was rendered.", *image.sources.constraints]
        found[_CONSTRAINTS] = File("\n".join([*lines, ""]))
    return found


def _dockerfile(image: Image, command: Sequence[str]) -> str:
    sources = image.sources
    installs = [f"-c {image.place}/{_CONSTRAINTS}"] if sources.constraints else []
    installs += [f"{image.place}/{_WHEELS}/*.whl"] if sources.outside else []
    installs += [json.dumps(path) for path in sources.installs]
    copied = "".join(f"RUN mkdir -p /app/pod && cp -r {json.dumps(path)} /app/pod/\n" for path in sources.modules)
    return _TEMPLATE.format(
        rendered=RENDERED,
        place=image.place,
        image=image.name,
        installs=" ".join(installs),
        copied=copied,
        user=USER,
        command=json.dumps(list(command)),
    )


def _dockerignore(place: str) -> str:
    """What an image has no business with: keys, data, history."""
    own = [f"{place}/data", f"{place}/secrets", f"{place}/1-secrets.yaml"] if place == "." else [place]
    lines = [f"# {RENDERED}", ".git", ".venv", ".tieline", "**/__pycache__", "**/*.creds", "**/.env", "deploy", *own]
    return "\n".join([*lines, f"!{place}/{_CONSTRAINTS}", f"!{place}/{_WHEELS}", ""])
