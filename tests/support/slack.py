"""Slack's API, as far as the pager speaks it, on this machine: chat.*, socket mode, bearer tokens, and bad days."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from aiohttp import WSMsgType, web

__all__ = ["APP_TOKEN", "BOT_TOKEN", "CHANNEL", "Slack", "slack_server"]

BOT_TOKEN, APP_TOKEN, CHANNEL = "xoxb-1-secret", "xapp-1-secret", "C024BE91L"


@dataclass
class Slack:
    """What was asked of Slack. ``bad`` are the answers to give before good ones, as HTTP statuses."""

    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    acked: list[str] = field(default_factory=list)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: count(1))

    def said(self, method: str) -> list[dict[str, Any]]:
        """What one method was called with, when it was answered well."""
        return [body for name, body in self.calls if name == method]

    async def press(self, action: str, value: str, message: str) -> str:
        """Somebody presses a button; the envelope's id."""
        envelope = f"e{next(self._numbers)}"
        payload = {
            "type": "block_actions",
            "user": {"id": "U1", "username": "ada"},
            "channel": {"id": CHANNEL},
            "message": {"ts": message},
            "actions": [{"action_id": action, "value": value}],
        }
        said = {"envelope_id": envelope, "type": "interactive", "accepts_response_payload": True, "payload": payload}
        await self.sockets[-1].send_str(json.dumps(said))
        return envelope

    async def call(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        if self.bad:
            status = self.bad.pop(0)
            return web.json_response({"ok": False, "error": "ratelimited"}, status=status, headers={"Retry-After": "0"})
        form = await request.json() if request.content_type == "application/json" else dict(await request.post())
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if request.headers.get("Authorization") != f"Bearer {wanted}":
            return web.json_response({"ok": False, "error": "invalid_auth"})
        if method == "apps.connections.open":
            return web.json_response({"ok": True, "url": self.url.replace("http", "ws") + "socket"})
        if form.get("channel") != CHANNEL:
            return web.json_response({"ok": False, "error": "channel_not_found"})
        self.calls.append((method, dict(form)))
        ts = form.get("ts") or f"17000000.{next(self._numbers):06}"
        return web.json_response({"ok": True, "channel": CHANNEL, "ts": ts})

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(json.dumps({"type": "hello", "num_connections": 1}))
        self.sockets.append(socket)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                self.acked.append(json.loads(message.data)["envelope_id"])
        return socket


@asynccontextmanager
async def slack_server(port: int = 0) -> AsyncIterator[Slack]:
    """A Slack on a free port (or ``port``) of 127.0.0.1."""
    slack = Slack()
    app = web.Application()
    app.router.add_get("/socket", slack.socket)
    app.router.add_post("/{method}", slack.call)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield slack
    finally:
        await site.stop()  # first: who is closed comes back at once
        await asyncio.gather(*(socket.close() for socket in slack.sockets))
        await runner.cleanup()
        await asyncio.sleep(0.1)  # what it closed is gone a turn of the loop later
