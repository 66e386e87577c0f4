"""OpenAI responses: ``POST /v1/responses``, streamed and not, as codex speaks it.

The input is a flat list of items; all items of one reply (reasoning, text, calls) are one assistant message here. Only
what a request carries counts: nothing is stored for ``previous_response_id``.
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
    known_role,
    object_field,
    pieces,
    read_choice,
    read_flag,
    read_format,
    read_limit,
    read_model,
    text_field,
)
from runtime.proxy.dialects.blocks import shown_text
from runtime.proxy.dialects.openai import openai_error
from runtime.proxy.dialects.response_tools import (
    CALL_ITEMS,
    Tool,
    call_item,
    found_text,
    found_tools,
    read_call,
    read_tools,
)
from runtime.proxy.messages import Message, Role, ToolCall
from runtime.proxy.refusal import Refusal
from runtime.proxy.volatile import without_volatile

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user"}
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class OpenAIResponses:
    """See https://platform.openai.com/docs/api-reference/responses."""

    name = "responses"
    routes: tuple[Route, ...] = (Route("POST", "/v1/responses", Action.CHAT),)
    messages_field = "input"

    def parse(self, body: dict[str, Any]) -> ChatRequest:
        for name in ("previous_response_id", "conversation", "background", "prompt"):
            if body.get(name):
                raise invalid("is not supported: send the whole input", name)
        text = object_field(body.get("text") or {}, "text")
        read_format(text.get("format") or None, "text.format")
        include = body.get("include")
        asked = isinstance(include, list) and "message.output_text.logprobs" in include
        if asked or body.get("top_logprobs"):
            field = "include" if asked else "top_logprobs"
            raise invalid("log-probabilities are not supported: they stay with the trajectory", field)
        instructions = body.get("instructions") or ""
        system = without_volatile(text_field(instructions, "instructions"))
        sent_tools = body.get("tools") or []
        if not isinstance(sent_tools, list):
            raise invalid("must be a list", "tools")
        wire = _turns(body.get("input"))
        return ChatRequest(
            dialect=self.name,
            model=read_model(body),
            head=(system, sent_tools),
            system=(Message("system", system),) if system else (),
            tools=tuple(tool.function() for tool in read_tools(sent_tools)),
            found_tools=tuple(tool.function() for tool in found_tools(wire)),
            wire=wire,
            normalise=normalise,
            max_tokens=read_limit(body, "max_output_tokens"),
            parse_tools=read_choice(body),
            stream=read_flag(body, "stream"),
        )

    def reply(self, reply: Reply, request: ChatRequest) -> bytes:
        return orjson.dumps(_response(reply, _items(reply, _tools(request)), "completed"))

    def stream(self, reply: Reply, request: ChatRequest) -> bytes:
        items = _items(reply, _tools(request))
        out = _Events()
        opened = _response(reply, [], "in_progress")
        out.add("response.created", {"response": opened})
        out.add("response.in_progress", {"response": opened})
        for index, item in enumerate(items):
            _stream_item(out, index, item)
        final = _response(reply, items, "completed")
        out.add("response.incomplete" if final["incomplete_details"] else "response.completed", {"response": final})
        return b"".join(out.parts)

    def error(self, refusal: Refusal) -> bytes:
        return openai_error(refusal)

    def stream_error(self, refusal: Refusal) -> bytes:
        error = orjson.loads(openai_error(refusal))["error"]
        response = {
            "id": "resp_failed",
            "object": "response",
            "status": "failed",
            "output": [],
            "error": {"code": error["code"] or error["type"], "message": error["message"]},
        }
        out = _Events()
        out.add("response.failed", {"response": response})
        return b"".join(out.parts)


