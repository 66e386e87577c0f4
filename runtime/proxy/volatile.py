"""Text that agent programs change behind the model's back: dropped before rendering, or ignored when matching.

Without this every request would start a new conversation: Claude Code writes a billing line and a token count into its
system text, and the date into its first message. Every rule has a name; nothing else is ever normalised. Knows nothing
of messages.
"""

from __future__ import annotations

import re
from contextvars import ContextVar

DROPPED: dict[str, re.Pattern[str]] = {
    "billing-header": re.compile(r"^x-anthropic-billing-header:[^\n]*(?:\n|\Z)", re.MULTILINE),
    "total-tokens": re.compile(r"\n*<total_tokens>[^<]*</total_tokens>\n?"),
}
"""Removed from system text before it is matched or rendered; seen in Claude Code (vllm#36829, omlx#2881)."""

IGNORED: dict[str, re.Pattern[str]] = {
    "date": re.compile(r"(?<=Today's date is )\d{4}[-/]\d{2}[-/]\d{2}"),
}
"""Rendered as the agent first sent it, but equal to any other value when a history is matched: a session may run over
midnight."""

_SIGNS = {"billing-header": "x-anthropic-billing-header:", "total-tokens": "<total_tokens>", "date": "Today's date is "}
"""A plain substring test spares the patterns: nearly every text holds none of these."""

ALL = frozenset(DROPPED) | frozenset(IGNORED)
applied: ContextVar[frozenset[str]] = ContextVar("volatile_rules", default=ALL)
"""The rules of the proxy that works on the current request. A context variable, because messages are normalised and
compared deep below, in functions that are the same for all proxies."""


def without_volatile(text: str) -> str:
    """System text without the spans of ``DROPPED``."""
    for name, pattern in DROPPED.items():
        if _SIGNS[name] in text and name in applied.get():
            text = pattern.sub("", text)
    return text


def ignoring_volatile(text: str) -> str:
    """``text`` as it is compared: spans of ``IGNORED`` have one common spelling."""
    for name, pattern in IGNORED.items():
        if _SIGNS[name] in text and name in applied.get():
            text = pattern.sub("", text)
    return text
