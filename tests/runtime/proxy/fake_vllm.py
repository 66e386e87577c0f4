"""vLLM's HTTP surface as far as the proxy uses it, over a real socket: shapes of vLLM's ``GenerateResponse`` and
completions with ``return_token_ids``; validation errors for what vLLM would not take.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class FakeVLLM:
    """``reply`` maps prompt ids to reply ids (without bounds); each sampled token has a log-probability of its own."""

    def __init__(
        self, reply: Callable[[list[int]], Sequence[int]], *, generate: bool, max_model_len: int = 4096
    ) -> None:
        self.reply, self.max_model_len = reply, max_model_len
        self.model = "tiny"
        self.requests: list[dict[str, Any]] = []
        self.api_key: str | None = None
        self.routed_experts: str | None = None
        self.app = web.Application(middlewares=[self._authenticate], client_max_size=1 << 26)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_post("/v1/completions", self._completions)
        if generate:
            self.app.router.add_post("/inference/v1/generate", self._generate)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        # As vLLM: a client that leaves ends its request.
        runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _models(self, request: web.Request) -> web.Response:
        model = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        return web.json_response({"object": "list", "data": [model]})

    def _sample(self, prompt: list[int], params: dict[str, Any]) -> tuple[list[int], list[float], str]:
        if len(prompt) + 1 > self.max_model_len:
            raise web.HTTPBadRequest(text='{"error": {"message": "maximum context length"}}')
        ids: list[int] = []
        finish = "length"
        for token in self.reply(prompt):
            if len(ids) == min(params["max_tokens"], self.max_model_len - len(prompt)):
                break
            ids.append(token)
            if token in params["stop_token_ids"]:
                finish = "stop"
                break
        return ids, [-(index + 1) / 1024 for index in range(len(ids))], finish

    async def _generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "token_ids" not in body or "sampling_params" not in body:
            return web.json_response({"error": {"message": "field required", "code": 400}}, status=400)
        self.requests.append(body)
        ids, logprobs, finish = self._sample(body["token_ids"], body["sampling_params"])
        content: list[dict[str, Any]] = [
            {"token": f"token_id:{token}", "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in zip(ids, logprobs, strict=True)
        ]
        choice = {"index": 0, "logprobs": {"content": content}, "finish_reason": finish, "token_ids": ids}
        choice["routed_experts"] = self.routed_experts
        return web.json_response({"request_id": body["request_id"], "choices": [choice], "prompt_logprobs": None})

    async def _completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        ids, logprobs, finish = self._sample(body["prompt"], body)
        given = {"token_logprobs": logprobs, "tokens": [str(token) for token in ids], "text_offset": []}
        choice = {"index": 0, "text": "", "logprobs": given, "finish_reason": finish, "stop_reason": None}
        if body.get("return_token_ids"):
            choice |= {"token_ids": ids, "prompt_token_ids": body["prompt"]}
        usage = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": 3}}
        return web.json_response({"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": usage})