class _Events:
    """Server-sent events under their running number."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._number = 0

    def add(self, kind: str, data: dict[str, Any]) -> None:
        event = orjson.dumps({"type": kind, "sequence_number": self._number, **data})
        self.parts += [b"event: ", kind.encode(), b"\ndata: ", event, b"\n\n"]
        self._number += 1


def _stream_item(out: _Events, index: int, item: dict[str, Any]) -> None:
    at = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "message":
            part = item["content"][0]
            empty = {**part, "text": ""}
            out.add("response.output_item.added", {"output_index": index, "item": {**item, **_OPEN, "content": []}})
            out.add("response.content_part.added", {**at, "content_index": 0, "part": empty})
            for piece in pieces(part["text"]):
                out.add("response.output_text.delta", {**at, "content_index": 0, "delta": piece, "logprobs": []})
            done = {"content_index": 0, "text": part["text"], "logprobs": []}
            out.add("response.output_text.done", {**at, **done})
            out.add("response.content_part.done", {**at, "content_index": 0, "part": part})
        case "reasoning":
            part = item["summary"][0]
            out.add("response.output_item.added", {"output_index": index, "item": {**item, "summary": []}})
            empty = {**part, "text": ""}
            out.add("response.reasoning_summary_part.added", {**at, "summary_index": 0, "part": empty})
            for piece in pieces(part["text"]):
                out.add("response.reasoning_summary_text.delta", {**at, "summary_index": 0, "delta": piece})
            out.add("response.reasoning_summary_text.done", {**at, "summary_index": 0, "text": part["text"]})
            out.add("response.reasoning_summary_part.done", {**at, "summary_index": 0, "part": part})
        case "function_call":
            out.add("response.output_item.added", {"output_index": index, "item": {**item, **_OPEN, "arguments": ""}})
            for piece in pieces(item["arguments"]):
                out.add("response.function_call_arguments.delta", {**at, "delta": piece})
            done = {"arguments": item["arguments"], "name": item["name"]}
            out.add("response.function_call_arguments.done", {**at, **done})
        case "custom_tool_call":
            out.add("response.output_item.added", {"output_index": index, "item": {**item, **_OPEN, "input": ""}})
            for piece in pieces(item["input"]):
                out.add("response.custom_tool_call_input.delta", {**at, "delta": piece})
            out.add("response.custom_tool_call_input.done", {**at, "input": item["input"]})
        case _:
            out.add("response.output_item.added", {"output_index": index, "item": {**item, **_OPEN}})
    out.add("response.output_item.done", {"output_index": index, "item": item})


_OPEN = {"status": "in_progress"}


def normalise(sent: Any) -> tuple[Message, ...]:
    """One item, or the list of items of one reply. Raises ``Refusal`` of kind ``INVALID``."""
    if isinstance(sent, list):
        return (_assistant(sent),)
    item = object_field(sent, "input[]")
    match item.get("type") or ("message" if "role" in item else "item_reference" if "id" in item else "message"):
        case "message":
            role = known_role(item.get("role"), _ROLES, "input[]", more="assistant or one of ")
            text = _text(item.get("content"))
            return (Message(role, without_volatile(text) if role == "system" else text),)
        case "tool_search_output":
            return (Message("tool", found_text(item), (), _call_id(item)),)
        case "function_call_output" | "custom_tool_call_output" | "local_shell_call_output":
            return (Message("tool", _text(item.get("output")), (), _call_id(item)),)
        case "item_reference":
            raise invalid("'item_reference' is not supported: nothing is stored here; send the item", "input[].type")
        case _:
            return (Message("user", shown_text(item, "input[]")),)


def _call_id(item: dict[str, Any]) -> str:
    return text_field(item.get("call_id") or item.get("id") or "", "input[].call_id")


def _turns(value: Any) -> list[Any]:
    """The input with the neighbouring items of one reply gathered into one list."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise invalid("must be a text or a list of at least one item", "input")
    turns: list[Any] = []
    for item in value:
        sent = object_field(item, "input[]")
        if sent.get("type") is not None:
            text_field(sent["type"], "input[].type")
        if not _of_the_reply(sent):
            turns.append(sent)
        elif turns and isinstance(turns[-1], list):
            turns[-1].append(sent)
        else:
            turns.append([sent])
    return turns


def _of_the_reply(item: dict[str, Any]) -> bool:
    kind = item.get("type")
    calls = isinstance(kind, str) and (kind == "reasoning" or kind.endswith("_call"))
    return calls or item.get("role") == "assistant"


def _assistant(items: list[Any]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    origin = ""
    for item in items:
        match item.get("type", "message"):
            case "message":
                texts.append(_text(item.get("content")))
            case "reasoning":
                thoughts.append(_text(item.get("summary")) or _text(item.get("content")))
                identity = item.get("id")
                if isinstance(identity, str) and identity.startswith(_THOUGHT):
                    origin = identity.removeprefix(_THOUGHT)
            case kind if kind in CALL_ITEMS:
                calls.append(read_call(item))
            case _:
                texts.append(shown_text(item, "input[]"))  # what a provider's tool did
    return Message("assistant", "\n".join(texts), tuple(calls), None, "\n".join(thoughts), origin)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in blocks_of(content, "input[].content"):
        kind = part.get("type")
        if kind == "refusal":
            texts.append(text_field(part.get("refusal"), "input[].content[].refusal"))
        elif kind in _TEXTS:
            texts.append(text_field(part.get("text"), "input[].content[].text"))
        else:
            texts.append(shown_text(part, "input[].content[]"))
    return "\n".join(texts)


def _tools(request: ChatRequest) -> dict[str, Tool]:
    """By flat name; of equal names the first."""
    return {tool.flat_name: tool for tool in [*read_tools(request.head[1]), *found_tools(request.wire)][::-1]}


_THOUGHT = "rs_"
"""Before the reply's id in the id of a reasoning item: on echo it says which reply is repeated."""


def _items(reply: Reply, tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """Output items. A reply without anything is one empty message."""
    parsed = reply.parsed
    items: list[dict[str, Any]] = []
    if parsed.reasoning:
        summary = [{"type": "summary_text", "text": parsed.reasoning}]
        thought = {"type": "reasoning", "id": _THOUGHT + reply.id, "summary": summary, "encrypted_content": None}
        items.append(thought)
    status = "incomplete" if reply.finish_reason == "length" else "completed"
    if parsed.content or not parsed.tool_calls:
        part = {"type": "output_text", "text": parsed.content, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": f"msg_{reply.id}", "status": status, "role": "assistant"}
        items.append({**message, "content": [part]})
    for number, call in enumerate(parsed.tool_calls):
        items.append(call_item(call, tools, {"id": f"fc_{reply.id}_{number}", "status": status}))
    return items


def _response(reply: Reply, items: list[dict[str, Any]], status: str) -> dict[str, Any]:
    usage = {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens},
        "output_tokens": reply.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + reply.completion_tokens,
    }
    cut = status == "completed" and reply.finish_reason == "length"
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": reply.created,
        "status": "incomplete" if cut else status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": None,
        "metadata": {},
        "model": reply.model,
        "output": items,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if status == "in_progress" else usage,
    }
