"""The proxy alone in front of an engine: sessions are opened and closed over HTTP, trajectories land in a folder.

``POST /sessions`` opens a session and says where an agent finds it; ``DELETE /sessions/ID`` closes it and answers with
its trajectory. Both need the admin key, and so does the proxy's own ``GET /metrics``. Everything else is the proxy's.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runtime.addresses import web_address
from runtime.config import Proxy as ProxyConfig
from runtime.proxy.app import ClientGone, Receive, Scope, Send, read_body, send_body
from runtime.proxy.codec import ChatCodec
from runtime.proxy.refusal import Refusal
from runtime.proxy.server import ProxyServer
from runtime.proxy.session import Session
from runtime.proxy.types import SessionLimits
from runtime.rollouter.engine import Engine


@dataclass(frozen=True)
class Settings:
    """``out`` gets ``ID.json`` per closed session and ``journal.jsonl``; ``limits`` are those of every session."""

    host: str
    port: int
    out: Path
    limits: SessionLimits
    admin_key: str


class Standalone:
    """A ``ProxyServer`` with session routes in front. An ASGI application."""

    def __init__(self, settings: Settings, codec: ChatCodec, engine: Engine) -> None:
        self._settings = settings
        config = ProxyConfig(host=settings.host, port=settings.port)
        self.server = ProxyServer(
            config, codec, engine, journal=settings.out / "journal.jsonl", operator_key=settings.admin_key
        )
        self.server.application = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/sessions" or path.startswith("/sessions/")):
            await self.server.app(scope, receive, send)
            return
        try:
            status, answer = await self._control(scope["method"], path[len("/sessions") :].strip("/"), scope, receive)
        except Refusal as refusal:
            status, answer = refusal.status, {"error": str(refusal)}
        except ClientGone:
            return
        await send_body(send, status, answer if isinstance(answer, bytes) else orjson.dumps(answer))

    async def _control(self, method: str, session_id: str, scope: Scope, receive: Receive) -> tuple[int, Any]:
        presented = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(presented, f"Bearer {self._settings.admin_key}".encode()):
            return 401, {"error": "the admin key is needed: Authorization: Bearer KEY"}
        if method == "POST" and not session_id:
            raw = await read_body(receive, limit=1 << 16)
            try:
                wanted = orjson.loads(raw or b"{}").get("session_id") or secrets.token_hex(8)
                return 201, self.describe(self.server.open_session(wanted, self._settings.limits))
            except (orjson.JSONDecodeError, AttributeError, TypeError):
                return 400, {"error": 'the body is {"session_id": "NAME"} or nothing'}
            except ValueError as error:
                return 409, {"error": str(error)}
        if method == "DELETE" and session_id:
            try:
                return 200, await self.finish(session_id)
            except KeyError:
                return 404, {"error": f"no session {session_id[:200]!r} is open"}
        return 405, {"error": "POST /sessions, DELETE /sessions/ID"}

    def open(self, session_id: str) -> dict[str, str]:
        """As ``POST /sessions``."""
        return self.describe(self.server.open_session(session_id, self._settings.limits))

    def describe(self, session: Session) -> dict[str, str]:
        base = web_address(self.server.host, self.server.port) + session.base_path
        return {
            "session_id": session.id,
            "anthropic_base_url": base,
            "openai_base_url": base + "/v1",
            "api_key": session.secret,
        }

    async def finish(self, session_id: str) -> bytes:
        """Close a session and write its trajectory, whole or not at all. Raises ``KeyError`` when it is not open."""
        trajectory = (await self.server.close_session(session_id)).to_json()
        path = self._settings.out / f"{session_id}.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(trajectory)
        temporary.replace(path)
        return trajectory

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until SIGINT or SIGTERM, then close every session. ``ready`` is called once requests are answered."""
        self._settings.out.mkdir(parents=True, exist_ok=True)
        await self.server.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        try:
            ready()
            await stop.wait()
        finally:
            for session_id in self.server.open_sessions():
                await self.finish(session_id)
            await self.server.close()
