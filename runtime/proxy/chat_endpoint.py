"""One OpenAI-compatible server of chat completions: what is asked of it, how it fails, what its answers mean.

Knows nothing of sessions. Source: https://platform.openai.com/docs/api-reference/chat, and what other servers of that
API are known to do otherwise (no counts, no ids, parameters that they refuse by name).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from runtime.errors import MachineError, Termination, TrialError
from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import new_call_id

log = logging.getLogger(__name__)

_ATTEMPTS = 6
_LONGEST_PAUSE_SEC = 60.0
_CONNECT_SEC, _REPLY_SEC = 10.0, 900.0
_OPTIONAL = ("temperature", "top_p", "top_k", "seed", "stop")
_OVERFLOW = re.compile(r"context[ _]length|maximum context|context window|too many tokens|prompt is too long", re.I)
_UNKNOWN = re.compile(r"unsupported|unrecognized|unknown|unexpected|not (supported|permitted|allowed)|extra", re.I)
"""How servers say that they do not take a parameter."""
_SAID = 300


@dataclass(frozen=True)
class Answer:
    """One reply. ``cut``: ended at a limit of tokens; the counts are the server's own, 0 where it has none."""

    parsed: ParsedReply
    cut: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class RequestRefused(Exception):
    """The server says that the request itself is wrong; ``overflow``: it is longer than the model's context."""

    def __init__(self, message: str, *, overflow: bool) -> None:
        super().__init__(message)
        self.overflow = overflow


class ChatEndpoint:
    """``url`` with or without ``/v1`` or ``/chat/completions``; ``model`` as the server names it."""

    def __init__(self, url: str, model: str, *, api_key: str | None = None) -> None:
        base = url.rstrip("/").removesuffix("/chat/completions")
        self.url = base if re.search(r"/v\d+[a-z]*(/openai)?$", base) else f"{base}/v1"
        self.model = model
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client: aiohttp.ClientSession | None = None
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()

    async def connect(self) -> None:
        """Ask for one short reply, so that a wrong address, key or name shows before anything else is begun. Raises
        ``MachineError``."""
        try:
            await self.ask({"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 16}, attempts=2)
        except RequestRefused as refused:
            raise MachineError(str(refused), fix="give --model as the server names it") from None
        except TrialError as error:
            raise MachineError(
                str(error), fix="look at --endpoint, at --model, and at the key in LIVERL_ENGINE_KEY"
            ) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def ask(self, body: Mapping[str, Any], *, attempts: int = _ATTEMPTS) -> Answer:
        """One reply. Waits and asks again where the server is busy or broken (429, 5xx, no connection), as long as it
        says itself; raises ``RequestRefused``, or ``TrialError(MODEL_UNAVAILABLE)`` at last.
        """
        pause, said, attempt = 1.0, "", 0
        while attempt < attempts:
            if attempt:
                await asyncio.sleep(min(pause, _LONGEST_PAUSE_SEC))
                pause *= 2
            attempt += 1
            try:
                status, headers, raw = await self._post(body)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                said = f"{self.url}: {error or type(error).__name__}"
                continue
            if status == 200:
                return self._read(raw)
            said = f"{self.url}/chat/completions answered {status}: {raw[:_SAID].decode(errors='replace')}"
            if status in (408, 409, 425, 429) or status >= 500:
                pause = _asked_pause(headers, pause)
                continue
            if status in (401, 403, 404):
                break
            overflow = _OVERFLOW.search(raw.decode(errors="replace")) is not None
            if overflow or not self._learns(raw, body):
                raise RequestRefused(said, overflow=overflow)
            attempt = 0  # it ends: each parameter is learnt once
        raise TrialError(Termination.MODEL_UNAVAILABLE, said)

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        if self._client is None:
            timeout = aiohttp.ClientTimeout(total=_REPLY_SEC, sock_connect=_CONNECT_SEC)
            self._client = aiohttp.ClientSession(headers=self._headers, timeout=timeout, trust_env=True)
        sent = {self._renamed.get(name, name): value for name, value in body.items() if name not in self._left_out}
        raw = orjson.dumps({"model": self.model, "stream": False, **sent})
        headers = {"Content-Type": "application/json"}
        async with self._client.post(
            f"{self.url}/chat/completions", data=raw, headers=headers, allow_redirects=False
        ) as response:
            return response.status, response.headers, await response.read()

    def _learns(self, raw: bytes, body: Mapping[str, Any]) -> bool:
        """Whether a refusal names a parameter that can be spelt otherwise or left out. Said once: what is left out is
        how the model samples."""
        said = raw.decode(errors="replace")
        if not _UNKNOWN.search(said):
            return False
        if "max_completion_tokens" in said and "max_tokens" in body and "max_tokens" not in self._renamed:
            self._renamed["max_tokens"] = "max_completion_tokens"
            return True
        for name in _OPTIONAL:
            if name in body and name not in self._left_out and re.search(rf"\b{name}\b", said):
                self._left_out.add(name)
                log.warning("%s takes no %s (%s): it is left out from now on", self.url, name, said[:_SAID])
                return True
        return False

    def _read(self, raw: bytes) -> Answer:
        try:
            answer = orjson.loads(raw)
            choice = answer["choices"][0]
            message = choice["message"]
            content, calls = message.get("content"), message.get("tool_calls") or []
            usage = answer.get("usage") or {}
            read, unread = _calls(calls)
            parsed = ParsedReply(
                content=_text(content),
                tool_calls=read,
                reasoning=_text(message.get("reasoning_content") or message.get("reasoning")),
                status="ill_formed" if unread else "ok",
                unread=unread,
            )
            details = usage.get("prompt_tokens_details") or {}
            return Answer(
                parsed=parsed,
                cut=choice.get("finish_reason") == "length",
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                cached_tokens=int(details.get("cached_tokens") or 0),
            )
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            said = raw[:_SAID].decode(errors="replace")
            raise TrialError(
                Termination.MODEL_UNAVAILABLE,
                f"{self.url}/chat/completions gave no chat completion ({error!r}): {said}",
            ) from None


def _text(content: Any) -> str:
    """Content is a text, nothing, or blocks of text."""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content)
    return "" if content is None else str(content)


def _calls(calls: list[Any]) -> tuple[tuple[ToolCall, ...], tuple[str, ...]]:
    """The calls whose arguments are a JSON object, and the texts of the others."""
    read: list[ToolCall] = []
    unread: list[str] = []
    for call in calls:
        function = call["function"]
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
        call_of = ToolCall(str(call.get("id") or new_call_id()), str(function["name"]), text or "{}")
        if isinstance(call_of.parsed(), dict):
            read.append(call_of)
        else:
            unread.append(f"{call_of.name} {text}")
    return tuple(read), tuple(unread)


def _asked_pause(headers: Mapping[str, str], otherwise: float) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", otherwise)))
    except ValueError:
        return otherwise
