"""Slack: a page is a message in a channel that changes as the letters do, with buttons to look and to send again."""

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tieline.errors import BadSettings
from tieline.services.pager.pages import Saying, Trouble
from tieline.services.pager.targets import NotSent
from tieline.settings import PagerSettings

if TYPE_CHECKING:
    from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
    from slack_sdk.socket_mode.request import SocketModeRequest

__all__ = ["Press", "Slack"]

log = logging.getLogger("tieline.pager")

type Press = Callable[[str, str, str, str], Awaitable[str]]
"""What to do when somebody presses: (``look`` or ``redrive``, agent, cause, who) to what to answer."""

_VALID = 7 * 86400.0  # seconds a button may be pressed: as long as dead letters are kept
_LOST = frozenset({"message_not_found", "cant_update_message", "edit_window_closed"})  # write a new message instead
_TIMEOUT = 10  # seconds for one request
_SUBJECTS = 5  # shown of a trouble's


class Slack:
    """A channel in Slack. With an app token, buttons work (socket mode: Slack needs no way in to us)."""

    name = "slack"

    def __init__(self, settings: PagerSettings, pod: str, press: Press) -> None:
        try:
            from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
            from slack_sdk.web.async_client import AsyncWebClient
        except ImportError:
            raise BadSettings(
                "TIELINE_PAGER_SLACK_TOKEN is set and Slack's client is not installed: pip install 'tieline[slack]'"
            ) from None
        self._settings = settings
        self._pod = pod
        self._press = press
        self._key = hashlib.sha256(f"tieline pager {settings.slack_token}".encode()).digest()
        self._web = AsyncWebClient(settings.slack_token, settings.slack_url, timeout=_TIMEOUT)
        self._web.retry_handlers.append(AsyncRateLimitErrorRetryHandler(max_retry_count=2))
        self._socket: AsyncBaseSocketModeClient | None = None
        self._pressing: set[asyncio.Task[None]] = set()

    async def tell(self, saying: Saying) -> str:
        """A message opens, and is changed from then on: a change makes no noise."""
        said = {
            "channel": self._settings.slack_channel,
            "text": _headline(saying, self._pod),
            "blocks": self._blocks(saying),
        }
        answer: Any = None
        if saying.change != "opened":
            channel, _, ts = saying.page.ref.partition(" ")
            answer = await self._call("chat_update", **{**said, "channel": channel, "ts": ts})
        if answer is None:  # it opens; or the message is gone, and a change of it must be told all the same
            answer = await self._call("chat_postMessage", **said)
        return f"{answer['channel']} {answer['ts']}"

    async def listen(self) -> None:
        """Hear buttons from now on, as soon as Slack lets us: returns then."""
        if not self._settings.slack_app_token:
            return
        from slack_sdk.socket_mode.aiohttp import SocketModeClient

        # It tells each try with a traceback; what matters is told here, once.
        quiet = logging.getLogger("tieline.pager.socket")
        quiet.setLevel(logging.CRITICAL)
        socket = SocketModeClient(self._settings.slack_app_token, logger=quiet, web_client=self._web)
        socket.socket_mode_request_listeners.append(self._heard)
        self._socket = socket
        connecting = asyncio.ensure_future(socket.connect())  # type: ignore[no-untyped-call]
        try:
            done, _ = await asyncio.wait((connecting,), timeout=_TIMEOUT)
            if not done:
                log.error("buttons do not work now: Slack does not let us listen (is the app token right?)")
            await connecting
        finally:
            connecting.cancel()
        log.info("buttons work")

    async def close(self) -> None:
        """Hear no more buttons; finish what was pressed."""
        if self._socket is not None:
            await self._socket.close()  # type: ignore[no-untyped-call]
        if self._pressing:
            await asyncio.wait(self._pressing, timeout=_TIMEOUT)

    async def _call(self, method: str, **said: Any) -> Any:
        """Slack's answer; None where the message to change is gone."""
        from slack_sdk.errors import SlackApiError, SlackClientError

        try:
            return await getattr(self._web, method)(**said)
        except SlackApiError as error:
            if error.response.get("error") in _LOST:
                return None
            raise NotSent(f"Slack refuses it: {_words(error)}") from error
        except (SlackClientError, OSError, TimeoutError) as error:
            raise NotSent(f"Slack cannot be reached: {_words(error)}") from error

    def _blocks(self, saying: Saying) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = [_section(f"*{_escaped(_headline(saying, self._pod))}*")]
        if saying.change == "cleared":
            return blocks
        blocks += [_section(_told(trouble)) for trouble in saying.troubles[:20]]
        letters = [trouble for trouble in saying.troubles if not trouble.is_storage]
        if len(saying.troubles) == len(letters) == 1 and self._settings.slack_app_token:
            [trouble] = letters
            value = self._signed(trouble.agent, trouble.cause)
            blocks.append({"type": "actions", "elements": [_button("look", value), _button("redrive", value)]})
        return blocks

    def _signed(self, agent: str, cause: str) -> str:
        """What a button brings back: nobody but us can have made it."""
        at = int(time.time())
        return json.dumps({"agent": agent, "cause": cause, "at": at, "key": self._mac(agent, cause, at)})

    def _mac(self, agent: str, cause: str, at: int) -> str:
        said = json.dumps([self._pod, agent, cause, at]).encode()
        return hmac.new(self._key, said, hashlib.sha256).hexdigest()

    def _pressed(self, value: str) -> tuple[str, str] | None:
        """The agent and cause of a button of ours; None for any other."""
        try:
            said = json.loads(value)
            agent, cause, at, key = str(said["agent"]), str(said["cause"]), int(said["at"]), str(said["key"])
        except (ValueError, LookupError, TypeError):
            return None
        genuine = hmac.compare_digest(key.encode(), self._mac(agent, cause, at).encode())
        return (agent, cause) if genuine and time.time() - at < _VALID else None

    async def _heard(self, client: "AsyncBaseSocketModeClient", request: "SocketModeRequest") -> None:
        """Answer Slack at once, which says it again after three seconds; do the work beside."""
        from slack_sdk.socket_mode.response import SocketModeResponse

        await client.send_socket_mode_response(SocketModeResponse(request.envelope_id))
        payload = request.payload
        if request.type != "interactive" or payload.get("type") != "block_actions":
            return
        for action in payload.get("actions", ()):
            task = asyncio.create_task(self._act(payload, action), name="tieline-pager-press")
            self._pressing.add(task)
            task.add_done_callback(self._pressing.discard)

    async def _act(self, payload: dict[str, Any], action: dict[str, Any]) -> None:
        user = payload.get("user") or {}
        who = f"slack:{user.get('username') or user.get('id') or 'somebody'}"
        verb = str(action.get("action_id", "")).removeprefix("tieline-")
        found = self._pressed(str(action.get("value", "")))
        if found is None or verb not in ("look", "redrive"):
            log.warning("a button pressed by %s is none of ours, or too old: nothing was done", who)
            return
        answer = await self._press(verb, *found, who)
        channel, message = (payload.get("channel") or {}).get("id", ""), (payload.get("message") or {}).get("ts", "")
        try:
            if verb == "look":
                await self._call("chat_postEphemeral", channel=channel, user=user.get("id", ""), text=answer)
            else:
                await self._call("chat_postMessage", channel=channel, thread_ts=message, text=f"{who}: {answer}")
        except NotSent as error:
            log.warning("the answer to %s could not be given: %s", who, error)


