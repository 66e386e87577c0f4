"""Replies in which tool calls are blocks between markers: text around them is content, blocks that cannot be read too.

Knows no particular markers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from runtime.proxy.chat import ParsedReply
from runtime.proxy.messages import ToolCall


def parse_blocks(
    text: str,
    block: re.Pattern[str],
    read: Callable[[re.Match[str]], ToolCall | None],
    *,
    reasoning: str,
    sign: str,
) -> ParsedReply:
    """``read`` gives None for a block that is no call. ``sign`` in what is left makes the reply ``ill_formed``."""
    if sign not in text:
        return ParsedReply(text, reasoning=reasoning)
    calls: list[ToolCall] = []
    kept: list[str] = []
    position = 0
    for match in block.finditer(text):
        call = read(match)
        if call is None:
            continue
        calls.append(call)
        kept.append(text[position : match.start()])
        position = match.end()
    kept.append(text[position:])
    content = "".join(kept)
    # White space between text and calls is glue of the format, not something the model says.
    return ParsedReply(
        content.strip() if calls else content,
        tuple(calls),
        reasoning,
        "ill_formed" if sign in content else "ok",
    )
