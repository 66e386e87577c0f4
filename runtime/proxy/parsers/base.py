"""Where model families meet the codec: how a family writes tool calls, and what ends its replies.

A parser knows one wire format of tool calls and nothing of tokens or HTTP.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from runtime.proxy.chat import ParsedReply

ToolSchemas = Mapping[str, Mapping[str, Any]]
"""Function name -> JSON schema of its parameters."""

_THINK, _END_OF_THINKING = "<think>", "</think>"


class ToolParser(Protocol):
    """Reads the text of one reply. Never raises: what cannot be read as a tool call stays content."""

    def __call__(self, text: str, tools: ToolSchemas | None, *, complete: bool, thinking: bool = False) -> ParsedReply:
        """``tools`` is None when the request allows no tool call; ``complete`` is false for a cut reply; ``thinking``
        says that the prompt has opened the reasoning with which the reply goes on.
        """


def as_it_is(message: dict[str, Any]) -> dict[str, Any]:
    return message


@dataclass(frozen=True, slots=True)
class Format:
    """How one family of models writes.

    ``stops`` are control tokens that end a reply beside those that the model's folder names; ``inner`` close a part of
    a reply and therefore never end one. ``prepare`` changes a message from the common form of templates to what this
    family's template reads. ``shown_tools`` is false where the models know their tools by heart and no template needs
    to show them.
    """

    parser: ToolParser
    stops: tuple[str, ...] = ()
    inner: frozenset[str] = frozenset()
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = as_it_is
    shown_tools: bool = True


def new_call_id() -> str:
    return "call_" + secrets.token_hex(8)


def read_reasoning(
    text: str, read: Callable[[str], ParsedReply], *, thinking: bool, sign: re.Pattern[str]
) -> ParsedReply:
    """``read`` for what follows the reasoning between ``<think>`` and ``</think>``.

    Only a reply that begins with the one, or whose prompt does (``thinking``), can hold the other as a delimiter:
    anywhere else it is text. A call that is written while the reasoning is still open ends it, unless what looks like
    one is part of it; ``sign`` is how a call begins. One that cannot be read, in reasoning that never ends, was still
    meant for a call.
    """
    begun = text.lstrip()
    if begun.startswith(_THINK):
        text = begun[len(_THINK) :]
    elif not thinking:
        return read(text)
    end, begin = text.find(_END_OF_THINKING), sign.search(text)
    unread: tuple[str, ...] = ()
    if begin is not None and not 0 <= end < begin.start():
        parsed = read(text[begin.start() :])
        if parsed.tool_calls and parsed.status == "ok" and _END_OF_THINKING not in parsed.content:
            return replace(parsed, reasoning=text[: begin.start()].strip("\n"))
        unread = parsed.unread
    if end < 0:
        return ParsedReply("", (), text.strip("\n"), "ill_formed" if unread else "ok", unread)
    parsed = read(text[end + len(_END_OF_THINKING) :].lstrip("\n"))
    return replace(parsed, reasoning=text[:end].strip("\n"))
