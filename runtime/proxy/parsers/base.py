"""Where tool parsers meet the codec: text of a reply in, content and tool calls out.

A parser knows one wire format of tool calls and nothing of tokens or HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Protocol

from runtime.proxy.chat import ParsedReply

ToolSchemas = Mapping[str, Mapping[str, Any]]
"""Function name -> JSON schema of its parameters."""


class ToolParser(Protocol):
    """Reads the text of one reply. Never raises: what cannot be read as a tool call stays content."""

    def __call__(self, text: str, tools: ToolSchemas | None, *, complete: bool) -> ParsedReply:
        """``tools`` is None when the request allows no tool call; ``complete`` is false for a cut reply."""


def new_call_id() -> str:
    return "call_" + secrets.token_hex(8)
