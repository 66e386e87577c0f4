"""An agent program's HTTP, byte for byte under the test's control: what the official clients would not send, too."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from tests.runtime.proxy.conftest import Running

USER: dict[str, Any] = {"role": "user", "content": "Fix it."}
GO: dict[str, Any] = {"role": "user", "content": "go"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
ANTHROPIC_TOOL: dict[str, Any] = {"name": "read", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "read", "arguments": {"path": "a.py", "n": 1}}\n</tool_call>'


def chat(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "policy", "messages": messages, "tools": [TOOL], **more}


def claude(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"model": "policy", "max_tokens": 300, "tools": [ANTHROPIC_TOOL], "messages": messages, **more}


async def send(it: Running, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
    """One POST below the session: status and body as bytes. Header names are written with underscores."""
    named = {"x-api-key": it.session.secret, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with aiohttp.ClientSession() as client, client.post(it.url + path, json=body, headers=named) as response:
        return response.status, await response.read()


async def openai(it: Running, body: Any, **headers: str) -> dict[str, Any]:
    """The assistant message of an OpenAI reply."""
    status, answer = await send(it, "/v1/chat/completions", body, **headers)
    assert status == 200, answer
    message: dict[str, Any] = json.loads(answer)["choices"][0]["message"]
    return message


async def anthropic(it: Running, body: Any, **headers: str) -> dict[str, Any]:
    """The assistant message of an Anthropic reply, as agents echo it."""
    status, answer = await send(it, "/v1/messages?beta=true", body, **headers)
    assert status == 200, answer
    return {"role": "assistant", "content": json.loads(answer)["content"]}


def known(it: Running, call: int) -> list[int]:
    """What the engine saw and sampled in a call: the next prompt of this conversation must begin with it."""
    seen = it.engine.calls[call]
    assert seen.generation is not None
    return seen.prompt_ids + list(seen.generation.token_ids)


def continues(it: Running, later: int, earlier: int) -> bool:
    before = known(it, earlier)
    return it.engine.calls[later].prompt_ids[: len(before)] == before


def suffix(it: Running, later: int, earlier: int) -> str:
    """The text that a later prompt adds to an earlier call."""
    assert continues(it, later, earlier)
    return it.engine.codec.tokens.decode(it.engine.calls[later].prompt_ids[len(known(it, earlier)) :])
