"""Tool calls of Qwen3-Coder (and Qwen 3.5, Nemotron 3): ``<tool_call><function=NAME><parameter=KEY>VALUE</parameter>
</function></tool_call>`` with a newline around each value.

Values are text; the tool's schema says which of them are numbers, lists or objects. The model at times leaves the
opening ``<tool_call>`` out, which is read all the same (vLLM's parser does so too).
"""

from __future__ import annotations

import re

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id, properties_of, split_reasoning, typed_argument
from runtime.proxy.parsers.blocks import parse_blocks

_BLOCK = re.compile(
    r"(?:<tool_call>\s*)?<function=([^>\n]+)>((?:(?!<function=).)*?)</function>(?:\s*</tool_call>)?", re.DOTALL
)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def parse_qwen3_coder(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """A block with anything but parameters in it stays in the content, and the reply is ``ill_formed``."""
    reasoning, text = split_reasoning(text)
    if tools is None:
        return ParsedReply(text, reasoning=reasoning)

    def read(match: re.Match[str]) -> ToolCall | None:
        name, body = match[1].strip(), match[2]
        properties = properties_of(tools, name)
        arguments = {
            found[1].strip(): typed_argument(found[2], properties.get(found[1].strip()))
            for found in _PARAMETER.finditer(body)
        }
        if not name or _PARAMETER.sub("", body).strip():
            return None
        return ToolCall(new_call_id(), name, orjson.dumps(arguments).decode())

    parsed = parse_blocks(text, _BLOCK, read, reasoning=reasoning, sign="<function=")
    if "<tool_call>" in parsed.content:
        return ParsedReply(parsed.content, parsed.tool_calls, reasoning, "ill_formed")
    return parsed
