"""Tool calls of GLM 4.5 and later: ``<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>``.

GLM 4.5 writes newlines between the parts, GLM 4.7 none; both are read. The tool's schema says which values are not text
but JSON.
"""

from __future__ import annotations

import re

from runtime.proxy.chat import ParsedReply
from runtime.proxy.parsers.base import ToolSchemas, read_reasoning
from runtime.proxy.parsers.blocks import Markers, parse_blocks

_MARKERS = Markers(
    call=re.compile(r"<tool_call>\s*([\w.:/-]+)\s*(?=<arg_key>|</tool_call>)"),
    argument=re.compile(r"<arg_key>([^<]*)</arg_key>\s*<arg_value>"),
    argument_end=re.compile(r"</arg_value>"),
    call_end=re.compile(r"</tool_call>"),
    # A tag in the middle of a sentence is spoken of.
    attempt=re.compile(r"(?:^|(?<=>))<tool_call>|<tool_call>(?=\s*[<{]|\s*[\w.:/-]+\s*<)", re.MULTILINE),
)

_SIGN = re.compile("<tool_call>")


def parse_glm(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """A block without a name, or with anything but arguments behind it, stays in the content; then the reply is
    ``ill_formed``.
    """

    def read(said: str) -> ParsedReply:
        # The newline behind <|assistant|> is sampled and no content.
        said = said.removeprefix("\n")
        return ParsedReply(said) if tools is None else parse_blocks(said, tools, _MARKERS)

    return read_reasoning(text, read, thinking=thinking, sign=_SIGN)
