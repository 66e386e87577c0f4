"""Every message, block, item and tool of the published schemas is read, and what a block says or is reaches the
policy."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import types as anthropic
from anthropic.types import beta
from openai.types import chat, responses

from runtime.proxy.dialects.anthropic import _read_tools as anthropic_tools
from runtime.proxy.dialects.anthropic import normalise as from_anthropic
from runtime.proxy.dialects.openai import _read_tools as openai_tools
from runtime.proxy.dialects.openai import normalise as from_openai
from runtime.proxy.dialects.response_tools import read_tools
from runtime.proxy.dialects.responses import _turns
from runtime.proxy.dialects.responses import normalise as from_responses
from runtime.proxy.messages import Message
from runtime.proxy.refusal import Refusal
from tests.runtime.proxy.published_messages import samples


def said(messages: tuple[Message, ...]) -> bool:
    return all(one.content or one.tool_calls or one.reasoning for one in messages)


def both(kind: Any) -> list[Any]:
    return [value for full in (True, False) for value in samples(kind, full=full)]


def test_anthropic() -> None:
    """Wherever it stands: blocks that one role alone may send, too."""
    kinds: set[str] = set()
    for kind in (anthropic.MessageParam, beta.BetaMessageParam):
        for message in both(kind):
            content = message.get("content")
            for block in content if isinstance(content, list) else ():
                kinds.add(block["type"])
                result = {"type": "tool_result", "tool_use_id": "x", "content": [block]}
                for role, blocks in (("user", [block]), ("assistant", [block]), ("user", [result])):
                    assert said(from_anthropic({"role": role, "content": blocks})) or block.get("content") is None
    assert {"redacted_thinking", "server_tool_use", "web_search_tool_result", "mcp_tool_use", "compaction"} <= kinds
    assert len(kinds) >= 20


def test_openai() -> None:
    messages = both(chat.ChatCompletionMessageParam)
    assert len(messages) > 20 and {one["role"] for one in messages} >= {"developer", "function", "tool"}
    for message in messages:
        assert said(from_openai(message)) or not any(value for key, value in message.items() if key not in _LABELS)
    for field in ({"refusal": "no"}, {"audio": {"id": "x"}}, {"function_call": {"name": "f", "arguments": "{}"}}):
        assert said(from_openai({"role": "assistant", **field}))


_LABELS = ("role", "name", "tool_call_id")


def test_responses() -> None:
    items = both(responses.ResponseInputItemParam)
    kinds = {item.get("type") for item in items}
    assert len(kinds) >= 25
    for item in items:
        if item.get("type", "item_reference" if "role" not in item else "") in ("item_reference", None):
            with pytest.raises(Refusal, match="nothing is stored here"):
                [from_responses(turn) for turn in _turns([item])]
            continue
        for turn in _turns([item]):
            assert isinstance(from_responses(turn), tuple)


def test_tools() -> None:
    """Those of a provider are left out."""
    for kind in (anthropic.ToolUnionParam, beta.BetaToolUnionParam):
        found = [anthropic_tools([tool]) for tool in both(kind)]
        assert any(found) and not all(found)
    assert any(list(read_tools([tool])) for tool in both(responses.ToolParam))
    assert all(openai_tools([tool]) for tool in both(chat.ChatCompletionToolUnionParam))
