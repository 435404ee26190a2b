"""The logs of a process: Tieline's own loggers, to stderr, as lines of text or as JSON.

Only the logger ``tieline`` is configured. Those of other libraries and of the pod's own code keep what Python or the
pod gave them: by default their warnings are shown, and nothing below.
"""

import json
import logging
import sys
from datetime import UTC, datetime

from tieline.settings import Settings

__all__ = ["configure_logs"]


def configure_logs(settings: Settings, process: str = "") -> None:
    """Send the log of this process to stderr as ``settings`` say. ``process`` is named in each line, if given."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_Json(process))
    else:
        who = f" {process}".replace("%", "%%") if process else ""
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{who} %(message)s"))
    ours = logging.getLogger("tieline")
    ours.setLevel(settings.log.upper())
    ours.handlers = [handler]
    ours.propagate = False  # a pod that logs on its own would print each line twice


class _Json(logging.Formatter):
    """One object a line: ``time``, ``level``, ``logger``, ``process``, ``message``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
