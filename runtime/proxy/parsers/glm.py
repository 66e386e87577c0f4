"""Tool calls of GLM 4.5 and later: ``<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>``.

GLM 4.5 writes newlines between the parts, GLM 4.7 none; both are read. Values that are not strings are JSON.
"""

from __future__ import annotations

import re

import orjson

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall
from runtime.proxy.parsers.base import ToolSchemas, new_call_id, properties_of, split_reasoning, typed_argument
from runtime.proxy.parsers.blocks import parse_blocks

_BLOCK = re.compile(r"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", re.DOTALL)
_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_NAME = re.compile(r"[\w.:/-]+")


def parse_glm(text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
    """A block without a name, or with anything but arguments behind it, stays in the content; then the reply is
    ``ill_formed``.
    """
    reasoning, text = split_reasoning(text)
    if tools is None:
        return ParsedReply(text.removeprefix("\n"), reasoning=reasoning)

    def read(match: re.Match[str]) -> ToolCall | None:
        name, key, _ = match[1].partition("<arg_key>")
        name, rest = name.strip(), match[1][len(name) :] if key else ""
        if not _NAME.fullmatch(name) or _ARGUMENT.sub("", rest).strip():
            return None
        properties = properties_of(tools, name)
        arguments = {
            found[1].strip(): typed_argument(found[2], properties.get(found[1].strip()))
            for found in _ARGUMENT.finditer(rest)
        }
        return ToolCall(new_call_id(), name, orjson.dumps(arguments).decode())

    # The newline behind <|assistant|> is sampled and no content.
    return parse_blocks(text.removeprefix("\n"), _BLOCK, read, reasoning=reasoning, sign="<tool_call>")
