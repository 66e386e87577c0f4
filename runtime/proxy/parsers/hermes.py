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
from runtime.proxy.parsers.base import ToolSchemas, new_call_id

_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def parse_hermes(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """A block that is not such an object stays in the content, and the reply is ``ill_formed``; so is a block that was
    never closed.
    """
    reasoning, text = _split_reasoning(text)
    if tools is None or "<tool_call>" not in text:
        return ParsedReply(text, reasoning=reasoning)
    calls: list[ToolCall] = []
    kept: list[str] = []
    position = 0
    for match in _BLOCK.finditer(text):
        call = _read_call(match[1])
        if call is None:
            continue
        calls.append(call)
        kept.append(text[position : match.start()])
        position = match.end()
    kept.append(text[position:])
    content = "".join(kept)
    ill_formed = "<tool_call>" in content
    # White space between text and calls is glue of the format, not something the model says.
    return ParsedReply(
        content.strip() if calls else content,
        tuple(calls),
        reasoning,
        "ill_formed" if ill_formed else "ok",
    )


def _split_reasoning(text: str) -> tuple[str, str]:
    head, mark, tail = text.partition("</think>")
    if not mark:
        return "", text
    return head.removeprefix("<think>").strip("\n"), tail.lstrip("\n")


def _read_call(block: str) -> ToolCall | None:
    try:
        value = orjson.loads(block)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        return ToolCall(new_call_id(), value["name"], arguments)
    return ToolCall(new_call_id(), value["name"], orjson.dumps(arguments).decode())
