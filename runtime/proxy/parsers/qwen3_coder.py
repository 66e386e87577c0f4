"""Tool calls of Qwen3-Coder (and Qwen 3.5, Nemotron 3): ``<tool_call><function=NAME><parameter=KEY>VALUE</parameter>
</function></tool_call>`` with a newline around each value.

Values are text; the tool's schema says which of them are numbers, lists or objects. The model at times leaves the
opening ``<tool_call>`` out, which is read all the same (vLLM's parser does so too).
"""

from __future__ import annotations

import re

from runtime.proxy.chat import ParsedReply
from runtime.proxy.parsers.base import ToolSchemas, read_reasoning
from runtime.proxy.parsers.blocks import Markers, parse_blocks

_MARKERS = Markers(
    call=re.compile(r"(?:<tool_call>\s*)?<function=([^>\n]+)>(?=\s*<(?:parameter=|/function>))"),
    argument=re.compile(r"<parameter=([^>\n]+)>\n?"),
    argument_end=re.compile(r"\n?</parameter>"),
    call_end=re.compile(r"</function>(?:\s*</tool_call>)?"),
    # A tag in the middle of a sentence is spoken of.
    attempt=re.compile(
        r"(?:<tool_call>\s*)?<function=[^>\n]+>(?=\s*<)|(?:^|(?<=>))<tool_call>|<tool_call>(?=\s*[<{])", re.MULTILINE
    ),
)
_SIGN = re.compile(r"<tool_call>|<function=[^>\n]+>(?=\s*<)")


def parse_qwen3_coder(text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
    """A block with anything but parameters in it stays in the content, and the reply is ``ill_formed``."""

    def read(said: str) -> ParsedReply:
        return ParsedReply(said) if tools is None else parse_blocks(said, tools, _MARKERS)

    return read_reasoning(text, read, thinking=thinking, sign=_SIGN)
