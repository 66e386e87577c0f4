"""Anthropic messages: ``POST /v1/messages``, streamed and not, as Claude Code speaks it.

System text may be a string, a list of blocks, or messages in the middle of the list; ``cache_control`` is never looked
at. Sampling parameters of the request are read past: the session's limits decide. So is what forces a reply into a form
or a call, which Claude Code itself sends.
"""

from __future__ import annotations

from typing import Any

import orjson

from runtime.proxy.chat import ChatRequest, Reply
from runtime.proxy.dialects.base import (
    Action,
    Route,
    blocks_of,
    invalid,
    object_field,
    pieces,
    read_flag,
    read_limit,
    read_messages,
    read_model,
    read_stop,
    text_field,
)
from runtime.proxy.dialects.blocks import shown_text
from runtime.proxy.messages import Message, ToolCall
from runtime.proxy.refusal import ContextOverflow, Kind, Refusal
from runtime.proxy.volatile import ignoring_volatile, without_volatile

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    Kind.UNAUTHENTICATED: "authentication_error",
    Kind.NOT_FOUND: "not_found_error",
    Kind.TOO_LARGE: "request_too_large",
    Kind.BUSY: "overloaded_error",
    Kind.CROWDED: "overloaded_error",
    Kind.UNAVAILABLE: "overloaded_error",
    Kind.INTERNAL: "api_error",
}


_SIGNATURE = "liverl-"
"""Before the reply's id in the signature of a thinking block: on echo it says which reply is repeated."""


