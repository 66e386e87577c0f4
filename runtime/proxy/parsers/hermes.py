"""Tool calls of the Hermes format, as Qwen 2.5 and Qwen 3 write them: ``<tool_call>{"name": ..., "arguments":
{...}}</tool_call>``.

Reasoning between ``<think>`` and ``</think>`` is split off. Does not know which tools exist: an unknown name is the
agent's business.
"""

from __future__ import annotations

import re

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id, split_reasoning
from runtime.proxy.parsers.blocks import parse_blocks

_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def parse_hermes(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """A block that is not such an object stays in the content, and the reply is ``ill_formed``; so is a block that was
    never closed.
    """
    reasoning, text = split_reasoning(text)
    if tools is None:
        return ParsedReply(text, reasoning=reasoning)
    return parse_blocks(text, _BLOCK, _read_call, reasoning=reasoning, sign="<tool_call>")


def _read_call(match: re.Match[str]) -> ToolCall | None:
    try:
        value = orjson.loads(match[1])
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        return ToolCall(new_call_id(), value["name"], arguments)
    return ToolCall(new_call_id(), value["name"], orjson.dumps(arguments).decode())
