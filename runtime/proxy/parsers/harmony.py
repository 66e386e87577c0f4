"""Replies of gpt-oss (the harmony format): messages with a channel each, a tool call being one that is addressed to a
tool: ``functions.NAME``, or ``NAME`` alone, which the model writes in long contexts.

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
from runtime.proxy.parsers.values import json_at, json_text

_ENDS = re.compile(r"<\|(?:end|call|return|start)\|>")
_SPACE = re.compile(r"\s*")
_RECIPIENT = re.compile(r"to=\s*([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_FUNCTIONS = "functions."
_NO_TOOLS = frozenset({"user", "assistant", "all"})
"""Recipients that are parties of the conversation."""


def parse_harmony(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """Text without any header is content. A call whose arguments are no JSON object, or that was cut, stays content and
    makes the reply ``ill_formed``. A recipient that is none of the tools is a call all the same: the agent says that
    there is no such tool.
    """
    if "<|message|>" not in text:
        meant = tools is not None and "<|channel|>" in text and _RECIPIENT.search(text) is not None
        return ParsedReply(
            text, status="ill_formed" if "<|channel|>" in text else "ok", unread=(text,) if meant else ()
        )
    reasoning: list[str] = []
    content: list[str] = []
    calls: list[ToolCall] = []
    unread: list[str] = []
    ill_formed = False
    position = 0
    while position < len(text):
        header, mark, _ = text[position:].partition("<|message|>")
        start = position + len(header) + len(mark)
        if not mark:
            # A header without a message: nothing that could be shown, but not what the format allows.
            ill_formed = ill_formed or bool(header.strip())
            if tools is not None and _recipient(header, tools) is not None:
                unread.append(header)
            break
        name = None if tools is None else _recipient(header, tools)
        arguments, body_end = None, start
        if name is not None:
            arguments, body_end = _arguments(text, start)
        end = _ENDS.search(text, body_end)
        body = text[start : end.start() if end else len(text)]
        began, position = position, len(text) if end is None else end.end()
        if "<|" not in header and "to=" not in header:
            # No header at all: the model went on writing text.
            ill_formed = True
            content.append(header + body)
            continue
        channel = _CHANNEL.search(header)
        if name is not None:
            # The stop token <|call|> is not part of the text, so a last call without an end is closed if the reply is.
            whole = not text[body_end : end.start() if end else len(text)].strip()
            if name and arguments is not None and whole and (complete or end is not None):
                calls.append(ToolCall(new_call_id(), name, arguments))
                continue
            unread.append(text[began:position])
            content.append(body)
        elif tools is not None and _to_no_one(header, channel):
            unread.append(text[began:position])
            content.append(body)
        elif channel is not None and channel[1] == "analysis":
            reasoning.append(body)
        else:
            content.append(body)
    return ParsedReply(
        "".join(content),
        tuple(calls),
        "".join(reasoning),
        "ill_formed" if ill_formed or unread else "ok",
        tuple(unread),
    )


def _recipient(header: str, tools: ToolSchemas) -> str | None:
    """The tool that a message is addressed to; empty for ``functions.`` without a name."""
    found = _RECIPIENT.search(header)
    if found is None:
        return None
    name = found[1] if found[1] in tools else found[1].removeprefix(_FUNCTIONS)
    return None if name in _NO_TOOLS and name not in tools else name


def _to_no_one(header: str, channel: re.Match[str] | None) -> bool:
    """Whether this begins arguments without a recipient: an answer alone may be of a kind of its own without one."""
    answer = channel is not None and channel[1] == "final"
    return "<|constrain|>" in header and not answer and _RECIPIENT.search(header) is None


def _arguments(text: str, start: int) -> tuple[str | None, int]:
    """The JSON text of the object that begins here, and where it ends: its texts may spell control tokens."""
    space = _SPACE.match(text, start)
    begin = start if space is None else space.end()
    found = json_at(text, begin)
    if found is None or not isinstance(found[0], dict):
        return None, start
    value, end = found
    try:
        orjson.loads(text[begin:end])
    except orjson.JSONDecodeError:
        return json_text(value), end  # JSON that only a lenient reader takes
    return text[begin:end], end


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
