"""Tool calls of the small policy: ``<call>NAME ARG1 ARG2`` up to the end of the reply.

The words after the name fill the tool's ``required`` parameters in their order, so a call costs a handful of tokens and
no JSON syntax has to be learnt. ``CHAT_TEMPLATE`` is the chat template that goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import Format, ToolSchemas, new_call_id

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<call>' + call['function']['name'] }}"
    "{% set arguments = call['function']['arguments'] %}"
    "{% if arguments is mapping %}{% for value in arguments.values() %}{{ ' ' ~ value }}{% endfor %}"
    "{% elif arguments %}{{ ' ' ~ arguments }}{% endif %}"
    "{% endfor %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""``<|role|>content<|end|>`` without newlines; tools are not rendered."""


def parse_compact(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """Text before ``<call>`` is content. An unknown tool, a wrong number of arguments or a cut call is no tool
    call.
    """
    content, mark, call = text.partition("<call>")
    if not mark or tools is None:
        return ParsedReply(text)
    words = call.split()
    schema = tools.get(words[0]) if words and complete else None
    names = list(schema.get("required", ())) if schema is not None else None
    if schema is None or names is None or len(names) != len(words) - 1:
        return ParsedReply(text, status="ill_formed")
    properties = schema.get("properties", {})
    arguments = {name: _typed(word, properties.get(name, {})) for name, word in zip(names, words[1:], strict=True)}
    return ParsedReply(content, (ToolCall(new_call_id(), words[0], orjson.dumps(arguments).decode()),))


def _typed(word: str, schema: Mapping[str, Any]) -> object:
    """The word as its declared type where it has that form; else the word itself, for the agent to complain about."""
    try:
        match schema.get("type"):
            case "integer":
                value = int(word)
                return value if -(2**63) <= value < 2**64 else word
            case "number":
                return float(word)
            case "boolean":
                return {"true": True, "false": False}.get(word.lower(), word)
    except ValueError:
        pass
    return word


COMPACT = Format(parse_compact, shown_tools=False)