class AnthropicMessages:
    """See https://docs.anthropic.com/en/api/messages."""

    name = "anthropic"
    routes: tuple[Route, ...] = (
        Route("POST", "/v1/messages", Action.CHAT),
        Route("POST", "/v1/messages/count_tokens", Action.COUNT_TOKENS),
    )
    messages_field = "messages"

    def parse(self, body: dict[str, Any]) -> ChatRequest:
        system = _system(body.get("system"), "system")
        tools = _read_tools(body.get("tools") or [])
        thread = object_field(body.get("thread") or {}, "thread")
        if thread.get("type", "create") != "create":
            raise invalid("nothing is stored here; send the whole conversation", "thread")
        if body.get("compaction"):
            raise invalid("is not supported: ask the policy for a summary", "compaction")
        # Claude Code's helpers for titles and web search force a form or a call: they get a free reply.
        choice = object_field(body.get("tool_choice") or {}, "tool_choice")
        return ChatRequest(
            dialect=self.name,
            model=read_model(body),
            head=(ignoring_volatile(system), tools),
            system=(Message("system", system),) if system else (),
            tools=tools,
            wire=read_messages(body),
            normalise=normalise,
            max_tokens=read_limit(body, "max_tokens"),
            parse_tools=choice.get("type") != "none",
            stop=read_stop(body, "stop_sequences"),
            stream=read_flag(body, "stream"),
        )

    def reply(self, reply: Reply, request: ChatRequest) -> bytes:
        return orjson.dumps(
            {
                **_frame(reply),
                "content": [block for block, _ in _blocks(reply)],
                **_ending(reply),
                "usage": _usage(reply, reply.completion_tokens),
            }
        )

    def stream(self, reply: Reply, request: ChatRequest) -> bytes:
        message = {
            **_frame(reply),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(reply, 1),
        }
        out = [_event("message_start", {"message": message})]
        for index, (block, delta) in enumerate(_blocks(reply)):
            start, deltas = _streamed(block, delta)
            out.append(_event("content_block_start", {"index": index, "content_block": start}))
            for kind, field, text in deltas:
                # Every event but its text is the same: one dump gives the bytes around it.
                before, after = _event(
                    "content_block_delta", {"index": index, "delta": {"type": kind, field: "TEXT"}}
                ).split(b'"TEXT"')
                # A signature is one value, not text that arrives bit by bit.
                for piece in pieces(text) if kind != "signature_delta" else (text,):
                    out += [before, orjson.dumps(piece), after]
            out.append(_event("content_block_stop", {"index": index}))
        out.append(
            _event("message_delta", {"delta": _ending(reply), "usage": {"output_tokens": reply.completion_tokens}})
        )
        out.append(_event("message_stop", {}))
        return b"".join(out)

    def error(self, refusal: Refusal) -> bytes:
        message = str(refusal)
        if isinstance(refusal, ContextOverflow):
            message = f"prompt is too long: {refusal.tokens} tokens > {refusal.limit} maximum"
        kind = _ERROR_TYPES.get(refusal.kind, "invalid_request_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})

    def stream_error(self, refusal: Refusal) -> bytes:
        return b"event: error\ndata: " + self.error(refusal) + b"\n\n"


def normalise(sent: Any) -> tuple[Message, ...]:
    """One wire message; a user message with tool results becomes several. Raises ``Refusal`` of kind ``INVALID``."""
    message = object_field(sent, "messages[]")
    content = message.get("content")
    match message.get("role"):
        case "system":
            return (Message("system", _system(content, "messages[].content")),)
        case "user":
            return _user(content)
        case "assistant":
            return (_assistant(content),)
        case role:
            raise invalid(f"{role!r} is unknown; use user, assistant or system", "messages[].role")


def _user(content: Any) -> tuple[Message, ...]:
    if isinstance(content, str):
        return (Message("user", content),)
    found: list[Message] = []
    texts: list[str] = []
    for block in blocks_of(content, "messages[].content"):
        match block.get("type"):
            case "text":
                texts.append(text_field(block.get("text"), "messages[].content[].text"))
            case "tool_result":
                if texts:
                    found.append(Message("user", "\n".join(texts)))
                    texts = []
                identity = text_field(block.get("tool_use_id"), "messages[].content[].tool_use_id")
                found.append(
                    Message("tool", _texts(block.get("content"), "messages[].content[].content"), (), identity)
                )
            case _:
                texts.append(shown_text(block, "messages[].content[]"))
    if texts or not found:
        found.append(Message("user", "\n".join(texts)))
    return tuple(found)


def _assistant(content: Any) -> Message:
    if isinstance(content, str):
        return Message("assistant", content)
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    origin = ""
    for block in blocks_of(content, "messages[].content"):
        match block.get("type"):
            case "text":
                texts.append(text_field(block.get("text"), "messages[].content[].text"))
            case "thinking":
                thoughts.append(text_field(block.get("thinking"), "messages[].content[].thinking"))
                signature = block.get("signature")
                if isinstance(signature, str) and signature.startswith(_SIGNATURE):
                    origin = signature.removeprefix(_SIGNATURE)
            case "tool_use":
                name = text_field(block.get("name"), "messages[].content[].name")
                identity = text_field(block.get("id"), "messages[].content[].id")
                calls.append(ToolCall(identity, name, orjson.dumps(block.get("input")).decode()))
            case _:
                texts.append(shown_text(block, "messages[].content[]"))
    return Message("assistant", "\n".join(texts), tuple(calls), None, "\n".join(thoughts), origin)


def _system(content: Any, where: str) -> str:
    """System text without its volatile spans; a block that held nothing else is no block."""
    return "\n".join(kept for text in _text_list(content, where) if (kept := without_volatile(text)) or not text)


def _texts(content: Any, where: str) -> str:
    """Text that may be a string or a list of text blocks."""
    return "\n".join(_text_list(content, where))


def _text_list(content: Any, where: str) -> list[str]:
    texts: list[str] = []
    for block in blocks_of(content, where):
        is_text = block.get("type") == "text"
        texts.append(text_field(block.get("text"), f"{where}[].text") if is_text else shown_text(block, f"{where}[]"))
    return texts


def _read_tools(tools: Any) -> tuple[dict[str, Any], ...]:
    """Anthropic's tools in the OpenAI function form that chat templates expect. Tools of a type of their own, without
    a schema, run at the provider and are left out, so the policy can never call them.
    """
    if not isinstance(tools, list):
        raise invalid("must be a list", "tools")
    found: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        value = object_field(tool, where)
        if "input_schema" not in value and value.get("type") not in (None, "custom"):
            continue
        function = {
            "name": text_field(value.get("name"), f"{where}.name"),
            "description": value.get("description", ""),
            "parameters": object_field(value.get("input_schema"), f"{where}.input_schema"),
        }
        found.append({"type": "function", "function": function})
    return tuple(found)


def _frame(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.id}", "type": "message", "role": "assistant", "model": reply.model}


def _ending(reply: Reply) -> dict[str, Any]:
    reason = _STOP_REASONS[reply.finish_reason]
    if reply.stopped_by is not None and not reply.parsed.tool_calls:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": reply.stopped_by}


def _usage(reply: Reply, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": reply.prompt_tokens - reply.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": reply.cached_tokens,
        "output_tokens": output_tokens,
    }


def _blocks(reply: Reply) -> list[tuple[dict[str, Any], str]]:
    """Content blocks, each with the text that a stream sends piece by piece. A reply without anything is one empty text
    block.
    """
    parsed = reply.parsed
    blocks: list[tuple[dict[str, Any], str]] = []
    if parsed.reasoning:
        thought = {"type": "thinking", "thinking": parsed.reasoning, "signature": _SIGNATURE + reply.id}
        blocks.append((thought, parsed.reasoning))
    if parsed.content or not parsed.tool_calls:
        blocks.append(({"type": "text", "text": parsed.content}, parsed.content))
    for call in parsed.tool_calls:
        arguments = call.parsed()
        # The wire form has no place for malformed arguments: they travel as one string.
        value = arguments if isinstance(arguments, dict) else {"arguments": arguments}
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": value}
        blocks.append((block, orjson.dumps(value).decode()))
    return blocks


def _streamed(block: dict[str, Any], text: str) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """How a block starts in a stream, and its deltas as (type, field, text)."""
    match block["type"]:
        case "thinking":
            start = {**block, "thinking": "", "signature": ""}
            return start, [("thinking_delta", "thinking", text), ("signature_delta", "signature", block["signature"])]
        case "text":
            return {**block, "text": ""}, [("text_delta", "text", text)]
        case _:
            return {**block, "input": {}}, [("input_json_delta", "partial_json", text)]


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **data}) + b"\n\n"
