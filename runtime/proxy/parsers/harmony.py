"""Replies of gpt-oss (the harmony format): messages with a channel each, a tool call being one that is addressed to
``functions.NAME``.

The prompt ends in ``<|start|>assistant``, so a reply begins in the middle of a header. ``analysis`` is reasoning;
``final`` and ``commentary`` without a recipient (a preamble) are content. Source: the model's own chat template, and
the parser of the PyPI package ``renderers`` 0.1.12.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id

_ENDS = re.compile(r"<\|(?:end|call|return|start)\|>")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_FUNCTIONS = "functions."


def parse_harmony(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """Text without any header is content. A call whose arguments are no JSON object, or that was cut, stays content and
    makes the reply ``ill_formed``.
    """
    if "<|message|>" not in text:
        return ParsedReply(text, status="ill_formed" if "<|channel|>" in text else "ok")
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[ToolCall] = []
    ill_formed = False
    position = 0
    while position < len(text):
        header, mark, _ = text[position:].partition("<|message|>")
        start = position + len(header) + len(mark)
        if not mark:
            # A header without a message: nothing that could be shown, but not what the format allows.
            ill_formed = ill_formed or bool(header.strip())
            break
        end = _ENDS.search(text, start)
        body = text[start : end.start() if end else len(text)]
        position = len(text) if end is None else end.end()
        if "<|" not in header and "to=" not in header:
            # No header at all: the model went on writing text.
            ill_formed = True
            content.append(header + body)
            continue
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        name = "" if recipient is None else recipient[1].removeprefix(_FUNCTIONS)
        if recipient is not None and recipient[1].startswith(_FUNCTIONS) and tools is not None:
            # The stop token <|call|> is not part of the text, so a last call without an end is closed if the reply is.
            if name and _is_object(body) and (complete or end is not None):
                calls.append(ToolCall(new_call_id(), name, body.strip()))
                continue
            ill_formed = True
            content.append(body)
        elif channel is not None and channel[1] == "analysis":
            reasoning.append(body)
        else:
            content.append(body)
    return ParsedReply("".join(content), tuple(calls), "".join(reasoning), "ill_formed" if ill_formed else "ok")


def harmony_message(message: dict[str, Any]) -> dict[str, Any]:
    """As the template of gpt-oss reads it: reasoning is ``thinking``, and a turn with a call holds either text or
    reasoning, both of which it writes into the analysis channel.
    """
    if message["role"] != "assistant":
        return message
    changed = {key: value for key, value in message.items() if key != "reasoning_content"}
    reasoning = message.get("reasoning_content", "")
    if reasoning and message.get("tool_calls") and message["content"]:
        changed["content"] = f"{reasoning}\n{message['content']}"
    elif reasoning:
        changed["thinking"] = reasoning
    return changed


def _is_object(body: str) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False