def _headline(saying: Saying, pod: str) -> str:
    total = sum(saying.page.counts.values())
    if saying.troubles and all(trouble.is_storage for trouble in saying.troubles):
        over = saying.change == "cleared"
        return f"{pod}: " + ", ".join(f"{t.agent} has room again" if over else t.words for t in saying.troubles[:3])
    if saying.change == "cleared":
        about = ", ".join(f"{trouble.agent} ({trouble.cause})" for trouble in saying.troubles[:3])
        return f"{pod}: no dead letters of {about} any more"
    if len(saying.troubles) == 1:
        [trouble] = saying.troubles
        return f"{pod}: {trouble.words}"
    return f"{pod}: {total} dead letters of {len(saying.page.counts)} kinds"


def _told(trouble: Trouble) -> str:
    if trouble.is_storage:
        return f"{_escaped(trouble.example)}\n`{trouble.look}`"
    listed = ", ".join(f"`{_escaped(name)}`" for name in trouble.subjects[:_SUBJECTS])
    more = f" and {len(trouble.subjects) - _SUBJECTS} more" if len(trouble.subjects) > _SUBJECTS else ""
    lines = [f"*{trouble.count}* {trouble.agent}: {trouble.cause}, on {listed}{more}"]
    if trouble.example:
        lines.append(f"> {_escaped(trouble.example)}")
    return "\n".join([*lines, f"`{trouble.look}`"])


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:3000]}}


def _button(verb: str, value: str) -> dict[str, Any]:
    button: dict[str, Any] = {
        "type": "button",
        "action_id": f"tieline-{verb}",
        "text": {"type": "plain_text", "text": verb.capitalize()},
        "value": value,
    }
    if verb == "redrive":
        button["style"] = "danger"
        button["confirm"] = {
            "title": {"type": "plain_text", "text": "Send again?"},
            "text": {"type": "plain_text", "text": "All of these are handled again by the agent that gave them up."},
            "confirm": {"type": "plain_text", "text": "Redrive"},
            "deny": {"type": "plain_text", "text": "Cancel"},
        }
    return button


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _words(error: BaseException) -> str:
    """Why, in Slack's words; never the request, which carries the token."""
    response = getattr(error, "response", None)
    said = response.get("error") if response is not None and hasattr(response, "get") else None
    return str(said) if said else f"{type(error).__name__}: {error}"
