"""A vLLM server that replies at once with the same 800 tokens, for proxies to be measured in front of: token ids by
``/inference/v1/generate``, text by ``/v1/chat/completions``, at once or as a stream. All bytes are made beforehand.

    python benchmarks/_fake_vllm.py PORT REPLY.json

``REPLY.json``: {"token_ids": [...], "text": "..."}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import orjson
import uvicorn

EVENTS = 200


def replies(token_ids: list[int], text: str) -> tuple[bytes, bytes, list[bytes]]:
    """Of the three ways to ask."""
    content = [{"token": "", "logprob": -0.5, "bytes": None, "top_logprobs": []} for _ in token_ids]
    choice = {"index": 0, "token_ids": token_ids, "logprobs": {"content": content}, "finish_reason": "stop"}
    ids = orjson.dumps({"request_id": "r", "choices": [choice], "prompt_logprobs": None})
    frame: dict[str, Any] = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "tiny"}
    usage = {"prompt_tokens": 8000, "completion_tokens": len(token_ids), "total_tokens": 8000 + len(token_ids)}
    message = {"role": "assistant", "content": text}
    whole = orjson.dumps(
        {
            **frame,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    )
    size = -(-len(text) // EVENTS)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[start : start + size]} for start in range(0, len(text), size)]
    chunks = [
        {"index": 0, "delta": delta, "finish_reason": None if number < len(deltas) - 1 else "stop"}
        for number, delta in enumerate(deltas)
    ]
    events = [orjson.dumps({**frame, "object": "chat.completion.chunk", "choices": [chunk]}) for chunk in chunks]
    return ids, whole, [b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"]]


def application(token_ids: list[int], text: str) -> Any:
    ids, whole, stream = replies(token_ids, text)
    models = orjson.dumps({"object": "list", "data": [{"id": "tiny", "object": "model", "max_model_len": 1 << 20}]})

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def answer(status: int, *parts: bytes, kind: bytes = b"application/json") -> None:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
            for part in parts[:-1]:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": parts[-1]})

        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        match scope["path"]:
            case "/inference/v1/generate":
                await answer(*((400, b"{}") if len(body) < 10 else (200, ids)))
            case "/v1/chat/completions" if b'"stream":true' in body.replace(b" ", b""):
                await answer(200, *stream, kind=b"text/event-stream")
            case "/v1/chat/completions":
                await answer(200, whole)
            case "/v1/models":
                await answer(200, models)
            case _:
                await answer(200 if scope["path"] == "/health" else 404, b"{}")

    return app


if __name__ == "__main__":
    reply = json.loads(Path(sys.argv[2]).read_text())
    app = application(reply["token_ids"], reply["text"])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, http="httptools", loop="uvloop")
