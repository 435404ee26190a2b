"""Whom the pager tells: the log, where there is nobody else, and a webhook."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any, Protocol

from tieline.codec import digest
from tieline.services.pager.pages import Saying, Trouble
from tieline.settings import PagerSettings

__all__ = ["Log", "NotSent", "Target", "Webhook", "signature"]

log = logging.getLogger("tieline.pager")

_TIMEOUT = 10.0  # seconds for one POST


class NotSent(Exception):
    """Somebody could not be told. The page stays to be sent."""


class Target(Protocol):
    """Somebody to tell."""

    name: str

    async def tell(self, saying: Saying) -> str:
        """Tell it; what the receiver calls the page. Raises `NotSent`."""

    async def close(self) -> None:
        """Let go of connections."""


class Log:
    """The log, where nobody else is named."""

    name = "log"

    async def tell(self, saying: Saying) -> str:
        """One line a trouble."""
        for trouble in saying.troubles:
            if trouble.is_storage:
                is_over = saying.change == "cleared"
                log.warning("%s", f"{trouble.agent} has room again" if is_over else trouble.example)
            elif saying.change == "cleared":
                log.warning("dead letters of %s (%s): all looked after", trouble.agent, trouble.cause)
            else:
                log.warning(
                    "dead letters of %s (%s): %d on %s. %s",
                    *(trouble.agent, trouble.cause, trouble.count, ", ".join(trouble.subjects), trouble.look),
                )
        return "log"

    async def close(self) -> None:
        """Nothing to let go of."""


class Webhook:
    """POSTs JSON, signed where a secret is set. Anything but a 2xx is tried again later."""

    name = "webhook"

    def __init__(self, settings: PagerSettings, pod: str) -> None:
        self._settings = settings
        self._pod = pod

    async def tell(self, saying: Saying) -> str:
        """POST it. The key tells the receiver that a repeat is one."""
        page = saying.page
        opened = f"{page.opened:.3f}"
        counts = json.dumps(dict(page.counts), sort_keys=True) if saying.change == "updated" else ""
        key = digest("page", self._pod, saying.change, opened, *sorted(page.counts), counts)
        body = {
            "event": saying.change,
            "pod": self._pod,
            "opened": round(page.opened, 3),
            "groups": [_shown(trouble) for trouble in saying.troubles],
        }
        await asyncio.to_thread(self._post, json.dumps(body).encode(), key)
        return key

    async def close(self) -> None:
        """Nothing to let go of."""

    def _post(self, body: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": "tieline"}
        if self._settings.webhook_secret:
            headers["Tieline-Signature"] = signature(self._settings.webhook_secret, body, int(time.time()))
        request = urllib.request.Request(self._settings.webhook, body, headers, method="POST")
        try:
            with _OPENER.open(request, timeout=_TIMEOUT) as answer:
                answer.read(1024)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise NotSent(f"the webhook does not take it: {error}") from error


def signature(secret: str, body: bytes, at: int) -> str:
    """``t=<seconds>,v1=<HMAC-SHA256 of "<t>.<body>">``. The time is signed too: a receiver can refuse replays."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _shown(trouble: Trouble) -> dict[str, Any]:
    if trouble.is_storage:
        return {"storage": trouble.agent, "percent": trouble.count, "what": trouble.example, "look": trouble.look}
    return {
        "agent": trouble.agent,
        "cause": trouble.cause,
        "count": trouble.count,
        "subjects": list(trouble.subjects),
        "example": trouble.example,
        "look": trouble.look,
    }
