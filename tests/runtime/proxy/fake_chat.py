"""A server of OpenAI's chat completions over a real socket, as strict as the real ones about what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Reply = dict[str, Any]


def said(content: str | None, *calls: tuple[str, str], finish: str = "stop", **more: Any) -> Reply:
    """One choice: a text, and calls as (name, arguments)."""
    message: dict[str, Any] = {"role": "assistant", "content": content, **more}
    if calls:
        message["tool_calls"] = [
            {"id": f"c{place}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for place, (name, arguments) in enumerate(calls)
        ]
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else finish}],
        "usage": usage,
    }


class FakeChatServer:
    """``reply`` maps the body of a request to an answer, or to an ``HTTPException`` to raise. ``refused``: parameters
    that it does not know."""

    def __init__(
        self,
        reply: Callable[[dict[str, Any]], Reply | web.HTTPException],
        *,
        key: str = "",
        refused: tuple[str, ...] = (),
    ) -> None:
        self._reply, self._key, self._refused = reply, key, refused
        self.requests: list[dict[str, Any]] = []

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}/v1"
        finally:
            await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        if self._key and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        body = await request.json()
        for name in self._refused:
            if name in body:
                instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                message = f"Unsupported parameter: '{name}' is not supported with this model.{instead}"
                return web.json_response({"error": {"message": message, "param": name}}, status=400)
        self.requests.append(body)
        answer = self._reply(body)
        if isinstance(answer, web.HTTPException):
            raise answer
        return web.json_response(answer)
