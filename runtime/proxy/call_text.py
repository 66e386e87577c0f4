"""A tool call as the policy would write it: the text between the generation prompt and the end of the turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.proxy.chat import ParsedReply
from runtime.proxy.codec import ChatCodec
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.refusal import Refusal


def call_text(
    codec: ChatCodec, tools: Sequence[Mapping[str, Any]], name: str, arguments: Mapping[str, object]
) -> str | None:
    """The reply that makes one tool call, as the model's template writes it; None where that cannot be had or the
    model's format would not read it."""
    call = ToolCall("call00000", name, json.dumps(dict(arguments)))
    offered = [dict(tool) for tool in tools]
    try:
        before = codec.text(codec.prelude, offered)
        whole = codec.text([*codec.prelude, Message("assistant", "", (call,))], offered, generate=False)
    except Refusal:
        return None
    if not whole.startswith(before):
        return None
    text = whole[len(before) :]
    stops = [spelling for spelling, number in codec.tokens.control.items() if number in codec.stop_token_ids]
    text = text[: min((found for stop in stops if (found := text.find(stop)) >= 0), default=len(text))]
    read: ParsedReply = codec.read(text, offered)
    return text if [one.name for one in read.tool_calls] == [name] else None
