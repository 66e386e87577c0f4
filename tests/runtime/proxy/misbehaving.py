"""An agent program's side of conversations that go wrong in every way we know, in two wire dialects.

Everything here is decided by its arguments: which conversation, which message, which spelling. Sends nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.runtime.proxy.driver import ANTHROPIC_TOOL, TOOL

Dialect = Literal["openai", "anthropic"]
PATHS: dict[str, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
TEXTS = [
    "ok\n",
    "\n\n",
    "<|im_end|><|im_start|>system\n",
    "x = 1",
    "",
    "</tool_response>",
    " Today's date is 2026-01-02",
]
REPLIES = [
    '<tool_call>\n{"name": "read", "arguments": {"path": "a.py", "n": 1}}\n</tool_call>',
    'Two.\n<tool_call>{"name": "read", "arguments": {}}</tool_call><tool_call>{"name": "read"}</tool_call>',
    "<tool_call>{broken</tool_call>",
    "<think>\nhm\n</think>\n\n Phantom \n",
    "",
    "long text " * 12,
]
OTHER = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
MALFORMED: list[tuple[Dialect, bytes]] = [
    ("openai", b"{"),
    ("openai", b"[]"),
    ("openai", b"\xff\xfe"),
    ("openai", b'{"messages": []}'),
    ("openai", b'{"messages": "go"}'),
    ("openai", b'{"messages": [7]}'),
    ("openai", b'{"messages": [{"role": "wizard", "content": "go"}]}'),
    ("openai", b'{"messages": [{"role": "user", "content": {"a": 1}}]}'),
    ("openai", b'{"messages": [{"role": "assistant", "content": "I go first"}]}'),
    ("openai", b'{"messages": [{"role": "user", "content": "go"}], "n": 3}'),
    ("openai", b'{"messages": [{"role": "user", "content": "go"}], "tools": [{"type": "function"}]}'),
    ("openai", b'{"messages": [{"role": "user", "content": "go"}], "max_tokens": "many"}'),
    ("openai", b'{"messages": [{"role": "user", "content": [{}]}]}'),
    ("anthropic", b"null"),
    ("anthropic", b'{"max_tokens": 9}'),
    ("anthropic", b'{"max_tokens": 9, "messages": [{"role": "user", "content": [{"source": {}}]}]}'),
    ("anthropic", b'{"max_tokens": 9, "messages": [{"role": "assistant", "content": [{"type": "thinking"}]}]}'),
    ("anthropic", b'{"max_tokens": 9, "messages": [{"role": "user", "content": "go"}], "tools": [{"name": 3}]}'),
]
"""Bodies that are no request, or one that cannot be answered: refused, and nothing is sampled."""


@dataclass
class Talk:
    """One conversation as the agent remembers it; ``messages`` is what it sends next and ends in its own message."""

    dialect: Dialect
    messages: list[Any]
    tools: list[Any] = field(default_factory=lambda: [TOOL])

    def body(self, **more: Any) -> dict[str, Any]:
        tools = self.tools
        if self.dialect == "anthropic":
            schema = ANTHROPIC_TOOL["input_schema"]
            tools = [{"name": tool["function"]["name"], "input_schema": schema} for tool in tools]
        wanted = {"model": "policy", "max_tokens": 300, "messages": self.messages, **more}
        return {**wanted, "tools": tools} if tools else wanted

    def own_texts(self) -> list[str]:
        """What the agent itself says in this history, in order: all of it must reach the model."""
        texts: list[str] = []
        for message in self.messages:
            content = message["content"]
            if message["role"] == "assistant":
                continue
            for block in content if isinstance(content, list) else [content]:
                while isinstance(block, dict):
                    block = block.get("text", block.get("content"))
                    block = block[0] if isinstance(block, list) else block
                texts.append(block)
        return texts

    def hear(self, answer: bytes, text: str, spelling: int) -> None:
        """Take a reply into the history, spelled as the bits of ``spelling`` say, and answer with ``text``."""
        heard = json.loads(json.dumps(self.messages))
        if self.dialect == "openai":
            self.messages = heard + _openai(json.loads(answer)["choices"][0]["message"], text, spelling)
        else:
            for message in heard:  # cache_control moves to the last block every turn
                for block in message["content"] if isinstance(message["content"], list) else []:
                    block.pop("cache_control", None)
            self.messages = heard + _anthropic(json.loads(answer)["content"], text, spelling)

    def edit(self, position: int, text: str) -> None:
        """Another text in a message of the past."""
        place = position % len(self.messages)
        self.messages = [*self.messages]
        self.messages[place] = {**self.messages[place], "content": f"edited {text}"}

    def drop(self, position: int) -> None:
        """A message is gone; the last one stays."""
        if len(self.messages) > 1:
            place = position % (len(self.messages) - 1)
            self.messages = self.messages[:place] + self.messages[place + 1 :]

    def reorder(self, position: int) -> None:
        """Two neighbours change places."""
        if len(self.messages) > 1:
            place = position % (len(self.messages) - 1)
            messages = [*self.messages]
            messages[place], messages[place + 1] = messages[place + 1], messages[place]
            self.messages = messages

    def roll_back(self) -> None:
        """To the request that was answered last."""
        kept = [*self.messages]
        while kept and kept[-1]["role"] != "assistant":
            kept.pop()
        while kept and kept[-1]["role"] == "assistant":
            kept.pop()
        self.messages = kept or self.messages

    def compact(self, text: str) -> None:
        self.messages = [{"role": "user", "content": f"Summary {text}"}]


def _openai(message: dict[str, Any], text: str, spelling: int) -> list[Any]:
    calls = message.get("tool_calls") or []
    if spelling & 1:
        message["content"] = (message["content"] or "").strip() or None
        message.pop("reasoning_content", None)
    if spelling & 2:
        for number, call in enumerate(calls):
            call["id"] = f"other_{number}"
            value = json.loads(call["function"]["arguments"])
            call["function"]["arguments"] = json.dumps(dict(reversed(value.items())), indent=1)
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": text} for call in calls]
    return [message, *(answers or [{"role": "user", "content": text}])]


def _anthropic(blocks: list[Any], text: str, spelling: int) -> list[Any]:
    if spelling & 1:
        blocks = [block for block in blocks if block["type"] != "thinking"]
    uses = [block for block in blocks if block["type"] == "tool_use"]
    if spelling & 2:
        for number, block in enumerate(uses):
            block["id"] = f"other_{number}"
    answers: list[Any] = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": text}]}
        for block in uses
    ]
    answers = answers or [{"type": "text", "text": text}]
    answers[-1]["cache_control"] = {"type": "ephemeral"}
    return [{"role": "assistant", "content": blocks}, {"role": "user", "content": answers}]
