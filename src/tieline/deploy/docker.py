"""A Dockerfile of a pod: slim, non-root, nothing to write to."""

import json
from collections.abc import Sequence

from tieline.deploy.site import RENDERED, USER
from tieline.errors import BadSettings

__all__ = ["dockerfile", "dockerignore"]

_TEMPLATE = """\
# {rendered}. Build it from the folder of your project: docker build -f {place} -t {image} .
FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /app && /app/bin/pip install --no-cache-dir --disable-pip-version-check {installs}

FROM python:3.13-slim
COPY --from=build /app /app
# Compiled now: the file system is read-only when it runs.
RUN /app/bin/python -m compileall -q /app/lib || true
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER {user}:{user}
# A process is stopped by SIGTERM: it takes nothing more, finishes what runs, and ends.
STOPSIGNAL SIGTERM
CMD {command}
"""


def dockerfile(place: str, image: str, installs: Sequence[str], command: Sequence[str]) -> str:
    """``installs``: what pip installs, relative to the folder of the build. `BadSettings` for one outside of it."""
    for path in installs:
        if path.startswith(("/", "..", "-")):
            raise BadSettings(f"--install {path!r} is not within the folder that the image is built from")
    paths = " ".join(json.dumps(path if path.startswith(".") else f"./{path}") for path in installs)
    return _TEMPLATE.format(
        rendered=RENDERED, place=place, image=image, installs=paths, user=USER, command=json.dumps(list(command))
    )


def dockerignore() -> str:
    """What an image has no business with: keys, data, history."""
    return f"# {RENDERED}\n.git\n.venv\n.tieline\n**/__pycache__\n**/*.creds\n**/.env\ndeploy\n"
